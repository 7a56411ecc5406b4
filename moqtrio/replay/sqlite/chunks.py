"""The bytes of a chunk: the unit that is written, read, checked and cached.

A chunk holds either a run of frames of one group, or many small groups, each whole (a
*pack*). Rows are what costs: every row that SQLite steps over hands the interpreter's lock
back and forth with the event loop, so a thousand groups of 100 bytes must not be a
thousand rows.

Layout, little-endian, arrays without padding::

    u8 version, u8 flags, u32 CRC-32 of all that follows, u32 number of groups
    a pack then has, per group:
        [u64 sequence], unless CONTIGUOUS: they count up from the row's
        [u64 end], if ENDS: 0 for finished, else 1 + the code it was aborted with
        [u32 where its frames stop], from where the first group's start
    and each group, or the run's only one, is
        u8 flags, u32 number of frames, i64 first timestamp,
        [timestamps of the others: nothing if all are EQUAL, i64 if WIDE, else i32 offsets
        from the first], [u32 payload length of all but the last], payloads

The CRC starts from the key the row is filed under, so that a row found in the wrong place
does not pass for the right one.
"""

from __future__ import annotations

import struct
import sys
import zlib
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate

import attrs

from ...model.frame import Frame

CHUNK_BYTES = 65_536
"""Chunks are cut before they exceed this, where a frame lets them."""

FRAME_OVERHEAD = 8
"""Bytes a frame takes in a chunk beside its payload, roughly."""

_VERSION = 1
_HEADER = struct.Struct("<BBII")
_CHECKED_FROM = 6  # the CRC covers what follows it
_GROUP = struct.Struct("<BIq")

_PACK = 1
_CONTIGUOUS = 2
_ENDS = 4

_EQUAL = 1
_WIDE = 2

_KEY = struct.Struct("<qqq")


class DamagedChunk(ValueError):
    """A chunk's bytes are not what was written."""


@attrs.define(slots=True, eq=False)
class PackedGroup:
    """One whole small group on its way into a pack; ``end`` is 0, or 1 + the abort code."""

    sequence: int
    frames: Sequence[Frame]
    end: int


def key_checksum(track: int, sequence: int, first_frame: int) -> int:
    """What the CRC of a chunk filed under this key starts from."""
    return zlib.crc32(_KEY.pack(track, sequence, first_frame))


def encode_run(frames: Sequence[Frame], checksum: int) -> bytearray:
    """Encode frames of one group. Raises struct.error for timestamps beyond 64 bits."""
    pieces: list[bytes] = []
    _add_group(pieces, frames)
    return _assemble(0, 1, pieces, checksum)


def encode_pack(groups: Sequence[PackedGroup], checksum: int) -> bytearray:
    """Encode whole groups, in rising order. Raises struct.error as :func:`encode_run` does."""
    bodies: list[bytes] = []
    stops = list(accumulate(_add_group(bodies, group.frames) for group in groups))
    directory: list[bytes] = []
    flags = _PACK
    if groups[-1].sequence - groups[0].sequence == len(groups) - 1:
        flags |= _CONTIGUOUS
    else:
        directory.append(_to_bytes("Q", [group.sequence for group in groups]))
    if any(group.end for group in groups):
        flags |= _ENDS
        directory.append(_to_bytes("Q", [group.end for group in groups]))
    directory.append(_to_bytes("I", stops))
    return _assemble(flags, len(groups), directory + bodies, checksum)


def open_run(data: bytes, checksum: int) -> FrameRun:
    """Check and open a chunk made by :func:`encode_run`. Raises DamagedChunk."""
    flags, _ = _check(data, checksum)
    if flags & _PACK:
        raise DamagedChunk("it holds whole groups instead of frames of one group")
    return FrameRun(data, _HEADER.size, len(data))


class FrameRun:
    """The frames of one group within a chunk; decoded when they are taken."""

    __slots__ = ("_data", "_payloads", "_position", "_stop", "_times_at", "count")

    def __init__(self, data: bytes, start: int, stop: int) -> None:
        flags, count, _ = _GROUP.unpack_from(data, start)
        self._data = data
        self._position = start
        self._stop = stop
        self.count: int = count
        self._times_at = start + _GROUP.size
        others = max(count - 1, 0)
        width = 0 if flags & _EQUAL else 8 if flags & _WIDE else 4
        self._payloads = self._times_at + others * (width + 4)

    def take(self, index: int, max_bytes: int) -> list[Frame]:
        """Frames from ``index`` on, about ``max_bytes`` of payload, at least one if any."""
        data = self._data
        if self.count == 1:
            if index:
                return []
            _, _, first = _GROUP.unpack_from(data, self._position)
            return [Frame(data[self._payloads : self._stop], first)]
        offsets = self._offsets()
        stop = bisect_right(offsets, offsets[index] + max_bytes) - 1
        stop = min(max(stop, index + 1), self.count)
        window = offsets[index : stop + 1]
        return [
            Frame(data[begin:end], time)
            for begin, end, time in zip(window, window[1:], self._times()[index:stop], strict=False)
        ]

    def _offsets(self) -> list[int]:
        """Where each payload starts, and where the last one stops."""
        others = max(self.count - 1, 0)
        lengths: tuple[int, ...] = struct.unpack_from(
            f"<{others}I", self._data, self._payloads - 4 * others
        )
        offsets = list(accumulate(lengths, initial=self._payloads))
        offsets.append(self._stop)
        return offsets

    def _times(self) -> list[int]:
        flags, count, first = _GROUP.unpack_from(self._data, self._position)
        if flags & _EQUAL:
            return [first] * count
        code = "q" if flags & _WIDE else "i"
        others: Sequence[int] = struct.unpack_from(
            f"<{count - 1}{code}", self._data, self._times_at
        )
        return [first, *others] if flags & _WIDE else [first, *(first + each for each in others)]


class Pack:
    """A chunk of whole groups, found by sequence."""

    __slots__ = ("_data", "_ends", "_groups_at", "_stops", "sequences")

    def __init__(self, data: bytes, first_sequence: int, checksum: int) -> None:
        """Check and open ``data``. Raises DamagedChunk."""
        flags, count = _check(data, checksum)
        if not flags & _PACK or not count:
            raise DamagedChunk("it does not hold whole groups")
        position = _HEADER.size
        self.sequences: Sequence[int]
        if flags & _CONTIGUOUS:
            self.sequences = range(first_sequence, first_sequence + count)
        else:
            self.sequences = _from_bytes("Q", data, position, count)
            position += 8 * count
        self._ends: Sequence[int] | None = None
        if flags & _ENDS:
            self._ends = _from_bytes("Q", data, position, count)
            position += 8 * count
        self._stops = _from_bytes("I", data, position, count)
        self._groups_at = position + 4 * count
        self._data = data

    @property
    def size(self) -> int:
        """The bytes of memory it takes, roughly."""
        return len(self._data) + 16 * len(self._stops)

    def find(self, sequence: int) -> int | None:
        """The index of a group, or None where it is not here."""
        sequences = self.sequences
        index = sequence - sequences[0]
        if not 0 <= index < len(sequences) or sequences[index] != sequence:
            index = bisect_left(sequences, sequence)
            if index == len(sequences) or sequences[index] != sequence:
                return None
        return index

    def next_from(self, sequence: int) -> int | None:
        """The smallest sequence here that is not below ``sequence``."""
        index = bisect_left(self.sequences, sequence)
        return self.sequences[index] if index < len(self.sequences) else None

    def run(self, index: int) -> FrameRun:
        """The frames of the group at ``index``."""
        start = self._stops[index - 1] if index else 0
        base = self._groups_at
        return FrameRun(self._data, base + start, base + self._stops[index])

    def end(self, index: int) -> int:
        """How the group at ``index`` ended: 0, or 1 + the code it was aborted with."""
        return self._ends[index] if self._ends is not None else 0


def _add_group(pieces: list[bytes], frames: Sequence[Frame]) -> int:
    """Append the encoding of ``frames`` to ``pieces``; returns its length."""
    count = len(frames)
    if count == 1:
        frame = frames[0]
        pieces.append(_GROUP.pack(_EQUAL, 1, frame.timestamp_us))
        pieces.append(frame.payload)
        return _GROUP.size + len(frame.payload)
    payloads = [frame.payload for frame in frames]
    times = [frame.timestamp_us for frame in frames]
    lengths = list(map(len, payloads))
    flags, encoded_times = _encode_times(times)
    first = times[0] if times else 0
    head = _GROUP.pack(flags, count, first) + encoded_times + _to_bytes("I", lengths[:-1])
    pieces.append(head)
    pieces += payloads
    return len(head) + sum(lengths)


def _encode_times(times: list[int]) -> tuple[int, bytes]:
    if not times or times.count(times[0]) == len(times):
        return _EQUAL, b""
    first = times[0]
    try:
        return 0, _to_bytes("i", [time - first for time in times[1:]])
    except OverflowError:
        return _WIDE, struct.pack(f"<{len(times) - 1}q", *times[1:])


def _assemble(flags: int, groups: int, pieces: list[bytes], checksum: int) -> bytearray:
    chunk = bytearray().join([_HEADER.pack(_VERSION, flags, 0, groups), *pieces])
    with memoryview(chunk) as view:
        checksum = zlib.crc32(view[_CHECKED_FROM:], checksum)
    # The flags lie before the checksum, and decide how the rest is read.
    _HEADER.pack_into(chunk, 0, _VERSION, flags, checksum ^ flags, groups)
    return chunk


def _check(data: bytes, checksum: int) -> tuple[int, int]:
    """The flags and number of groups of a chunk that is what was written."""
    # A damaged row may hold anything, whatever its column was declared as.
    if type(data) is not bytes or len(data) < _HEADER.size:
        raise DamagedChunk("it is too short to be a chunk")
    version, flags, expected, groups = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise DamagedChunk(f"its version is {version} where {_VERSION} was expected")
    with memoryview(data) as view:
        found = zlib.crc32(view[_CHECKED_FROM:], checksum) ^ flags
    if found != expected:
        raise DamagedChunk(f"its checksum is {found:08x} where {expected:08x} was expected")
    return flags, groups


def _to_bytes(code: str, values: list[int]) -> bytes:
    """Encode integers little-endian. Raises OverflowError where one does not fit."""
    packed = array(code, values)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def _from_bytes(code: str, data: bytes, position: int, count: int) -> array[int]:
    values = array(code)
    values.frombytes(data[position : position + count * values.itemsize])
    if sys.byteorder == "big":
        values.byteswap()
    return values
