"""The bytes of an object: the unit of the cold tier, written once and never changed.

An object holds what one sealed slice held::

    magic
    chunks, as the slice had them: by track, and within it in order of sequence, so that
        what is read together lies together
    blocks of the index
    the directory, as JSON
    trailer: where the directory begins, how long it is, its CRC-32, version, magic

The index of a track is three tables of fixed records, sorted: its packs, its parts (what
the slice has of any other group) and the chunks of those. A table is cut into blocks, and
the directory says of each block where it is, what it begins with and its CRC-32. So whoever
looks for one group reads the directory and one or two blocks, however many groups there are.

Nothing here does any I/O.
"""

from __future__ import annotations

import json
import struct
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import attrs

from ..sqlite.chunks import DamagedChunk

MAGIC = b"moqtrio\n"
VERSION = 1
BLOCK_RECORDS = 512
NO_TIME = -(2**63)
"""Stands for no timestamp, where there are no frames."""

_TRAILER = struct.Struct("<QQII8s")
TRAILER_BYTES: int = _TRAILER.size


class PackRecord(NamedTuple):
    """A chunk of whole groups. Times are microseconds; ``recorded_us`` is the store's clock."""

    first: int
    last: int
    offset: int
    length: int
    groups: int
    frames: int
    bytes: int
    first_us: int
    last_us: int
    recorded_us: int


class PartRecord(NamedTuple):
    """What the slice has of a group that is in no pack: see :class:`~..sqlite.records.Part`."""

    sequence: int
    first_frame: int
    frames: int
    bytes: int
    ending: int
    first_us: int
    last_us: int
    recorded_us: int


class ChunkRecord(NamedTuple):
    """A run of frames of one part."""

    sequence: int
    first_frame: int
    offset: int
    length: int


Record = PackRecord | PartRecord | ChunkRecord
Key = tuple[int, int]

_KINDS: dict[str, Callable[..., Any]] = {
    "packs": PackRecord._make,
    "parts": PartRecord._make,
    "chunks": ChunkRecord._make,
}
_STRUCTS = {
    "packs": struct.Struct(f"<{len(PackRecord._fields)}q"),
    "parts": struct.Struct(f"<{len(PartRecord._fields)}q"),
    "chunks": struct.Struct(f"<{len(ChunkRecord._fields)}q"),
}


@attrs.frozen
class Block:
    """One block of a table: where it is, how many records, and what they must add up to."""

    kind: str
    offset: int
    count: int
    checksum: int

    @property
    def end(self) -> int:
        """Where it ends."""
        return self.offset + self.count * _STRUCTS[self.kind].size

    def decode(self, data: bytes) -> list[Any]:
        """Its records. Raises DamagedChunk."""
        if len(data) != self.end - self.offset or zlib.crc32(data) != self.checksum:
            raise DamagedChunk(f"the block of its index at byte {self.offset} fails its checksum")
        return list(map(_KINDS[self.kind], _STRUCTS[self.kind].iter_unpack(data)))


FetchBlock = Callable[[Block], Sequence[Any]]


@attrs.frozen
class Table:
    """A sorted table in blocks. Records are compared by their first two fields."""

    blocks: Sequence[Block]
    keys: Sequence[Key]

    def records(self, fetch: FetchBlock, start: Key, end: Key) -> Iterator[Any]:
        """The records with a key in ``[start, end)``, in order."""
        first = max(bisect_right(self.keys, start) - 1, 0)
        for block in islice(self.blocks, first, bisect_left(self.keys, end)):
            records = fetch(block)
            low = bisect_left(records, start, key=_key)
            yield from records[low : bisect_left(records, end, key=_key)]

    def before(self, fetch: FetchBlock, key: Key) -> Any:
        """The last record with a lower key, or None."""
        index = bisect_left(self.keys, key) - 1
        if index < 0:
            return None
        records = fetch(self.blocks[index])
        return records[bisect_left(records, key, key=_key) - 1]


@attrs.frozen
class TrackIndex:
    """Where to find the groups of one track. ``data_end`` is where its chunks end."""

    packs: Table
    parts: Table
    chunks: Table
    data_end: int


@attrs.frozen
class Directory:
    """What is in an object, by the number that the track had in its slice."""

    tracks: dict[int, TrackIndex]
    size: int


def _key(record: Sequence[int]) -> Key:
    return (record[0], record[1])


class TrackIndexWriter:
    """Collects the records of one track, to be written once its chunks have been."""

    def __init__(self, key: int, broadcast: str, name: str, epoch: int) -> None:
        self._head = {"key": key, "broadcast": broadcast, "name": name, "epoch": epoch}
        self._records = {kind: bytearray() for kind in _KINDS}
        self.data_end: int = 0

    def add(self, record: Record) -> None:
        """Add a record; those of one kind come in order."""
        kind = _KIND_OF[type(record)]
        self._records[kind] += _STRUCTS[kind].pack(*record)

    def blocks(self, offset: int) -> tuple[list[bytes], dict[str, Any]]:
        """The blocks, to be written at ``offset``, and the track's entry in the directory."""
        pieces: list[bytes] = []
        entry: dict[str, Any] = {**self._head, "data_end": self.data_end}
        for kind, data in self._records.items():
            size = _STRUCTS[kind].size
            refs = entry[kind] = []
            for start in range(0, len(data), size * BLOCK_RECORDS):
                piece = bytes(data[start : start + size * BLOCK_RECORDS])
                first = _STRUCTS[kind].unpack_from(piece)
                refs.append([first[0], first[1], offset, len(piece) // size, zlib.crc32(piece)])
                pieces.append(piece)
                offset += len(piece)
        return pieces, entry


_KIND_OF = {PackRecord: "packs", PartRecord: "parts", ChunkRecord: "chunks"}


def encode_directory(entries: Sequence[dict[str, Any]], offset: int) -> bytes:
    """The directory, to be written at ``offset``, and the trailer."""
    directory = json.dumps({"tracks": entries}, separators=(",", ":")).encode()
    checksum = zlib.crc32(directory)
    return directory + _TRAILER.pack(offset, len(directory), checksum, VERSION, MAGIC)


def decode_directory(data: bytes, offset: int) -> Directory:
    """Read what :func:`encode_directory` wrote at ``offset``. Raises DamagedChunk."""
    if len(data) < TRAILER_BYTES:
        raise DamagedChunk("it is too short to have an index")
    found_offset, length, checksum, version, magic = _TRAILER.unpack(data[-TRAILER_BYTES:])
    if magic != MAGIC:
        raise DamagedChunk("it does not end as an object of moqtrio does")
    if version != VERSION:
        raise DamagedChunk(f"its version is {version} where {VERSION} was expected")
    directory = data[:-TRAILER_BYTES]
    if (found_offset, length) != (offset, len(directory)) or zlib.crc32(directory) != checksum:
        raise DamagedChunk("its directory fails its checksum")
    tracks = {entry["key"]: _decode_track(entry) for entry in json.loads(directory)["tracks"]}
    return Directory(tracks, len(directory))


def _decode_track(entry: dict[str, Any]) -> TrackIndex:
    tables = {
        kind: Table(
            [Block(kind, *ref[2:]) for ref in entry[kind]],
            [(ref[0], ref[1]) for ref in entry[kind]],
        )
        for kind in _KINDS
    }
    return TrackIndex(tables["packs"], tables["parts"], tables["chunks"], entry["data_end"])
