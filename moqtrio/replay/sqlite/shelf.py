"""The slices of an open store: which there are, the one being written, and which may go.

All blocking work is one worker thread's at a time. Between its calls the state here and on
the disk agree, whatever is cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import attrs
import trio

from ...errors import ReplayError
from ..batch import refused
from ..gaps import Gaps
from ..target import GapWrite, GroupWrite
from .catalog import ACTIVE, CREATING, SEALED, Catalog
from .loader import find_recorded
from .pool import ConnectionPool
from .records import Content, FileIdentity, SliceFile
from .removal import remove_slices
from .schema import slice_path
from .slices import SliceWriter, Written

if TYPE_CHECKING:
    from .track import SqliteTrack

logger: logging.Logger = logging.getLogger("moqtrio.store")

T = TypeVar("T")


@attrs.frozen
class SliceLimits:
    """When a slice is sealed and when it goes; seconds and bytes."""

    seconds: float
    bytes: int
    retention: float | None
    retention_bytes: int | None


@attrs.define(eq=False)
class Slice:
    """One slice in memory; see :class:`~.catalog.SliceRow`."""

    number: int
    created: float
    recorded: float
    bytes: int
    immutable: bool
    contents: dict[int, Content] = attrs.Factory(dict)
    continuations: dict[tuple[int, int], int] = attrs.Factory(dict)
    written_bytes: int = 0
    identity: FileIdentity | None = None


@attrs.define(eq=False)
class WriteCounters:
    """What was counted since the store was opened."""

    commits: int = 0
    groups: int = 0
    frames: int = 0
    bytes: int = 0
    evicted_slices: int = 0
    failures: int = 0
    last_error: str | None = None


class SliceGuard(Protocol):
    """Whoever copies slices elsewhere, and so has a say in when they go."""

    def may_expire(self, each: Slice) -> bool:
        """Whether a slice may go that is too old. One that no longer fits goes anyway."""
        ...

    def dropped(self, each: Slice) -> None:
        """A slice is going."""
        ...

    def check_reserve(self, track: SqliteTrack, end: int) -> None:
        """Raise ReplayError where sequences below ``end`` may not be used yet."""
        ...


class Shelf:
    """See the module's docstring.

    Args:
        directory: where the slices are.
        catalog: open, and owned by this from now on.
        slices: those that are sealed, in order.
        next_number: for the next slice.
        now: the store's clock, in seconds since the Unix epoch.
        guard: has a say in which slices go.
    """

    def __init__(
        self,
        directory: Path,
        catalog: Catalog,
        pool: ConnectionPool,
        slices: Sequence[Slice],
        next_number: int,
        limits: SliceLimits,
        now: Callable[[], float],
        guard: SliceGuard | None = None,
    ) -> None:
        self.counters: WriteCounters = WriteCounters()
        self.changed: trio.Event = trio.Event()
        self._directory = directory
        self._catalog = catalog
        self.pool = pool
        self._slices = {each.number: each for each in slices}
        self._tracks: dict[int, SqliteTrack] = {}
        self._next_number = next_number
        self._limits = limits
        self.now = now
        self._guard = guard
        self._writer: SliceWriter | None = None
        self._active: Slice | None = None
        self._doomed: list[int] = []  # no longer here, still on the disk
        self._oldest: dict[int, int] = {}  # by track, of those that lost some of the doomed
        self._lock = trio.Lock()
        self._limiter = trio.CapacityLimiter(1)
        self._closed = False
        self._volume: dict[int, tuple[int, int]] = {}  # by track: groups and bytes

    def add_track(self, track: SqliteTrack) -> None:
        """Take in a track, and what the slices have of it."""
        track_id = track.row.id
        self._tracks[track_id] = track
        for number, each in self._slices.items():
            content = each.contents.get(track_id)
            if content is not None:
                self._count_volume(track_id, content)
                if content.first is not None and content.last is not None:
                    track.spans.extend(number, content.first, content.last)
                    track.skip_to(content.last + 1)  # whatever the catalog has forgotten
            continued = {
                sequence: frame
                for (owner, sequence), frame in each.continuations.items()
                if owner == track_id
            }
            track.add_continuations(number, continued)

    def check_open(self) -> None:
        """Raise ReplayError once the store is closed."""
        if self._closed:
            raise ReplayError(f"the store {self._directory} is closed", retryable=False)

    def has_slice(self, number: int) -> bool:
        """Whether a slice has not been evicted."""
        return number in self._slices

    def created(self, number: int) -> float:
        """Before a slice's first commit, in seconds of the store's clock."""
        return self._slices[number].created

    def recorded(self, number: int) -> float:
        """When a slice's last commit was, in seconds of the store's clock."""
        return self._slices[number].recorded

    def file(self, number: int) -> SliceFile:
        """Where a slice is."""
        each = self._slices[number]
        contents = None if each is self._active else each.contents
        identity = None if each.immutable else each.identity
        path = slice_path(self._directory, number)
        return SliceFile(number, path, each.immutable, contents, identity)

    def mean_group_bytes(self, track_id: int) -> int:
        """The mean size of what was recorded of a track; 0 where nothing was."""
        groups, size = self._volume.get(track_id, (0, 0))
        return size // groups if groups else 0

    @property
    def slice_count(self) -> int:
        """How many slices there are."""
        return len(self._slices)

    @property
    def file_bytes(self) -> int:
        """What they take on the disk, as of their last commit."""
        return sum(each.bytes for each in self._slices.values())

    async def reserve(self, track: SqliteTrack, end: int) -> None:
        """See :meth:`SqliteTrack.reserve`."""
        await trio.lowlevel.checkpoint()
        self.check_open()
        if track.in_use and end <= track.row.reserved_end:
            return
        if self._guard is not None:
            self._guard.check_reserve(track, end)
        async with self._lock:
            await self._reserve(track, end)

    async def write(self, track: SqliteTrack, writes: Sequence[GroupWrite]) -> None:
        """See :meth:`SqliteTrack.write`."""
        async with self._lock:
            self.check_open()
            deltas = track.merge(writes)
            if deltas:
                await self._reserve(track, deltas[-1].sequence + 1)
                await self._refuse_recorded(track, track.late(deltas))
                writer, active = await self._ready_slice()
                now = self.now()
                open_groups = track.begun(deltas)

                def work() -> tuple[Written, int]:
                    written = writer.write(track.row.id, deltas, open_groups, now)
                    return written, writer.file_bytes()

                written, active.bytes = await self._in_thread(work)
                active.recorded = now
                self._apply(track, active, written)
            track.forget_ended(writes)

    async def write_gaps(self, track: SqliteTrack, gaps: Sequence[GapWrite]) -> None:
        """See :meth:`SqliteTrack.write_gaps`."""
        if not gaps:
            await trio.lowlevel.checkpoint()
            return
        async with self._lock:
            self.check_open()
            await self._reserve(track, max(gap.end for gap in gaps))
            merged = Gaps([*track.gaps, *gaps])
            await self._in_thread(lambda: self._catalog.put_gaps(track.row.id, merged))
            track.gaps = merged
            track.mark_used(max(gap.end for gap in gaps))

    def slices(self) -> list[Slice]:
        """All slices, oldest first."""
        return list(self._slices.values())

    def sealed(self) -> list[Slice]:
        """The slices that are not written to any more, oldest first."""
        return [each for each in self._slices.values() if each is not self._active]

    async def seal(self) -> None:
        """Write no more to the slice that is being written: the next write begins another."""
        async with self._lock:
            self.check_open()
            await self._seal()

    def goes_on(self, each: Slice, finished: Callable[[Slice], bool]) -> bool:
        """Whether a group that begins in a slice is being recorded, or goes on in one that
        is not ``finished``."""
        for track_id in each.contents:
            track = self._tracks.get(track_id)
            if track is not None and each.number in track.open_heads():
                return True
        later = (other for other in self._slices.values() if other.number > each.number)
        for other in later:
            if other.continuations and not finished(other):
                for track_id, sequence in other.continuations:
                    content = each.contents.get(track_id)
                    if content is not None and content.covers(sequence):
                        return True
        return False

    async def apply_retention(self) -> int:
        """Seal what is old or large enough, and remove what retention no longer covers.

        Returns how many slices went. Raises ReplayError where the disk refuses; they are
        then gone from sight, and removed another time.
        """
        async with self._lock:
            self.check_open()
            if self._active is not None and self._is_done(self._active):
                await self._seal()
            expired = self._expired()
            for number in expired:
                self._drop(number)
            if self._doomed:
                await self._in_thread(lambda: self._remove(list(self._doomed), self._oldest))
                for number in self._doomed:
                    self.pool.release_retired(number)
                self._doomed.clear()
                self._oldest.clear()
            return len(expired)

    def next_deadline(self) -> float:
        """When, in seconds of the store's clock, retention has something to do next."""
        deadline = float("inf")
        if self._active is not None:
            deadline = self._active.created + self._limits.seconds
        if self._limits.retention is not None:
            oldest = next(iter(self._slices.values()), None)
            if oldest is not None and oldest is not self._active and self._may_expire(oldest):
                deadline = min(deadline, oldest.recorded + self._limits.retention)
        return deadline

    async def close(self) -> None:
        """Seal the last slice and write down where each track goes on. Never raises: what
        fails is logged, and costs at most a jump in the sequences."""
        async with self._lock:
            self._closed = True
            for track in self._tracks.values():
                track.close()
            try:
                await self._seal()
                now = self.now()
                await self._in_thread(lambda: self._close_catalog(now))
            except ReplayError as error:
                logger.error("%s was not closed cleanly: %s", self._directory, error)

    def _close_catalog(self, now: float) -> None:
        self.pool.close()
        try:
            self._catalog.put_clock(now)
            self._catalog.put_tracks(
                attrs.evolve(track.row, next_sequence=track.next_sequence)
                for track in self._tracks.values()
                if track.in_use
            )
        finally:
            self._catalog.close()

    async def _reserve(self, track: SqliteTrack, end: int) -> None:
        row = track.row
        if track.in_use and end <= row.reserved_end:
            return
        # Once a sequence may be used, a kill must not leave what the last clean close said.
        row = attrs.evolve(row, reserved_end=max(end, row.reserved_end), next_sequence=None)
        await self._in_thread(lambda: self._catalog.put_tracks([row]))
        track.row = row
        track.in_use = True

    async def _refuse_recorded(self, track: SqliteTrack, late: Sequence[int]) -> None:
        if not late:
            return
        numbers = {span.slice for each in late for span in track.spans.covering(each)}
        files = [self.file(number) for number in sorted(numbers)]
        found = await self._in_thread(lambda: find_recorded(self.pool, files, track.key, late))
        if found is not None:
            raise refused(f"group {found} was recorded before")

    async def _ready_slice(self) -> tuple[SliceWriter, Slice]:
        if self._active is not None and self._is_done(self._active):
            await self._seal()
        if self._writer is None or self._active is None:
            number, now = self._next_number, self.now()
            path = slice_path(self._directory, number)

            def create() -> SliceWriter:
                self._catalog.put_slice(number, CREATING, now)
                writer = SliceWriter.create(path, number)
                try:
                    self._catalog.put_slice(number, ACTIVE, now)
                except BaseException:
                    writer.close()
                    raise
                return writer

            self._writer = await self._in_thread(create)
            self._active = Slice(number, now, now, 0, False, identity=self._writer.identity)
            self._slices[number] = self._active
            self._next_number += 1
            self.notify()
        return self._writer, self._active

    async def _seal(self) -> None:
        """Seal the slice that is being written, if any. Where that fails it can still be
        read, and is put right when the store is opened again."""
        writer, active = self._writer, self._active
        if writer is None or active is None:
            return
        if writer.broken is not None:
            logger.error("%s. What is recorded from now on goes into a new file", writer.broken)

        def work() -> tuple[bool, int]:
            self.pool.forget(active.number)
            sealed = writer.seal()
            size = writer.file_bytes()
            if sealed or writer.broken is not None:
                self._catalog.close_slice(
                    active.number,
                    SEALED if sealed else ACTIVE,
                    active.recorded,
                    size,
                    active.contents,
                    active.continuations,
                )
            return sealed, size

        try:
            active.immutable, active.bytes = await self._in_thread(work)
        except ReplayError as error:
            logger.warning("slice %d could not be sealed: %s", active.number, error)
        # Not before: cancelled while it waits for the thread, it is still being written.
        self._writer = self._active = None
        if writer.broken is not None:
            self._set_aside(active)
        self.notify()

    def _set_aside(self, broken: Slice) -> None:
        """Nothing more is written to a slice because of what has become of its file."""
        if not broken.contents:
            del self._slices[broken.number]
            self._doomed.append(broken.number)
        for track_id, content in broken.contents.items():
            if content.first is not None and content.last is not None:
                self._tracks[track_id].read_again(content.first, content.last)

    def _apply(self, track: SqliteTrack, active: Slice, written: Written) -> None:
        track_id = track.row.id
        content = written.content
        active.contents.setdefault(track_id, Content()).add(content)
        for sequence, frame in written.continued.items():
            active.continuations[track_id, sequence] = frame
        active.written_bytes += content.totals.bytes
        self._count_volume(track_id, content)
        track.apply(active.number, written)
        counters = self.counters
        counters.commits += 1
        counters.groups += content.groups
        counters.frames += content.totals.frames
        counters.bytes += content.totals.bytes

    def _count_volume(self, track_id: int, content: Content) -> None:
        groups, size = self._volume.get(track_id, (0, 0))
        self._volume[track_id] = (groups + content.groups, size + content.totals.bytes)

    def _is_done(self, active: Slice) -> bool:
        """Whether nothing more is to be written to the slice that is being written."""
        limits = self._limits
        if self._writer is not None and self._writer.broken is not None:
            return True
        if active.written_bytes >= limits.bytes:
            return True
        return self.now() - active.created >= limits.seconds

    def _expired(self) -> list[int]:
        """The oldest slices, as far as retention does not cover them."""
        limits, now = self._limits, self.now()
        total = self.file_bytes
        expired = []
        for number, each in self._slices.items():
            too_old = limits.retention is not None and now - each.recorded >= limits.retention
            too_old = too_old and self._may_expire(each)
            too_much = limits.retention_bytes is not None and total > limits.retention_bytes
            if each is self._active or not (too_old or too_much):
                break
            expired.append(number)
            total -= each.bytes
        return expired

    def _may_expire(self, each: Slice) -> bool:
        return self._guard is None or self._guard.may_expire(each)

    def _drop(self, number: int) -> None:
        dropped = self._slices.pop(number)
        if self._guard is not None:
            self._guard.dropped(dropped)
        self._doomed.append(number)
        self.counters.evicted_slices += 1
        for track_id in dropped.contents:
            track = self._tracks.get(track_id)
            if track is not None:
                continued = [key[1] for key in dropped.continuations if key[0] == track_id]
                self._oldest[track_id] = track.drop_slice(number, continued)

    def _remove(self, numbers: Sequence[int], oldest: Mapping[int, int]) -> None:
        remove_slices(self._directory, self._catalog, numbers, oldest, self.pool.retire)

    def notify(self) -> None:
        """Something changed that retention, or who copies slices, may wait for."""
        changed, self.changed = self.changed, trio.Event()
        changed.set()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(work, limiter=self._limiter)
        except ReplayError as error:
            self.counters.failures += 1
            self.counters.last_error = str(error)
            raise
