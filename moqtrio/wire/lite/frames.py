"""FRAME: the one message there are many of, so the one that is made fast.

On the wire a frame is ``varint zigzag(timestamp - previous), varint length, payload``
(draft-lcurley-moq-lite, "FRAME"), timestamps in units of the track's timescale and the
first of a group relative to 0. Above it timestamps are integer microseconds. Before draft
05 it is ``varint length, payload``; a timescale of None stands for that.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from io import BytesIO
from typing import Final, Generic, NoReturn, Protocol, TypeVar

from ...errors import DecodeError
from ..varint import (
    MAX_VARINT,
    MAX_VARINT_SIZE,
    Buffer,
    decode_zigzag,
    encode_varint,
    try_decode_varint,
)

MICROSECONDS: Final = 1_000_000
"""The timescale of microseconds, for which nothing need be converted."""

DEFAULT_MAX_FRAME_BYTES: Final = 16 * 1024 * 1024

_MAX_HEADER_SIZE: Final = 2 * MAX_VARINT_SIZE
_HALF: Final = MICROSECONDS // 2

FrameT = TypeVar("FrameT")


class FrameLike(Protocol):
    """What :func:`encode_frames` needs to know of a frame."""

    @property
    def payload(self) -> Buffer:
        """The application's bytes."""
        ...

    @property
    def timestamp_us(self) -> int:
        """Microseconds, in ``[0, 2**62)``."""
        ...


def ticks_to_microseconds(ticks: int, timescale: int) -> int:
    """A timestamp of a track in microseconds, rounded to the nearest.

    Ticks survive the way to microseconds and back exactly for every timescale up to
    1,000,000; microseconds survive the way to ticks and back for every timescale from
    1,000,000 up.
    """
    if timescale == MICROSECONDS:
        return ticks
    return (ticks * MICROSECONDS + timescale // 2) // timescale


def microseconds_to_ticks(microseconds: int, timescale: int) -> int:
    """A timestamp in units of a track's timescale, rounded to the nearest; see above."""
    if timescale == MICROSECONDS:
        return microseconds
    return (microseconds * timescale + _HALF) // MICROSECONDS


# A frame's header is two varints. One Struct for each pair of their sizes packs both at
# once; the length codes (RFC 9000 section 16) sit above all value bits.
_FORMATS = ("B", "H", "I", "Q")
_LENGTH_CODES = (0, 0x4000, 0x8000_0000, 0xC000_0000_0000_0000)
_PACK_HEADER = tuple(
    struct.Struct(f">{delta}{size}").pack for delta in _FORMATS for size in _FORMATS
)


def encode_frames(
    frames: Iterable[FrameLike],
    previous_ticks: int = 0,
    timescale: int | None = MICROSECONDS,
    *,
    prefix: Buffer = b"",
) -> tuple[bytes, int]:
    """Frames as they follow one another in a group.

    Args:
        frames: the frames, in order.
        previous_ticks: what the last call returned, 0 for the first frames of a group.
        timescale: the track's units per second; None leaves the timestamps out.
        prefix: goes before them in the same bytes: a group's header, without a copy.

    Returns:
        The bytes, and the timestamp of the last frame in ticks for the next call.

    Raises:
        ValueError: if a timestamp, or its distance from the one before, does not fit the
            wire: 62 bits and 61 bits.
    """
    if timescale is None:
        return _encode_untimed(frames, prefix), 0
    parts: list[Buffer] = [prefix]
    append = parts.append
    scaled = timescale != MICROSECONDS
    for frame in frames:
        payload = frame.payload
        ticks = frame.timestamp_us
        if scaled:
            ticks = (ticks * timescale + _HALF) // MICROSECONDS
        delta = ticks - previous_ticks
        zigzag = delta << 1 if delta >= 0 else ~(delta << 1)
        if ticks >> 62 or zigzag >> 62:  # also true of every negative number
            _refuse_timestamp(ticks, previous_ticks)
        previous_ticks = ticks
        size = len(payload)
        # Which varint size each takes, written out: a call would cost more than it does.
        left = 0 if zigzag < 0x40 else 1 if zigzag < 0x4000 else 2 if zigzag < 0x4000_0000 else 3
        right = 0 if size < 0x40 else 1 if size < 0x4000 else 2 if size < 0x4000_0000 else 3
        pack = _PACK_HEADER[left * 4 + right]
        append(pack(zigzag | _LENGTH_CODES[left], size | _LENGTH_CODES[right]))
        append(payload)
    return b"".join(parts), previous_ticks


def _encode_untimed(frames: Iterable[FrameLike], prefix: Buffer) -> bytes:
    parts: list[Buffer] = [prefix]
    for frame in frames:
        parts.append(encode_varint(len(frame.payload)))
        parts.append(frame.payload)
    return b"".join(parts)


def _refuse_timestamp(ticks: int, previous_ticks: int) -> NoReturn:
    if not 0 <= ticks <= MAX_VARINT:
        raise ValueError(f"expected a timestamp in [0, 2**62) ticks, got {ticks}")
    raise ValueError(f"expected timestamps less than 2**61 apart, got {previous_ticks}, {ticks}")


_unpack_four = struct.Struct(">I").unpack_from
_unpack_eight = struct.Struct(">Q").unpack_from


class FrameDecoder(Generic[FrameT]):
    """Frames out of the bytes of one group, however they are cut.

    The work is linear in the bytes fed, and memory never goes beyond what has arrived:
    a length alone allocates nothing. After an error the decoder is of no use any more;
    every further call raises.

    Args:
        timescale: the track's timestamp units per second; None for frames without
            timestamps.
        make_frame: called with payload and timestamp in microseconds for each frame (0 where
            it has none); what it returns is what :meth:`feed` hands out.
        max_frame_bytes: a frame that says it is longer is an error at once.
    """

    __slots__ = (
        "_at_boundary",
        "_error",
        "_fed",
        "_head",
        "_make_frame",
        "_max_frame_bytes",
        "_missing",
        "_payload",
        "_ticks",
        "_timed",
        "_timescale",
        "_timestamp",
    )

    def __init__(
        self,
        timescale: int | None,
        make_frame: Callable[[bytes, int], FrameT],
        max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES,
    ) -> None:
        if timescale is not None and timescale < 1:
            raise ValueError(f"expected a timescale of at least 1, got {timescale}")
        self._timescale = MICROSECONDS if timescale is None else timescale
        self._timed = timescale is not None
        self._make_frame = make_frame
        self._max_frame_bytes = max_frame_bytes
        self._fed = 0
        self._ticks = 0
        self._error: str | None = None
        # Between two feeds the decoder is at the boundary of two frames, or it holds the
        # first bytes of a header, or (then _payload is set) those of a payload.
        self._at_boundary = True
        self._head = b""
        self._payload: BytesIO | None = None
        self._missing = 0
        self._timestamp = 0

    def feed(self, data: Buffer, start: int = 0) -> list[FrameT]:
        """The frames that ``data``, from ``start`` on, completes.

        Raises:
            DecodeError: if a frame is too long or its timestamp is out of range; frames
                completed before it by the same data are lost with it.
        """
        # Slices of bytes are payloads as they are; one copy here is cheaper than one
        # conversion for each frame.
        if type(data) is not bytes:
            data = bytes(data)
        frames: list[FrameT] = []
        offset = start
        end = len(data)
        if not self._timed:
            return self._feed_untimed(data, start)
        if not self._at_boundary:
            offset = self._resume(data, start, frames)
            if offset == end:
                self._fed += end - start
                return frames
        make_frame = self._make_frame
        max_frame_bytes = self._max_frame_bytes
        timescale = self._timescale
        scaled = timescale != MICROSECONDS
        ticks = self._ticks
        while offset < end:
            frame_at = offset
            try:  # two varints, unrolled: calls would take longer than all the rest
                first = data[offset]
                if first < 0x40:
                    offset += 1
                elif first < 0x80:
                    first = (first & 0x3F) << 8 | data[offset + 1]
                    offset += 2
                elif first < 0xC0:
                    first = _unpack_four(data, offset)[0] & 0x3FFF_FFFF
                    offset += 4
                else:
                    first = _unpack_eight(data, offset)[0] & MAX_VARINT
                    offset += 8
                size = data[offset]
                if size < 0x40:
                    offset += 1
                elif size < 0x80:
                    size = (size & 0x3F) << 8 | data[offset + 1]
                    offset += 2
                elif size < 0xC0:
                    size = _unpack_four(data, offset)[0] & 0x3FFF_FFFF
                    offset += 4
                else:
                    size = _unpack_eight(data, offset)[0] & MAX_VARINT
                    offset += 8
            except (IndexError, struct.error):
                self._head = data[frame_at:]
                self._at_boundary = False
                break
            if first & 1:  # zigzag
                ticks -= (first + 1) >> 1
            else:
                ticks += first >> 1
            timestamp = ticks
            if scaled:
                timestamp = (ticks * MICROSECONDS + timescale // 2) // timescale
            # A shift tells both ends of the range at once: it is not 0 for negatives too.
            if ticks >> 62 or size > max_frame_bytes or (scaled and timestamp >> 62):
                self._refuse(ticks, size, self._fed + frame_at - start)
            payload_at = offset
            offset += size
            if offset > end:
                self._begin_payload(data[payload_at:], offset - end, timestamp)
                break
            frames.append(make_frame(data[payload_at:offset], timestamp))
        self._ticks = ticks
        self._fed += end - start
        return frames

    def _feed_untimed(self, data: bytes, offset: int) -> list[FrameT]:
        frames: list[FrameT] = []
        end = len(data)
        while offset < end:
            self._at_boundary = False
            after = self._resume(data, offset, frames)
            self._fed += after - offset
            offset = after
        return frames

    def finish(self) -> None:
        """The stream has ended.

        Raises:
            DecodeError: if it ended inside a frame.
        """
        if self._error is not None:
            raise DecodeError(self._error)
        if self._at_boundary:
            return
        if self._payload is None:
            expected, got = "the rest of a frame's header", len(self._head)
        else:
            expected, got = f"{self._missing} more bytes of a frame", self._payload.tell()
        raise DecodeError(
            f"expected {expected}, got the end of the stream after {got} bytes of it",
            offset=self._fed,
        )

    def _resume(self, data: bytes, offset: int, frames: list[FrameT]) -> int:
        """Go on inside a frame; where in ``data`` the first byte after it is."""
        if self._error is not None:
            raise DecodeError(self._error)
        if self._payload is None:
            taken = self._resume_header(data, offset)
            if taken is None:
                return len(data)
            offset = taken
        payload = self._payload
        assert payload is not None
        available = len(data) - offset
        if available < self._missing:
            payload.write(memoryview(data)[offset:] if offset else data)
            self._missing -= available
            return len(data)
        end = offset + self._missing
        payload.write(memoryview(data)[offset:end])
        self._payload = None
        self._at_boundary = True
        frames.append(self._make_frame(payload.getvalue(), self._timestamp))
        return end

    def _resume_header(self, data: bytes, offset: int) -> int | None:
        """Go on inside a header; where in ``data`` its payload begins, None if not in it."""
        head = self._head + data[offset : offset + _MAX_HEADER_SIZE]
        decoded = _try_decode_header(head, self._timed)
        if decoded is None:
            self._head = head  # all of data is in it: 16 bytes would have been enough
            return None
        zigzag, size, header_size = decoded
        ticks = self._ticks + decode_zigzag(zigzag)
        timestamp = ticks_to_microseconds(ticks, self._timescale)
        if ticks >> 62 or timestamp >> 62 or size > self._max_frame_bytes:
            self._refuse(ticks, size, self._fed - len(self._head))
        payload_at = offset + header_size - len(self._head)
        self._ticks = ticks
        self._head = b""
        self._begin_payload(b"", size, timestamp)
        return payload_at

    def _begin_payload(self, received: bytes, missing: int, timestamp: int) -> None:
        # BytesIO grows by a factor and hands its buffer over without a copy, so however
        # small the pieces, each byte is copied a bounded number of times.
        self._payload = BytesIO()
        self._payload.write(received)
        self._missing = missing
        self._timestamp = timestamp
        self._at_boundary = False

    def _refuse(self, ticks: int, size: int, frame_at: int) -> NoReturn:
        if size > self._max_frame_bytes:
            problem = f"expected a frame of at most {self._max_frame_bytes} bytes, got {size}"
        else:
            problem = (
                "expected a timestamp in [0, 2**62) ticks and microseconds, got "
                f"{ticks} ticks of 1/{self._timescale} s"
            )
        error = DecodeError(problem, offset=frame_at)
        self._error = str(error)
        self._at_boundary = False
        raise error


def _try_decode_header(data: bytes, timed: bool) -> tuple[int, int, int] | None:
    """A frame's zigzag delta, its length, and the header's size; None if more is needed."""
    delta = try_decode_varint(data) if timed else (0, 0)
    if delta is None:
        return None
    size = try_decode_varint(data, delta[1])
    if size is None:
        return None
    return delta[0], *size
