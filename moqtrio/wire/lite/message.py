"""What the messages of moq-lite have in common: a length before a body, and units."""

from __future__ import annotations

import abc
from typing import Self

from ..buffer import Reader, Writer
from ..varint import MAX_VARINT, Buffer, encode_varint


class Message(abc.ABC):
    """One message: a varint length and a body of that many bytes.

    Attributes are in moqtrio's units whatever the wire has: durations are seconds as
    floats, ranges are half-open ``[start, end)``, and None says that a field is absent.
    """

    __slots__ = ()

    def encode(self) -> bytes:
        """The whole message as it goes on the wire.

        Raises:
            ValueError: if an attribute holds what the wire cannot carry.
        """
        body = self.encode_body()
        return encode_varint(len(body)) + body

    def encode_body(self) -> bytes:
        """The message without its length; raises as :meth:`encode` does."""
        writer = Writer()
        self._write(writer)
        return writer.getvalue()

    @classmethod
    def decode(cls, body: Reader | Buffer) -> Self:
        """The message that ``body``, all of it, is.

        Args:
            body: the bytes after the length, as many as the length says.

        Raises:
            DecodeError: if it is too short, too long, or holds what it must not.
        """
        reader = body if isinstance(body, Reader) else Reader(body)
        message = cls._read(reader)
        reader.finish()
        return message

    @abc.abstractmethod
    def _write(self, writer: Writer) -> None:
        """Write the body."""

    @classmethod
    @abc.abstractmethod
    def _read(cls, reader: Reader) -> Self:
        """Read the body; what is left over is :meth:`decode`'s to refuse."""


def write_seconds(writer: Writer, seconds: float) -> None:
    """A duration as whole milliseconds; one longer than the wire can say (or infinite) is capped.

    Raises:
        ValueError: if it is negative or not a number.
    """
    if not seconds >= 0:
        raise ValueError(f"expected a duration of 0 seconds or more, got {seconds}")
    milliseconds = seconds * 1000
    writer.varint(MAX_VARINT if milliseconds >= MAX_VARINT else round(milliseconds))


def read_seconds(reader: Reader, what: str) -> float:
    """A duration in seconds from whole milliseconds (beyond 285,000 years to the nearest float)."""
    return reader.varint(f"{what} in milliseconds") / 1000


def check_range(start: int | None, end: int | None) -> None:
    """Raise ValueError unless ``[start, end)`` is a range; None is an open side."""
    if end is not None and (end < 1 or (start is not None and start > end)):
        raise ValueError(f"expected group start <= end and end >= 1, got {start} and {end}")
