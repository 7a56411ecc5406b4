"""The SQLite store: records tracks into files of a directory, and replays them."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from ...errors import ReplayError
from ...model.track import Track
from ...scope import open_scope
from ..recorder import Recorder
from ..target import GapWrite
from .cache import Cache
from .catalog import TrackRow
from .info import StoreInfo, inspect_store
from .loads import Reading
from .pool import ConnectionPool
from .recovery import OpenedStore, open_directory
from .shelf import Shelf, SliceGuard, SliceLimits, logger
from .track import SqliteTrack

MIB = 1024 * 1024
_READER_THREADS = 4
_IDLE_CONNECTIONS = 8
_RETRY_SECONDS = 5.0


@attrs.frozen
class StoreStatistics:
    """A snapshot of a store. Counters count from when it was opened.

    Attributes:
        tracks: how many there are.
        slices: how many files hold them.
        file_bytes: what the files take on the disk.
        evicted_slices: files that retention has removed.
        commits, written_groups, written_frames, written_bytes: what was recorded.
        cache_bytes, cache_entries: what is kept in memory of what was read.
        loads: reads by a worker thread.
        loads_in_flight: reads under way or waiting for a thread.
        loaded_bytes: what they brought.
        readers: group readers that have not been closed.
        failures: writes, reservations and removals that failed.
        last_error: what the last of them failed with.
    """

    tracks: int
    slices: int
    file_bytes: int
    evicted_slices: int
    commits: int
    written_groups: int
    written_frames: int
    written_bytes: int
    cache_bytes: int
    cache_entries: int
    loads: int
    loads_in_flight: int
    loaded_bytes: int
    readers: int
    failures: int
    last_error: str | None


class SqliteStore:
    """Any number of recorded tracks in one directory. Made by :meth:`open`.

    What is recorded lies in SQLite files that each hold a slice of time, so that old
    history goes by removing files.
    """

    def __init__(self, opened: OpenedStore, shelf: Shelf, cache: Cache, reading: Reading) -> None:
        self._opened = opened
        self._shelf = shelf
        self.directory: Path = opened.directory
        self._cache = cache
        self._reading = reading
        self._nursery: trio.Nursery | None = None
        self._tracks: dict[tuple[str, str], SqliteTrack] = {}
        self._attached: dict[SqliteTrack, Track] = {}
        for row in opened.tracks:
            self._add_track(row, opened.gaps.get(row.id, ()))

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        path: str | os.PathLike[str],
        *,
        retention: float | None = None,
        retention_bytes: int | None = None,
        slice_seconds: float = 120.0,
        slice_bytes: int = 96 * MIB,
        cache_bytes: int = 64 * MIB,
        wall_clock: Callable[[], float] = time.time,
        guard: SliceGuard | None = None,
    ) -> AsyncIterator[SqliteStore]:
        """Open the store in directory ``path``, made if need be, to record and to replay.

        On the way out the tasks the store owns are cancelled and have ended, and everything
        is closed; this part cannot be cancelled.

        Args:
            path: the directory. One process at a time may have it open.
            retention: seconds to keep what was recorded; None for ever. What is older goes
                a slice at a time, so up to ``slice_seconds`` late.
            retention_bytes: what the files may take on the disk, roughly: the oldest slices
                go when they take more. None for no limit.
            slice_seconds: how long a file is written to; at most a quarter of ``retention``.
            slice_bytes: how much is written to it; at most a quarter of ``retention_bytes``.
            cache_bytes: memory for what was read; half a MiB is the least that has effect.
            wall_clock: seconds since the Unix epoch; asked once. From then on time runs as
                Trio's clock does. Where it has been set back, to before the store was last
                closed or written to, the store goes on from that time instead: its time
                never runs backwards, so nothing is removed early, nor kept for longer than
                ``retention`` of the time the store is open. A clock that is ahead ages
                everything by as much.
            guard: has a say in which files go; for stores that copy them elsewhere.

        Raises:
            ReplayError: another process has it open; it was written by a newer version; or
                the directory cannot be made, read or written.
        """
        opened = await trio.to_thread.run_sync(open_directory, Path(path))
        limits = _make_limits(retention, retention_bytes, slice_seconds, slice_bytes)
        store = cls._assemble(opened, limits, cache_bytes, wall_clock, guard)
        try:
            async with open_scope() as nursery:
                store._nursery = nursery
                nursery.start_soon(store._keep_retention)
                try:
                    yield store
                finally:
                    store._stop_reading()
        finally:
            with trio.CancelScope() as scope:
                scope.shield = True
                await store._close()

    def track(self, broadcast: str, name: str) -> SqliteTrack:
        """The track of that name; always the same object.

        A new one becomes part of the store with its first reservation or write.
        """
        track = self._tracks.get((broadcast, name))
        if track is None:
            taken = max((each.row.id for each in self._tracks.values()), default=0)
            epoch = secrets.randbits(62)
            row = TrackRow(taken + 1, broadcast, name, epoch, 0, self._shelf.now(), None)
            track = self._add_track(row)
        return track

    def find(self, broadcast: str, name: str) -> SqliteTrack | None:
        """The track of that name, if there is one."""
        return self._tracks.get((broadcast, name))

    @property
    def shelf(self) -> Shelf:
        """The slices; for stores that copy them elsewhere."""
        return self._shelf

    def adopt(self, broadcast: str, name: str, epoch: int, first_free: int) -> None:
        """Go on with a numbering of which this store may have lost a part: sequences below
        ``first_free`` are not used again. Only before the track is recorded.

        Raises ReplayError where the store has another numbering of the track.
        """
        track = self._tracks.get((broadcast, name))
        if track is None:
            taken = max((each.row.id for each in self._tracks.values()), default=0)
            now = self._shelf.now()
            row = TrackRow(taken + 1, broadcast, name, epoch, first_free, now, None)
            track = self._add_track(row)
        elif track.row.epoch != epoch:
            raise ReplayError(
                f"track {track.key.label} has epoch {track.row.epoch} here, not {epoch}",
                retryable=False,
            )
        track.skip_to(first_free)

    def tracks(self) -> list[SqliteTrack]:
        """Every track, in the order they were first recorded."""
        return list(self._tracks.values())

    def attach(self, track: Track) -> SqliteTrack:
        """Record ``track`` from now on, in a task the store owns, and replay what is there.

        Raises ReplayError where another track of the same name is still being recorded,
        ProtocolError where the track has groups already.
        """
        target = self.track(track.broadcast, track.name)
        before = self._attached.get(target)
        if before is not None:
            if not before.log.ended:
                raise ReplayError(
                    f"track {target.key.label} is being recorded already: end that one first",
                    retryable=False,
                )
            target.mark_used(before.log.next_sequence)
            target.earlier.add(before.log)
        recorder = Recorder(track.log, target, name=target.key.label)
        self.start_soon(recorder.run)
        self._attached[target] = track
        return target

    def start_soon(self, function: Callable[..., Awaitable[object]], *args: Any) -> None:
        """Run a task that the store owns: it is cancelled when the store closes, and may
        write to it until it has ended. What it raises ends the store."""
        self._shelf.check_open()
        assert self._nursery is not None, "open() is the way to make a store"
        self._nursery.start_soon(function, *args)

    @staticmethod
    def inspect(path: str | os.PathLike[str]) -> StoreInfo:
        """Look at a store that may be in use; see :func:`inspect_store`. Blocks."""
        return inspect_store(path)

    async def apply_retention(self) -> int:
        """Remove now what retention no longer covers; returns how many files went.

        The store does so by itself in time. Raises ReplayError where the disk refuses. May
        be cancelled between files.
        """
        return await self._shelf.apply_retention()

    def statistics(self) -> StoreStatistics:
        """A snapshot of sizes and counters."""
        shelf, reading, cache = self._shelf, self._reading, self._cache
        counters = shelf.counters
        return StoreStatistics(
            tracks=len(self._tracks),
            slices=shelf.slice_count,
            file_bytes=shelf.file_bytes,
            evicted_slices=counters.evicted_slices,
            commits=counters.commits,
            written_groups=counters.groups,
            written_frames=counters.frames,
            written_bytes=counters.bytes,
            cache_bytes=cache.bytes,
            cache_entries=len(cache),
            loads=reading.loads,
            loads_in_flight=reading.in_flight,
            loaded_bytes=reading.loaded_bytes,
            readers=reading.readers,
            failures=counters.failures,
            last_error=counters.last_error,
        )

    @classmethod
    def _assemble(
        cls,
        opened: OpenedStore,
        limits: SliceLimits,
        cache_bytes: int,
        wall_clock: Callable[[], float],
        guard: SliceGuard | None,
    ) -> SqliteStore:
        offset = max(wall_clock(), opened.clock) - trio.current_time()
        pool = ConnectionPool(_IDLE_CONNECTIONS)
        shelf = Shelf(
            opened.directory,
            opened.catalog,
            pool,
            opened.slices,
            opened.next_number,
            limits,
            lambda: trio.current_time() + offset,
            guard,
        )
        reading = Reading(trio.CapacityLimiter(_READER_THREADS), cache_bytes)
        store = cls(opened, shelf, Cache(cache_bytes), reading)
        reading.start_soon = store.start_soon
        return store

    def _add_track(self, row: TrackRow, gaps: Iterable[GapWrite] = ()) -> SqliteTrack:
        track = SqliteTrack(self._shelf, row, self._cache, self._reading, gaps)
        self._tracks[row.broadcast, row.name] = track
        self._shelf.add_track(track)
        return track

    async def _keep_retention(self) -> None:
        while True:
            changed = self._shelf.changed
            try:
                await self._shelf.apply_retention()
                delay = self._shelf.next_deadline() - self._shelf.now()
            except ReplayError as error:
                logger.error("retention failed, and is tried again: %s", error)
                delay = _RETRY_SECONDS
            with trio.move_on_after(max(delay, 0.0)):
                await changed.wait()

    def _stop_reading(self) -> None:
        """The tasks that read are about to end, before the store itself: recording goes on."""
        self._reading.closed = True
        for track in self._tracks.values():
            track.close()

    async def _close(self) -> None:
        async with self._reading.lookups:  # the last of them; from here on they are refused
            pass
        for target, track in self._attached.items():
            target.mark_used(track.log.next_sequence)
        try:
            await self._shelf.close()
        finally:
            self._opened.lock.release()


def _make_limits(
    retention: float | None,
    retention_bytes: int | None,
    slice_seconds: float,
    slice_bytes: int,
) -> SliceLimits:
    # Retention goes slice by slice: with large ones it would keep far more, or nothing.
    if retention is not None:
        slice_seconds = min(slice_seconds, retention / 4)
    if retention_bytes is not None:
        slice_bytes = min(slice_bytes, retention_bytes // 4)
    return SliceLimits(slice_seconds, slice_bytes, retention, retention_bytes)
