"""From a sealed slice to the bytes of an object, a piece at a time.

Everything here blocks, and belongs in a worker thread. Chunks go as they are, with the
checksums they were recorded with: nothing between recording and reading them back can
change a byte without being noticed.
"""

from __future__ import annotations

import heapq
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import attrs

from ...errors import ReplayError
from ..sqlite.errors import store_error
from ..sqlite.keys import find_loss
from ..sqlite.records import SliceFile
from ..sqlite.schema import connect_reader
from .layout import (
    MAGIC,
    NO_TIME,
    ChunkRecord,
    PackRecord,
    PartRecord,
    TrackIndexWriter,
    encode_directory,
)

_PACKS = (
    "SELECT first_sequence, last_sequence, groups, frames, bytes, first_us, last_us, recorded"
    " FROM pack WHERE track=? AND first_sequence>? ORDER BY first_sequence LIMIT ?"
)
_PARTS = (
    "SELECT sequence, first_frame, frames, bytes, ending, first_us, last_us, recorded"
    " FROM part WHERE track=? AND sequence>? ORDER BY sequence LIMIT ?"
)
_PACK_DATA = "SELECT data FROM pack WHERE track=? AND first_sequence=?"
_CHUNKS = (
    "SELECT first_frame, data FROM chunk WHERE track=? AND sequence=? AND first_frame>?"
    " ORDER BY first_frame LIMIT ?"
)
_PAGE = 256
_CHUNK_PAGE = 8


@attrs.frozen
class TrackName:
    """A track of a slice, for whoever finds the object without its manifest."""

    broadcast: str
    name: str
    epoch: int


class ObjectWriter:
    """Makes one object from one slice; ``pieces`` are its bytes.

    ``size`` and ``directory_at`` are known once all pieces have been taken.
    """

    def __init__(self, file: SliceFile, tracks: Mapping[int, TrackName]) -> None:
        self.size: int = 0
        self.directory_at: int = 0
        self._file = file
        self._tracks = tracks

    def pieces(self) -> Iterator[bytes]:
        """Raises ReplayError: not retryable where the slice is damaged."""
        try:
            with closing(connect_reader(self._file)) as connection:
                # In a damaged slice groups may be hidden, and would seem not to exist.
                contents = self._file.contents
                loss = None if contents is None else find_loss(connection, self._file, contents)
                if loss is not None:
                    raise ReplayError(loss, retryable=False)
                yield from self._pieces(_SliceReader(connection))
        except (sqlite3.Error, TypeError) as error:
            raise store_error(error, self._file.path) from error

    def _pieces(self, reader: _SliceReader) -> Iterator[bytes]:
        yield self._note(MAGIC)
        indexes = []
        for key, track in sorted(self._tracks.items()):
            index = TrackIndexWriter(key, track.broadcast, track.name, track.epoch)
            for data in self._track_pieces(reader, key, index):
                yield self._note(data)
            index.data_end = self.size
            indexes.append(index)
        entries = []
        for index in indexes:
            blocks, entry = index.blocks(self.size)
            entries.append(entry)
            for block in blocks:
                yield self._note(block)
        self.directory_at = self.size
        yield self._note(encode_directory(entries, self.directory_at))

    def _track_pieces(
        self, reader: _SliceReader, key: int, index: TrackIndexWriter
    ) -> Iterator[bytes]:
        rows: Iterator[PackRecord | PartRecord]
        rows = heapq.merge(reader.packs(key), reader.parts(key), key=_sequence)
        for row in rows:
            if isinstance(row, PackRecord):
                data = reader.pack_data(key, row.first)
                index.add(row._replace(offset=self.size, length=len(data)))
                yield data
                continue
            index.add(row)
            for frame, data in reader.chunks(key, row.sequence):
                index.add(ChunkRecord(row.sequence, frame, self.size, len(data)))
                yield data

    def _note(self, data: bytes) -> bytes:
        self.size += len(data)
        return data


class _SliceReader:
    """The rows of a slice in order, some at a time."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def packs(self, track: int) -> Iterator[PackRecord]:
        for first, last, *counted, low, high, recorded in self._pages(_PACKS, _PAGE, track):
            yield PackRecord._make((first, last, 0, 0, *counted, *_times(low, high, recorded)))

    def parts(self, track: int) -> Iterator[PartRecord]:
        for *row, low, high, recorded in self._pages(_PARTS, _PAGE, track):
            yield PartRecord._make((*row, *_times(low, high, recorded)))

    def pack_data(self, track: int, first: int) -> bytes:
        ((data,),) = self._connection.execute(_PACK_DATA, (track, first)).fetchall()
        return bytes(data)

    def chunks(self, track: int, sequence: int) -> Iterator[tuple[int, bytes]]:
        for frame, data in self._pages(_CHUNKS, _CHUNK_PAGE, track, sequence):
            yield frame, bytes(data)

    def _pages(self, statement: str, limit: int, *parameters: int) -> Iterator[Sequence[Any]]:
        after = -1
        while rows := self._connection.execute(statement, (*parameters, after, limit)).fetchall():
            yield from rows
            after = rows[-1][0]


def _sequence(record: PackRecord | PartRecord) -> int:
    return record[0]


def _times(low: int | None, high: int | None, recorded: float) -> tuple[int, int, int]:
    return (
        NO_TIME if low is None else low,
        NO_TIME if high is None else high,
        int(recorded * 1_000_000),
    )
