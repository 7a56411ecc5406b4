"""Writing one slice file, and finding out what is in one that a killed process left.

Everything here blocks, and belongs in a worker thread.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from ...errors import ReplayError
from ...model.frame import Frame
from ...model.group import Aborted, GroupEnd
from ..batch import GroupDelta, refused
from .chunks import (
    CHUNK_BYTES,
    FRAME_OVERHEAD,
    PackedGroup,
    encode_pack,
    encode_run,
    key_checksum,
)
from .errors import describe, is_file_at_fault, store_error, write_error
from .keys import note_keys
from .records import OPEN, Content, FileIdentity, OpenGroup, Part, Totals
from .schema import (
    CHECKPOINT_PAGES,
    PAGE_BYTES,
    SLICE_TABLES,
    connect_durable,
    file_bytes,
    file_identity,
    is_at,
    part_checksum,
    remove_files,
    sync_directory,
)

_GROUP_OVERHEAD = 24  # bytes a small group takes in a pack beside its frames, roughly

Row = tuple[Any, ...]


@attrs.frozen
class Written:
    """What one batch added to a slice, for the store to know once it is durable.

    Attributes:
        content: the track's groups and frames that were added.
        open: groups that go on, as they are now.
        ended: the sequences of groups that were open and have ended.
        continued: the first frame here of each group that began in an earlier slice and
            had nothing in this one before.
        heads: the sequences of groups that begin with this batch, rising.
    """

    content: Content
    open: dict[int, OpenGroup]
    ended: list[int]
    continued: dict[int, int]
    heads: list[int]


@attrs.define(slots=True)
class _Rows:
    """The rows of one batch, and what they amount to."""

    packs: list[Row] = attrs.Factory(list)
    parts: list[Row] = attrs.Factory(list)
    chunks: list[Row] = attrs.Factory(list)
    written: Written = attrs.Factory(lambda: Written(Content(), {}, [], {}, []))


class SliceWriter:
    """The slice that is being written.

    Attributes:
        identity: which file is being written.
        broken: why nothing more can be written to it; None while it can.
    """

    def __init__(self, path: Path, number: int, connection: sqlite3.Connection) -> None:
        self.path = path
        self.number = number
        self.broken: str | None = None
        self._connection = connection
        # What is written to a file without a name is not durable, and SQLite does not notice.
        self._files = {each: file_identity(each) for each in (path, Path(f"{path}-wal"))}
        self.identity: FileIdentity | None = self._files[path]
        self._packed: dict[int, int] = {}  # by track: the last sequence in a pack

    @classmethod
    def create(cls, path: Path, number: int) -> SliceWriter:
        """Make the file; what was left of an attempt to make it before is removed.

        Raises ReplayError, having left no file behind if the disk allows.
        """
        try:
            remove_files(path)
            connection = connect_durable(path, create=True, page_bytes=PAGE_BYTES)
            try:
                connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
                connection.execute("PRAGMA cache_size=-8192")
                connection.executescript(f"BEGIN;{SLICE_TABLES}COMMIT;")
                sync_directory(path.parent)
                return cls(path, number, connection)
            except BaseException:
                connection.close()
                remove_files(path)
                raise
        except (sqlite3.Error, OSError) as error:
            raise write_error(error, path) from error

    def write(
        self,
        track: int,
        deltas: Sequence[GroupDelta],
        open_groups: Mapping[int, OpenGroup],
        recorded: float,
    ) -> Written:
        """Record ``deltas`` (rising in sequence) in one transaction.

        Raises ReplayError, having changed nothing that counts. Once this slice is ``broken``,
        repeating it helps only in another one.
        """
        rows = self._make_rows(track, deltas, open_groups, recorded)
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                _insert(connection, "pack", rows.packs)
                _insert(connection, "part", rows.parts)
                _insert(connection, "chunk", rows.chunks)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            if is_file_at_fault(error, self.path):
                self.broken = describe(error, self.path)
            raise write_error(error, self.path) from error
        self._check_files()
        if rows.packs:
            self._packed[track] = rows.packs[-1][2]
        return rows.written

    def file_bytes(self) -> int:
        """What the slice takes on the disk."""
        return file_bytes(self.path)

    def seal(self) -> bool:
        """Put everything into the main file, and close it. False where that failed: the
        slice can be read as before, and be recovered another time."""
        try:
            if not is_at(self.path, self.identity):
                return False
            return _checkpoint(self._connection, note=self.broken is None)
        finally:
            self._connection.close()

    def close(self) -> None:
        """Close the file as it is."""
        self._connection.close()

    def _check_files(self) -> None:
        for path, identity in self._files.items():
            if not is_at(path, identity):
                self.broken = f"{path}: the file was removed or replaced while it was written to"
                raise ReplayError(self.broken, retryable=True)

    def _make_rows(
        self,
        track: int,
        deltas: Sequence[GroupDelta],
        open_groups: Mapping[int, OpenGroup],
        recorded: float,
    ) -> _Rows:
        rows = _Rows()
        small: list[PackedGroup] = []
        packed = self._packed.get(track, -1)
        try:
            for delta in deltas:
                before = open_groups.get(delta.sequence)
                if before is None:
                    rows.written.heads.append(delta.sequence)
                    if delta.sequence > packed and delta.end is not None and _is_small(delta):
                        ending = encode_ending(delta.end)
                        small.append(PackedGroup(delta.sequence, delta.frames, ending))
                        continue
                self._add_part(rows, track, delta, before, recorded)
            for groups in _split_groups(small):
                _add_pack(rows, track, groups, recorded)
        except (struct.error, OverflowError) as error:
            raise refused("a timestamp does not fit 64 bits") from error
        return rows

    def _add_part(
        self,
        rows: _Rows,
        track: int,
        delta: GroupDelta,
        before: OpenGroup | None,
        recorded: float,
    ) -> None:
        written = rows.written
        sequence = delta.sequence
        totals = Totals()
        totals.count(delta.frames)
        written.content.totals.add(totals)
        first_frame = delta.first_frame
        if before is None:
            written.content.add_heads(sequence, sequence, 1)
        elif before.part.slice == self.number:
            first_frame = before.part.first_frame
            totals.add(before.part.totals)
        else:
            written.continued[sequence] = first_frame
        part = Part(self.number, first_frame, totals, encode_ending(delta.end))
        rows.parts.append(_part_row(track, sequence, part, recorded))
        frame = delta.first_frame
        for run in _split_frames(delta.frames):
            chunk = encode_run(run, key_checksum(track, sequence, frame))
            rows.chunks.append((track, sequence, frame, chunk))
            frame += len(run)
        if delta.end is None:
            head = self.number if before is None else before.head
            written.open[sequence] = OpenGroup(head, part)
        elif before is not None:
            written.ended.append(sequence)


def encode_ending(end: GroupEnd | None) -> int:
    """How a group's end is kept: see :data:`OPEN`."""
    if end is None:
        return OPEN
    return 1 + end.code if isinstance(end, Aborted) else 0


@attrs.frozen
class Survey:
    """What is in a slice that was not sealed.

    Attributes:
        contents: by track.
        continuations: the first frame here of every (track, sequence) that began earlier.
        recorded: the time of the last commit; None where there was none.
    """

    contents: dict[int, Content]
    continuations: dict[tuple[int, int], int]
    recorded: float | None


def recover(path: Path, *, known: bool) -> tuple[Survey, bool]:
    """Find out what a process that was killed has left in a slice, and seal it.

    Returns also whether all of it is now in the main file. Raises ReplayError where the
    file is gone or damaged.

    Args:
        known: whether the catalog has what should be in it: what is found is then not noted
            as all there ever was.
    """
    try:
        connection = connect_durable(path, create=False)
        try:
            return survey(connection), _checkpoint(connection, note=not known)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise store_error(error, path) from error


def survey(connection: sqlite3.Connection) -> Survey:
    """Find out what is in an open slice. Raises sqlite3.Error."""
    parts = connection.execute(
        "SELECT track, sequence, first_frame FROM part WHERE first_frame > 0"
    ).fetchall()
    (recorded,) = connection.execute(
        "SELECT max(recorded) FROM (SELECT max(recorded) AS recorded FROM pack"
        " UNION ALL SELECT max(recorded) FROM part)"
    ).fetchone()
    continuations = {(track, sequence): frame for track, sequence, frame in parts}
    return Survey(count_contents(connection), continuations, recorded)


def _checkpoint(connection: sqlite3.Connection, *, note: bool) -> bool:
    """Put everything into the main file, with a note of the keys if so wanted. False where
    that failed, on a full disk say: what is in the database is as safe as before, but needs
    its write-ahead log."""
    try:
        if note:
            note_keys(connection)
        busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.Error:
        return False
    return not busy


def count_contents(connection: sqlite3.Connection) -> dict[int, Content]:
    """What is in an open slice, by track. Raises sqlite3.Error."""
    contents: dict[int, Content] = {}
    totals = "sum(frames), sum(bytes), min(first_us), max(last_us)"
    for source in (
        f"SELECT track, min(first_sequence), max(last_sequence), sum(groups), {totals} FROM pack",
        f"SELECT track, min(sequence) FILTER (WHERE first_frame = 0), "
        f"max(sequence) FILTER (WHERE first_frame = 0), "
        f"count(*) FILTER (WHERE first_frame = 0), {totals} FROM part",
    ):
        for track, first, last, groups, *counted in connection.execute(
            f"{source} GROUP BY track"
        ).fetchall():
            content = Content(first, last, groups, Totals(*counted))
            contents.setdefault(track, Content()).add(content)
    return contents


def _insert(connection: sqlite3.Connection, table: str, rows: list[Row]) -> None:
    if rows:
        # A part is written anew as its group grows; nothing else is ever replaced.
        verb = "INSERT OR REPLACE" if table == "part" else "INSERT"
        marks = ", ".join("?" * len(rows[0]))
        connection.executemany(f"{verb} INTO {table} VALUES({marks})", rows)


def _part_row(track: int, sequence: int, part: Part, recorded: float) -> Row:
    checksum = part_checksum(track, sequence, part)
    counted = attrs.astuple(part.totals)
    return (track, sequence, part.first_frame, *counted, part.ending, recorded, checksum)


def _add_pack(rows: _Rows, track: int, groups: list[PackedGroup], recorded: float) -> None:
    totals = Totals()
    totals.count([frame for group in groups for frame in group.frames])
    first, last = groups[0].sequence, groups[-1].sequence
    chunk = encode_pack(groups, key_checksum(track, first, 0))
    counted = attrs.astuple(totals)
    rows.packs.append((track, first, last, len(groups), *counted, recorded, chunk))
    rows.written.content.add_heads(first, last, len(groups))
    rows.written.content.totals.add(totals)


def _is_small(delta: GroupDelta) -> bool:
    frames = delta.frames
    if len(frames) == 1:
        return len(frames[0].payload) <= CHUNK_BYTES
    return _encoded_bytes(frames) <= CHUNK_BYTES


def _encoded_bytes(frames: Sequence[Frame]) -> int:
    return sum([len(frame.payload) for frame in frames]) + FRAME_OVERHEAD * len(frames)


def _split_groups(groups: list[PackedGroup]) -> Iterator[list[PackedGroup]]:
    """Cut a list of small groups into packs."""
    pack: list[PackedGroup] = []
    size = 0
    for group in groups:
        added = _encoded_bytes(group.frames) + _GROUP_OVERHEAD
        if pack and size + added > CHUNK_BYTES:
            yield pack
            pack, size = [], 0
        pack.append(group)
        size += added
    if pack:
        yield pack


def _split_frames(frames: Sequence[Frame]) -> Iterator[Sequence[Frame]]:
    """Cut the frames of a group into runs."""
    start = size = 0
    for index, frame in enumerate(frames):
        added = len(frame.payload) + FRAME_OVERHEAD
        if index > start and size + added > CHUNK_BYTES:
            yield frames[start:index]
            start, size = index, 0
        size += added
    if start < len(frames):
        yield frames[start:]
