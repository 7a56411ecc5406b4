"""Checking one slice: every row of it is read, and held against all others.

Everything here blocks, and belongs in a worker thread. A slice may be written to meanwhile:
rows are read a few at a time, each statement by itself, so that its sealing never waits.
"""

from __future__ import annotations

import heapq
import sqlite3
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import attrgetter
from typing import Any, Protocol

import attrs

from .chunks import DamagedChunk, FrameRun, Pack, key_checksum, open_run
from .errors import describe_briefly, is_damage, store_error
from .keys import is_as_noted
from .records import OPEN, Content, Part, SliceFile, Totals
from .schema import file_bytes, part_checksum

_KEYS = 256  # rows of keys fetched at a time
_TAKE_BYTES = 1024 * 1024
_MESSAGES = 10  # of SQLite's own, at most
# SQLite checks a file in one go, and while one that is being written is read, its sealing
# waits: for five seconds at most.
_LARGEST_ACTIVE = 512 * 1024 * 1024
_ABSENT = "they are not there"
_TABLES = ("pack", "part", "chunk")

_PACKS = (
    "SELECT first_sequence, last_sequence, groups, frames, bytes, first_us, last_us FROM pack"
    " WHERE track=? AND first_sequence>=? ORDER BY first_sequence LIMIT ?"
)
_PACK_DATA = "SELECT data FROM pack WHERE track=? AND first_sequence=?"
_PARTS = (
    "SELECT sequence, first_frame, frames, bytes, first_us, last_us, ending, checksum FROM part"
    " WHERE track=? AND sequence>=? ORDER BY sequence LIMIT ?"
)
_CHUNKS = (
    "SELECT first_frame FROM chunk WHERE track=? AND sequence=? AND first_frame>=?"
    " ORDER BY first_frame LIMIT ?"
)
_CHUNK_DATA = "SELECT data FROM chunk WHERE track=? AND sequence=? AND first_frame=?"

_UNREADABLE = (sqlite3.Error, DamagedChunk, struct.error, ValueError, IndexError)


class Report(Protocol):
    """Told what is wrong, and where, as :class:`~.findings.Problem` has it."""

    def __call__(
        self,
        detail: str,
        track: int | None = None,
        *,
        start: int | None = None,
        end: int | None = None,
        first_frame: int | None = None,
        end_frame: int | None = None,
    ) -> None: ...


@attrs.define(slots=True, eq=False)
class _PackRow:
    sequence: int
    last: int
    groups: int
    totals: Totals


@attrs.define(slots=True, eq=False)
class _PartRow:
    sequence: int
    part: Part
    checksum: object


class Joins:
    """How far each group has come that goes on in a later slice, or may.

    Attributes:
        blind: whether a slice before this one is gone or damaged, so that groups may well
            go on here whose beginning nobody has seen.
    """

    def __init__(self) -> None:
        self.blind: bool = False
        self._ends: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def lose(self) -> None:
        """The next slice cannot be read, or is no longer there."""
        self.blind = True
        self._ends.clear()

    def forget(self, track: int, sequence: int) -> None:
        """What the next slice has of a group cannot be told."""
        self.blind = True
        self._ends.pop((track, sequence), None)

    def __contains__(self, key: tuple[int, int]) -> bool:
        return key in self._ends

    def add(self, track: int, sequence: int, part: Part) -> str | None:
        """Take in what the next slice has of a group; returns what is wrong with that."""
        key = (track, sequence)
        reached = self._ends.pop(key, None)
        if part.ending == OPEN:
            self._ends[key] = part.end_frame
        if reached is not None and reached != part.first_frame:
            return f"goes on with frame {part.first_frame}, and earlier files end before {reached}"
        if reached is None and part.first_frame and not self.blind:
            return f"goes on with frame {part.first_frame}, and no earlier file has its beginning"
        return None


class SliceExaminer:
    """Reads one slice.

    Args:
        file: the slice.
        connection: to it.
        expected: what the catalog says is in it.
        joins: of the slices before it.
        report: told of everything that is wrong.
        advance: told how many bytes were read; what it raises ends the reading.

    Attributes:
        contents, continuations: what was found, as the catalog has it.
        ambiguous: tracks with groups that go on here without having had a frame before:
            whether they count as beginning here depends on how the slice was sealed.
    """

    def __init__(
        self,
        file: SliceFile,
        connection: sqlite3.Connection,
        expected: Mapping[int, Content],
        joins: Joins,
        report: Report,
        advance: Callable[[int], None],
    ) -> None:
        self.contents: dict[int, Content] = {}
        self.continuations: dict[tuple[int, int], int] = {}
        self.ambiguous: set[int] = set()
        self._expected = expected
        self._file = file
        self._connection = connection
        self._joins = joins
        self._report = report
        self._advance = advance

    def check_database(self) -> None:
        """Have SQLite look for damage to its own structures. Raises ReplayError."""
        if not self._file.immutable and file_bytes(self._file.path) > _LARGEST_ACTIVE:
            return
        try:
            for (message,) in self._query(f"PRAGMA quick_check({_MESSAGES})"):
                if message != "ok":
                    self._report(f"SQLite finds {' '.join(str(message).split())}")
        except sqlite3.Error as error:
            self._report(self._describe(error))

    def check_keys(self) -> None:
        """See that no row is gone or filed elsewhere. Raises sqlite3.Error."""
        if self._file.immutable and not is_as_noted(self._connection):
            self._report("its rows are not those that were noted when it was sealed")

    def find_tracks(self) -> list[int]:
        """The numbers of the tracks that have rows here, or should. Raises ReplayError."""
        tracks = set(self._expected)
        try:
            for table in _TABLES:
                tracks.update(self._find_tracks(table))
        except sqlite3.Error as error:
            self._report(self._describe(error))
        return sorted(tracks)

    def check_track(self, track: int) -> None:
        """Read everything that is here of one track. Raises ReplayError."""
        streams = (self._packs(track), self._parts(track))
        rows: Iterable[_PackRow | _PartRow] = heapq.merge(*streams, key=attrgetter("sequence"))
        pack: Pack | None = None
        chunks = 0
        for row in rows:
            if isinstance(row, _PackRow):
                pack = self._check_pack(track, row)
            else:
                if pack is not None and pack.find(row.sequence) is not None:
                    self._tell(track, row.sequence, "it is here twice")
                chunks += self._check_part(track, row)
        if self._file.immutable:
            self._check_chunk_count(track, chunks)

    def _find_tracks(self, table: str) -> Iterator[int]:
        track = -1
        while True:
            ((found,),) = self._query(f"SELECT min(track) FROM {table} WHERE track>?", track)
            if not isinstance(found, int):
                return
            yield found
            track = found

    def _packs(self, track: int) -> Iterator[_PackRow]:
        end = 0
        for first, last, groups, *totals in self._rows(track, _PACKS):
            if first < end:
                self._tell(track, first, "it lies among the groups of the row before")
            end = last + 1
            yield _PackRow(first, last, groups, Totals(*totals))

    def _parts(self, track: int) -> Iterator[_PartRow]:
        for sequence, first_frame, *totals, ending, checksum in self._rows(track, _PARTS):
            part = Part(self._file.number, first_frame, Totals(*totals), ending)
            yield _PartRow(sequence, part, checksum)

    def _rows(self, track: int, statement: str) -> Iterator[Any]:
        """All rows of a track; where they cannot be read, that is told."""
        start = 0
        expected = self._expected.get(track, Content())
        try:
            while rows := self._query(statement, track, start, _KEYS):
                for row in rows:
                    if not all(isinstance(value, int | None) for value in row):
                        self._tell(track, start, "a row holds no numbers", end=None)
                        self._joins.lose()
                        continue
                    yield row
                start = rows[-1][0] + 1
        except (sqlite3.Error, TypeError) as error:
            start = max(start, expected.first or 0)
            end = None if expected.last is None else max(expected.last, start) + 1
            self._tell(track, start, self._describe(error), end=end)
            self._joins.lose()

    def _check_pack(self, track: int, row: _PackRow) -> Pack | None:
        first, end = row.sequence, row.last + 1
        try:
            data = self._data(_PACK_DATA, track, first)
            pack = Pack(data, first, key_checksum(track, first, 0))
            found = _count_pack(pack)
        except _UNREADABLE as error:
            detail = f"{self._describe(error)} ({row.groups} groups share a row)"
            self._tell(track, first, detail, end=end)
            return None
        expected = _PackRow(pack.sequences[0], pack.sequences[-1], len(pack.sequences), found)
        if attrs.astuple(expected) != attrs.astuple(row):
            self._tell(track, first, "the row's own counts are not those of its groups", end=end)
        content = self.contents.setdefault(track, Content())
        content.add_heads(first, pack.sequences[-1], len(pack.sequences))
        content.totals.add(found)
        self._advance(len(data))
        return pack

    def _check_part(self, track: int, row: _PartRow) -> int:
        """Returns how many chunks belong to it."""
        part, sequence = row.part, row.sequence
        try:
            checksum = part_checksum(track, sequence, part)
        except struct.error:
            checksum = None
        if checksum != row.checksum:
            self._tell(track, sequence, "its entry fails its checksum")
            self._joins.forget(track, sequence)
            return self._count_chunks(track, sequence)
        content = self.contents.setdefault(track, Content())
        if part.first_frame:
            self.continuations[track, sequence] = part.first_frame
        else:
            content.add_heads(sequence, sequence, 1)
            if (track, sequence) in self._joins:
                self.ambiguous.add(track)
        content.totals.add(part.totals)
        wrong = self._joins.add(track, sequence, part)
        if wrong is not None:
            self._tell(track, sequence, wrong)
        return self._check_chunks(track, sequence, part)

    def _check_chunks(self, track: int, sequence: int, part: Part) -> int:
        found = Totals()
        chunks, expected, whole = 0, part.first_frame, True
        for frame, following in self._chunk_keys(track, sequence, part):
            chunks += 1
            if frame > expected:
                self._tell(track, sequence, _ABSENT, first_frame=expected, end_frame=frame)
                whole = False
            try:
                data = self._data(_CHUNK_DATA, track, sequence, frame)
                run = open_run(data, key_checksum(track, sequence, frame))
                _count_run(run, found)
            except _UNREADABLE as error:
                detail = self._describe(error)
                self._tell(track, sequence, detail, first_frame=frame, end_frame=following)
                expected, whole = following, False
                continue
            expected = frame + run.count
            self._advance(len(data))
        if expected < part.end_frame:
            self._tell(track, sequence, _ABSENT, first_frame=expected, end_frame=part.end_frame)
        elif whole and found != part.totals:
            self._tell(track, sequence, "the entry's own counts are not those of its frames")
        return chunks

    def _chunk_keys(self, track: int, sequence: int, part: Part) -> Iterator[tuple[int, int]]:
        """Each chunk's first frame, and where the next one starts or the part ends."""
        before: int | None = None
        start, end = part.first_frame, part.end_frame
        try:
            while rows := self._query(_CHUNKS, track, sequence, start, _KEYS):
                for (frame,) in rows:
                    if frame >= end:
                        break
                    if before is not None:
                        yield before, frame
                    before = frame
                else:
                    start = rows[-1][0] + 1
                    continue
                break
        except (sqlite3.Error, TypeError) as error:
            self._tell(track, sequence, self._describe(error), first_frame=start, end_frame=end)
        if before is not None:
            yield before, end

    def _count_chunks(self, track: int, sequence: int) -> int:
        statement = "SELECT count(*) FROM chunk WHERE track=? AND sequence=?"
        try:
            ((count,),) = self._query(statement, track, sequence)
        except sqlite3.Error as error:
            self._tell(track, sequence, self._describe(error))
            return 0
        return int(count)

    def _check_chunk_count(self, track: int, expected: int) -> None:
        try:
            ((count,),) = self._query("SELECT count(*) FROM chunk WHERE track=?", track)
        except sqlite3.Error as error:
            self._report(self._describe(error), track)
            return
        if count != expected:
            self._report(f"{count} rows of frames where its groups have {expected}", track)

    def _data(self, statement: str, *key: int) -> bytes:
        rows = self._query(statement, *key)
        if len(rows) != 1:
            raise DamagedChunk("its row is not found by its key")
        data: bytes = rows[0][0]
        return data

    def _query(self, statement: str, *parameters: int) -> list[Any]:
        """Raises sqlite3.Error for what cannot be read, ReplayError for other trouble."""
        self._advance(0)
        try:
            return self._connection.execute(statement, parameters).fetchall()
        except sqlite3.Error as error:
            if cannot_be_read(error, self._file):
                raise
            raise store_error(error, self._file.path) from error

    def _tell(self, track: int, sequence: int, detail: str, **where: int | None) -> None:
        end = where.pop("end", sequence + 1)
        self._report(detail, track, start=sequence, end=end, **where)

    def _describe(self, error: Exception) -> str:
        if isinstance(error, sqlite3.Error):
            return describe_briefly(error, self._file.path)
        return f"damaged, {error}"


def cannot_be_read(error: sqlite3.Error, file: SliceFile) -> bool:
    """Whether the file or the disk under it is at fault, and not, say, its permissions."""
    code = getattr(error, "sqlite_errorcode", 0)
    return is_damage(error, file.path) or code & 0xFF == sqlite3.SQLITE_IOERR


def _count_pack(pack: Pack) -> Totals:
    totals = Totals()
    for index in range(len(pack.sequences)):
        _count_run(pack.run(index), totals)
    return totals


def _count_run(run: FrameRun, totals: Totals) -> None:
    index = 0
    while index < run.count:
        frames = run.take(index, _TAKE_BYTES)
        totals.count(frames)
        index += len(frames)
