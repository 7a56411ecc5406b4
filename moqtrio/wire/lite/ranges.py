"""Ranges of groups, and since draft 06 of frames within them, in messages."""

from __future__ import annotations

from ..buffer import Reader, Writer


def check_range(start: int | None, end: int | None) -> None:
    """Raise ValueError unless ``[start, end)`` is a range of groups; None is an open side."""
    if end is not None and (end < 1 or (start is not None and start > end)):
        raise ValueError(f"expected group start <= end and end >= 1, got {start} and {end}")


def read_end(reader: Reader, what: str, start: int) -> int | None:
    """The end of a range, where 0 is none; DecodeError where it comes before ``start``."""
    at = reader.offset
    end = reader.varint(what) or None
    if end is not None and end < start:
        raise reader.error(f"{what} to be 0 or at least {start}", end, offset=at)
    return end


def write_frame_range(writer: Writer, start: int, end: int | None) -> None:
    """The frames ``[start, end)``, at least one; None is all that follow.

    Raises:
        ValueError: if it is empty, or a number does not fit.
    """
    if end is not None and start >= end:
        raise ValueError(f"expected frame start < end, got [{start}, {end})")
    writer.varint(start)
    writer.varint(end or 0)


def read_frame_range(reader: Reader) -> tuple[int, int | None]:
    """What :func:`write_frame_range` writes; DecodeError for a range without frames."""
    start = reader.varint("the frame start")
    return start, read_end(reader, "the frame end", start + 1)


def refuse_frame_range(start: int, end: int | None, draft: int) -> None:
    """Raise ValueError for frames that are not all frames: drafts before 06 cannot say which."""
    if start or end is not None:
        raise ValueError(
            f"expected all frames, for moq-lite-{draft:02} has no frame ranges, "
            f"got [{start}, {end})"
        )
