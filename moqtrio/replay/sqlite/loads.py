"""Loads of one track: each range is read once at a time, whoever waits for it."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol, TypeVar

import attrs
import trio

from ...errors import ReplayError
from ...model.source import Pending
from .cache import TrackCache
from .extents import Extent, Piece
from .pool import SliceRetired
from .records import OPEN

FIRST_LOAD = 256 * 1024
LARGEST_LOAD = 1024 * 1024
_SMALLEST_LOAD = 64 * 1024
_READ_AHEAD_LIMIT = 8  # loads that nobody waits for yet, in the whole store
_FAILURES_KEPT = 64
# Long enough for every task that waited for a load to see that it failed; whoever asks
# later causes another attempt.
_FAILURE_SECONDS = 0.02

T = TypeVar("T")

LoadKey = tuple[int, int]
"""(sequence, frame) of a piece, (sequence, -1) of an extent."""


@attrs.define(eq=False)
class Reading:
    """What all loads of a store share, and what is counted of them."""

    slots: trio.CapacityLimiter
    cache_bytes: int
    start_soon: Callable[[Callable[[], Awaitable[None]]], None] = attrs.field(init=False)
    readers: int = 0
    loads: int = 0
    loaded_bytes: int = 0
    in_flight: int = 0
    read_ahead: int = 0
    closed: bool = False
    largest: int = LARGEST_LOAD
    lookups: trio.Lock = attrs.Factory(trio.Lock)
    # The slots above bound the threads; run_sync wants a limiter too.
    _threads: trio.CapacityLimiter = attrs.Factory(lambda: trio.CapacityLimiter(math.inf))

    def largest_load(self) -> int:
        """Bytes worth reading at once: less where many readers share the cache, so that
        what one has loaded is still there when it comes to read it."""
        share = self.cache_bytes // (8 * max(self.readers, 1))
        return max(min(share, self.largest), _SMALLEST_LOAD)

    async def run(self, read: Callable[[], Extent | Piece]) -> Extent | Piece:
        """Run ``read`` in a worker thread, and count it."""
        self.loads += 1
        entry = await self.in_thread(read)
        self.loaded_bytes += entry.size
        return entry

    async def look_up(self, read: Callable[[], T]) -> T:
        """Run ``read``, which brings nothing to keep, in a worker thread, and count it.

        For who holds ``lookups``: however many ask, they take one of the threads.
        """
        async with self.slots:
            self.loads += 1
            return await self.in_thread(read)

    async def in_thread(self, read: Callable[[], T]) -> T:
        """Run ``read`` in a worker thread."""
        return await trio.to_thread.run_sync(read, limiter=self._threads)


class Planner(Protocol):
    """Says what there is to read for a load."""

    def plan_range(
        self, sequence: int, stop: int | None, budget: int
    ) -> Callable[[], Extent] | None:
        """How to read the groups from ``sequence`` on, not beyond ``stop``; None where there
        are none."""
        ...

    def plan_piece(self, sequence: int, frame: int, budget: int) -> Callable[[], Piece] | None:
        """How to read a group from ``frame`` on; None where it is gone."""
        ...

    def expected_end(self, sequence: int, budget: int) -> int:
        """About where ``budget`` bytes of groups from ``sequence`` on end."""
        ...


@attrs.define(slots=True, eq=False)
class _Load:
    key: LoadKey
    budget: int
    expected_end: int
    is_read_ahead: bool
    waiters: int = 0
    running: bool = False
    stale: bool = False
    done: trio.Event = attrs.Factory(trio.Event)
    scope: trio.CancelScope = attrs.Factory(trio.CancelScope)


class TrackLoads:
    """Starts loads, lets tasks wait for them, and puts what they bring into the cache."""

    def __init__(self, reading: Reading, cache: TrackCache, planner: Planner) -> None:
        self._reading = reading
        self._cache = cache
        self._planner = planner
        self._loads: dict[LoadKey, _Load] = {}
        self._failures: dict[LoadKey, tuple[ReplayError, float]] = {}

    def want_range(self, sequence: int) -> Pending:
        """The answer to who needs the extent with ``sequence``. Raises the ReplayError of a
        load that has just failed."""
        self._raise_failure((sequence, -1))
        return Pending(partial(self._wait_range, sequence))

    def want_piece(self, sequence: int, frame: int) -> Pending:
        """The answer to who needs the frames of a group from ``frame`` on. Raises as
        :meth:`want_range` does."""
        self._raise_failure((sequence, frame))
        return Pending(partial(self._wait_piece, sequence, frame))

    def read_ahead(self, key: LoadKey, budget: int) -> None:
        """Load what will be wanted next, if there is room for more such loads."""
        if self._reading.read_ahead >= _READ_AHEAD_LIMIT or self._find(key) is not None:
            return
        self._start(key, min(2 * budget, self._reading.largest_load()), is_read_ahead=True)

    def invalidate(self, first: int, last: int) -> None:
        """Groups from ``first`` to ``last`` came or went: who read there reads again."""
        self._cache.invalidate(first, last)
        for load in self._loads.values():
            if load.key[0] <= last and (load.key[1] < 0 or load.key[0] >= first):
                load.stale = True

    def wake(self) -> None:
        """The store closes: let everyone who waits ask again."""
        for load in self._loads.values():
            load.done.set()

    async def _wait_range(self, sequence: int) -> None:
        if self._cache.extent(sequence) is not None:
            await trio.lowlevel.checkpoint()
            return
        await self._join((sequence, -1))

    async def _wait_piece(self, sequence: int, frame: int) -> None:
        piece = self._cache.piece(sequence, frame)
        if piece is not None and (piece.end_frame > frame or piece.ending != OPEN or piece.error):
            await trio.lowlevel.checkpoint()
            return
        await self._join((sequence, frame))

    async def _join(self, key: LoadKey) -> None:
        if self._reading.closed:  # who asks again is told so
            await trio.lowlevel.checkpoint()
            return
        load = self._find(key)
        if load is None:
            load = self._start(key, min(FIRST_LOAD, self._reading.largest_load()))
        load.waiters += 1
        try:
            await load.done.wait()
        finally:
            load.waiters -= 1
            if not load.waiters and not load.is_read_ahead and not load.running:
                self._forget(load)
                load.scope.cancel()

    def _find(self, key: LoadKey) -> _Load | None:
        """A load under way that brings what ``key`` stands for, in all likelihood."""
        load = self._loads.get(key)
        if load is None and key[1] < 0:
            sequence = key[0]
            for other in self._loads.values():
                if other.key[1] < 0 and other.key[0] <= sequence < other.expected_end:
                    return other
        return load

    def _start(self, key: LoadKey, budget: int, *, is_read_ahead: bool = False) -> _Load:
        expected_end = self._planner.expected_end(key[0], budget)
        load = _Load(key, budget, expected_end, is_read_ahead)
        self._loads[key] = load
        self._reading.in_flight += 1
        self._reading.read_ahead += is_read_ahead
        self._reading.start_soon(partial(self._run, load))
        return load

    async def _run(self, load: _Load) -> None:
        reading = self._reading
        try:
            with load.scope:
                async with reading.slots:
                    load.running = True
                    # What there is to read is looked up now that it can be read.
                    read = self._plan(load)
                    if read is None:
                        return
                    entry = await reading.run(read)
                if not load.stale:
                    self._cache.add(entry)
        except ReplayError as error:
            self._note_failure(load, error)
        except SliceRetired:
            pass  # What it was to read is gone; who waits asks again, and is told so.
        finally:
            reading.in_flight -= 1
            reading.read_ahead -= load.is_read_ahead
            self._forget(load)
            load.done.set()

    def _plan(self, load: _Load) -> Callable[[], Extent | Piece] | None:
        sequence, frame = load.key
        load.stale = False
        if frame >= 0:
            return self._planner.plan_piece(sequence, frame, load.budget)
        return self._planner.plan_range(sequence, self._next_start(sequence), load.budget)

    def _next_start(self, sequence: int) -> int | None:
        """Where what is cached or being loaded begins, above ``sequence``."""
        starts = [key[0] for key in self._loads if key[1] < 0 and key[0] > sequence]
        cached = self._cache.next_start(sequence)
        if cached is not None:
            starts.append(cached)
        return min(starts, default=None)

    def _forget(self, load: _Load) -> None:
        if self._loads.get(load.key) is load:
            del self._loads[load.key]

    def _note_failure(self, load: _Load, error: ReplayError) -> None:
        self._failures.pop(load.key, None)
        if not load.waiters:
            return
        self._failures[load.key] = (error, trio.current_time())
        if len(self._failures) > _FAILURES_KEPT:
            del self._failures[next(iter(self._failures))]

    def _raise_failure(self, key: LoadKey) -> None:
        if not self._failures:
            return
        failure = self._failures.get(key)
        if failure is None:
            return
        error, failed_at = failure
        if trio.current_time() - failed_at >= _FAILURE_SECONDS:
            del self._failures[key]
            return
        raise error.again()
