"""A directory with a real SQLite store in it, what must be there, and the means to spoil it."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from copy import deepcopy
from pathlib import Path

import attrs

from moqtrio.model import Track
from moqtrio.model.group import Finished, GroupEnd
from moqtrio.model.source import ReplaySource
from moqtrio.replay import GroupWrite, SqliteStore
from moqtrio.replay.sqlite.records import SliceFile
from moqtrio.replay.sqlite.schema import connect, slice_path
from moqtrio.replay.sqlite.slices import Written
from moqtrio.replay.sqlite.track import SqliteTrack
from moqtrio.replay.sqlite.trim import TrimLimits, trim_store
from moqtrio.replay.target import GapWrite

from .workers import Workers

_ERROR_IS_OVER = 0.05
"""Seconds: for so long may a failure be remembered that is over."""


@attrs.frozen
class Layout:
    """How a store is cut to pieces; see ``SqliteStore.open``."""

    slice_bytes: int = 1
    slice_seconds: float = 120.0
    retention: float | None = None
    retention_bytes: int | None = None
    cache_bytes: int = 1


@attrs.define
class StoredGroup:
    """What was recorded of a group, and where: the first of the slices has its beginning."""

    slices: list[int]
    end: GroupEnd | None = None
    is_damaged: bool = False


@attrs.define
class Content:
    """What must be in a store. All of it is noted when the store says that it is so."""

    groups: dict[int, StoredGroup] = attrs.Factory(dict)
    trimmed: set[int] = attrs.Factory(set)
    completed: set[int] = attrs.Factory(set)
    gaps: set[int] = attrs.Factory(set)
    hidden: set[int] = attrs.Factory(set)
    floor: int = 0
    has_refused: bool = False
    directories: int = 0


class SqliteDisk:
    """A store's directory and what must be in it, while one process uses it.

    Args:
        directory: for the store, and for what is left of it when its process is killed.
        layout: how it is opened.
        workers: do its work.
        now: the time.
        content: what is in it.
    """

    def __init__(
        self,
        directory: Path,
        layout: Layout,
        workers: Workers,
        now: Callable[[], float],
        content: Content | None = None,
    ) -> None:
        self.directory = directory
        self.workers = workers
        self._layout = layout
        self._now = now
        self._content = Content() if content is None else content
        self._store: SqliteStore | None = None
        self._track: SqliteTrack | None = None
        self._writing: set[int] = set()
        self._reads_fail = False
        self._healed_at = -1.0
        self._trim_before: int | None = None
        self._slice = 0

    # Its life

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """The store, as long as its process lives."""
        layout = attrs.asdict(self._layout)
        async with SqliteStore.open(
            self.directory, wall_clock=lambda: 10**6 + self._now(), **layout
        ) as self._store:
            yield
        self._store = None

    def attach(self, track: Track) -> ReplaySource:
        """Record ``track``, and listen."""
        store = self._store
        assert store is not None
        target = self._track = store.attach(track)
        write, write_gaps = target.write, target.write_gaps
        apply, drop_slice = target.apply, target.drop_slice
        connection = store.shelf.pool.connection

        async def noted_write(writes: Sequence[GroupWrite]) -> None:
            self._writing.update(each.sequence for each in writes)
            await write(writes)
            self._written(writes)
            self._writing.clear()

        async def noted_write_gaps(gaps: Sequence[GapWrite]) -> None:
            lost = {sequence for gap in gaps for sequence in range(gap.start, gap.end)}
            self._writing.update(lost)
            await write_gaps(gaps)
            self._content.gaps |= lost
            self._writing -= lost

        def noted_apply(number: int, written: Written) -> None:
            self._slice = number
            apply(number, written)

        def noted_drop(number: int, continued: Sequence[int]) -> int:
            oldest = drop_slice(number, continued)
            self._dropped(number)
            self._content.gaps = {each for each in self._content.gaps if each >= oldest}
            self._content.floor = max(self._content.floor, oldest)
            return oldest

        def failing_connection(file: SliceFile) -> object:
            if self._reads_fail:
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode = sqlite3.SQLITE_IOERR
                raise error
            return connection(file)

        replaced = {
            target: {"write": noted_write, "write_gaps": noted_write_gaps},
            store.shelf.pool: {"connection": failing_connection},
        }
        replaced[target] |= {"apply": noted_apply, "drop_slice": noted_drop}
        for where, methods in replaced.items():
            for name, method in methods.items():
                setattr(where, name, method)
        if self._trim_before is not None:
            self._trimmed_while_closed(store)
        return target

    def reopened(self, *, clean: bool) -> SqliteDisk:
        """What the next process finds: this directory, or, while this one is still in use,
        a copy of it as it is at this instant, as a kill would leave it."""
        content = deepcopy(self._content)
        # Nobody can tell whether what was being recorded has been.
        content.hidden |= self._writing
        directory = self.directory
        if self._store is not None:
            content.directories += 1
            directory = directory.with_name(f"killed-{content.directories}")
            shutil.copytree(self.directory, directory)
        disk = SqliteDisk(directory, self._layout, self.workers, self._now, content)
        if self._trim_before is not None and self._store is None:
            limits = TrimLimits(before=self._trim_before)
            trim_store(directory, limits, wall_clock=lambda: 10**6 + self._now())
            disk._trim_before = self._trim_before
        return disk

    def trim_when_closed(self, before: int) -> None:
        """Trim the store before the next process opens it."""
        if self._content.groups:
            self._trim_before = before

    def _trimmed_while_closed(self, store: SqliteStore) -> None:
        left = {each.number for each in store.shelf.slices()}
        for group in list(self._content.groups.values()):
            for number in set(group.slices) - left:
                self._dropped(number)
        self._trim_before = None

    @property
    def is_open(self) -> bool:
        """Whether a process uses it."""
        return self._store is not None

    # What was recorded

    def _written(self, writes: Sequence[GroupWrite]) -> None:
        content = self._content
        for write in writes:
            if write.end is not None:
                content.completed.add(write.sequence)
            if write.sequence in content.trimmed:
                continue
            group = content.groups.setdefault(write.sequence, StoredGroup([]))
            group.end = write.end
            if self._slice not in group.slices:
                group.slices.append(self._slice)

    def _dropped(self, number: int) -> None:
        content = self._content
        gone = [sequence for sequence, each in content.groups.items() if each.slices[0] == number]
        content.trimmed.update(gone)
        for sequence in gone:
            del content.groups[sequence]

    # What is known about it

    @property
    def trimmed(self) -> set[int]:
        """Groups that were removed."""
        return self._content.trimmed

    @property
    def has_refused(self) -> bool:
        """Whether it may have refused to record something for good."""
        return self._content.has_refused

    @property
    def readers(self) -> int:
        """How many were handed out and not closed."""
        return 0 if self._store is None else self._store.statistics().readers

    @property
    def waiting(self) -> int:
        """How many tasks wait for it to read something."""
        track = self._track
        return 0 if track is None else sum(each.waiters for each in track._loads._loads.values())

    @property
    def failing(self) -> bool:
        """Whether reads fail."""
        return self._reads_fail or self._now() < self._healed_at + _ERROR_IS_OVER

    @property
    def is_broken(self) -> bool:
        """Whether writes fail."""
        return False

    @property
    def stalled(self) -> bool:
        """Whether it does nothing."""
        return self.workers.stalled

    @property
    def is_disturbed(self) -> bool:
        """Whether there is anything to heal."""
        return self._reads_fail or self.stalled

    def has(self, sequence: int) -> bool:
        """Whether the group is stored, all of it or a part, damaged or not."""
        return sequence in self._content.groups

    def is_whole(self, sequence: int) -> bool:
        """Whether the group is stored to its end, and can be read."""
        group = self._content.groups.get(sequence)
        return group is not None and not group.is_damaged and isinstance(group.end, Finished)

    def may_hide(self, sequence: int) -> bool:
        """Whether it cannot be told any more if there was such a group."""
        return sequence in self._content.hidden

    def has_dealt_with(self, sequence: int) -> bool:
        """Whether the group was recorded to its end, or is not wanted (any more)."""
        content = self._content
        trimmed = sequence < content.floor or sequence in content.trimmed
        return trimmed or sequence in content.completed

    def knows_lost(self, sequence: int) -> bool:
        """Whether it was told that the group is lost."""
        return sequence in self._content.gaps

    def sequences(self) -> list[int]:
        """What it has."""
        return sorted(self._content.groups)

    # What a test makes it do

    def fail_reads(self) -> None:
        """What is not in the cache cannot be read from now on."""
        self._reads_fail = True

    def stall(self) -> None:
        """Nothing is read or written from now on."""
        self.workers.stall()

    def heal(self) -> None:
        """Nothing fails or stalls any more."""
        if self._reads_fail:
            self._reads_fail = False
            self._healed_at = self._now()
        self.workers.resume()

    def damage(self, sequence: int) -> None:
        """A byte of a group flips; where it lies beside others, they are unreadable, too."""
        group = self._content.groups[sequence]
        path = slice_path(self.directory, group.slices[0])
        if not path.exists():
            return
        with closing(connect(path, "mode=rw")) as connection:
            pack = connection.execute(
                "SELECT first_sequence, last_sequence, data FROM pack"
                " WHERE first_sequence<=? AND last_sequence>=?",
                (sequence, sequence),
            ).fetchone()
            if pack is not None:
                first, last, data = pack
                connection.execute(
                    "UPDATE pack SET data=? WHERE first_sequence=?", (_flipped(data), first)
                )
                self._is_damaged(set(range(first, last + 1)), group.slices[0])
                return
            chunk = connection.execute(
                "SELECT first_frame, data FROM chunk WHERE sequence=?", (sequence,)
            ).fetchone()
            if chunk is not None:
                frame, data = chunk
                connection.execute(
                    "UPDATE chunk SET data=? WHERE sequence=? AND first_frame=?",
                    (_flipped(data), sequence, frame),
                )
                group.is_damaged = True

    def remove_slice(self, which: int) -> None:
        """One of the files that are not written to any more goes."""
        store = self._store
        assert store is not None
        sealed = [each for each in store.shelf.sealed() if each.contents]
        if not sealed:
            return
        each = sealed[which % len(sealed)]
        slice_path(self.directory, each.number).unlink(missing_ok=True)
        for content in each.contents.values():
            if content.first is not None and content.last is not None:
                self._is_damaged(set(range(content.first, content.last + 1)), each.number)

    def _is_damaged(self, sequences: set[int], number: int) -> None:
        content = self._content
        content.has_refused = True  # a late group, since nobody can tell if it is there
        for sequence in sequences:
            group = content.groups.get(sequence)
            if group is None:
                content.hidden.add(sequence)
            elif number in group.slices:
                group.is_damaged = True


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 0x40]) + data[middle + 1 :]
