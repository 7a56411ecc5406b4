"""History that is kept elsewhere, as a store: behind blocking calls, or an async function.

Both answer a track's requests (:meth:`moqtrio.Track.requests`), a task for each, so that
what is true of requests is true here: one load however many wait for it, what is wanted
most comes first, memory is bounded, and nothing goes on that nobody wants any more.
"""

from __future__ import annotations

import logging
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
)
from contextlib import asynccontextmanager, suppress
from typing import Final, Protocol, TypeVar

import trio

from ..errors import ProtocolError, ReplayError
from ..model.frame import Frame
from ..model.requests import (
    FRAME_OVERHEAD,
    ReplayRequest,
    ReplayRequests,
    ReplayWriter,
    RequestLimits,
    RequestQueue,
)
from ..model.source import Missing
from ..model.track import Track
from ..scope import open_scope

logger: logging.Logger = logging.getLogger("moqtrio.requests")

T = TypeVar("T")

HOP_BYTES: Final = 256 * 1024
"""What is read in one call of a worker thread, roughly. Each call costs about 40 us."""

# What may be better in a moment: a network, a disk, a server that is too busy.
_PASSING = (OSError, trio.BrokenResourceError, trio.TooSlowError)


class BlockingStore(Protocol):
    """History behind blocking calls, for :func:`from_blocking`.

    The methods are called in worker threads, several at a time.
    """

    def bounds(self) -> range:
        """The sequences there may be: ``range(oldest, next)``. There may be holes."""
        ...

    def read(self, sequence: int) -> Iterable[Frame] | Missing | None:
        """The frames of one group, in order.

        They are taken in a worker thread, a piece at a time, as subscribers take them; so
        for a large group return a generator. It is closed when it is not wanted any more.

        None: there is no such group. :class:`~moqtrio.Missing`: nor any below its
        ``next_available``.
        """
        ...


AsyncFunction = Callable[
    [int],
    Awaitable[AsyncIterable[Frame] | Iterable[Frame] | Missing | None] | AsyncIterable[Frame],
]


Answer = Callable[[ReplayRequest, RequestQueue], Awaitable[None]]


class RequestedStore:
    """A store for ``create_track(store=...)``: it answers for one track, and records nothing.

    Made by :func:`from_blocking` and :func:`from_async`.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        answer: Answer,
        limits: RequestLimits,
        known: range | None,
    ) -> None:
        self._nursery = nursery
        self._answer = answer
        self._limits = limits
        self._known = known
        self._closed = False
        self._queue: RequestQueue | None = None

    def close(self) -> None:
        """From now on there is nobody who answers. Idempotent."""
        self._closed = True
        if self._queue is not None:
            self._queue.close()

    def attach(self, track: Track) -> RequestQueue:
        """Answer for ``track``, whose next group comes after what the store has. Raises
        ProtocolError where it answers for another one, or is closed."""
        label = f"{track.broadcast}/{track.name}"
        if self._closed:
            raise ProtocolError(f"the store that is to answer for track {label} is closed")
        if self._queue is not None:
            raise ProtocolError(
                f"this store answers for track {self._queue.label} and cannot for {label}: "
                "open one for each track"
            )
        if self._known is not None:
            track.log.begin_at(self._known.stop)
        queue = self._queue = RequestQueue(track.log, label)
        queue.known = self._known
        self._nursery.start_soon(self._serve, queue, ReplayRequests(queue, self._limits))
        return queue

    async def _serve(self, queue: RequestQueue, requests: ReplayRequests) -> None:
        with requests, suppress(trio.ClosedResourceError):
            async for request in requests:
                self._nursery.start_soon(self._work, queue, request)

    async def _work(self, queue: RequestQueue, request: ReplayRequest) -> None:
        """Answer one request, for as long as anybody wants the answer."""
        with request:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_cancel_when_withdrawn, request, nursery.cancel_scope)
                try:
                    await self._answer(request, queue)
                except Exception as error:
                    if not request.withdrawn:
                        request.fail_with(_replay_error(error, request, queue))
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def from_blocking(
    store: BlockingStore,
    *,
    max_threads: int = 4,
    buffer_bytes: int = 2**20,
    cache_bytes: int = 16 * 2**20,
) -> AsyncGenerator[RequestedStore, None]:
    """Serve history that is behind blocking calls: a store for ``create_track(store=...)``.

    It is only read. The track's next group comes after ``store.bounds()``, unless its
    ``first_sequence`` is higher. What is published from now on is replayed once it has left
    memory if ``store`` has it by then, which is for you to see to.

    Leaving the context cancels what is under way; calls that have begun are waited for.

    Args:
        store: what to call.
        max_threads: how many calls at a time.
        buffer_bytes: memory for one group while it is read. Larger ones flow through.
        cache_bytes: memory for groups that were read, for others who ask soon after.

    What ``store`` raises fails one try to read one group. After an OSError, and a ReplayError
    that is ``retryable``, subscriptions try again within their patience; after anything else
    they are told that the group is lost, and it is logged.

    Raises what ``store.bounds()`` raises.
    """
    limiter = trio.CapacityLimiter(max_threads)
    known = await trio.to_thread.run_sync(store.bounds, limiter=limiter)

    async def answer(request: ReplayRequest, queue: RequestQueue) -> None:
        await _answer_in_threads(request, queue, store, limiter)

    limits = RequestLimits(max_threads, buffer_bytes, cache_bytes)
    async with _open_store(answer, limits, known) as requested:
        yield requested


@asynccontextmanager
async def from_async(
    function: AsyncFunction,
    *,
    max_calls: int = 16,
    buffer_bytes: int = 2**20,
    cache_bytes: int = 16 * 2**20,
) -> AsyncGenerator[RequestedStore, None]:
    """Serve history that an async function looks up: a store for ``create_track(store=...)``.

    Say with the track's ``first_sequence`` how much history there is. Leaving the context
    cancels every call.

    Args:
        function: called with a sequence, in a task that is cancelled when nobody wants the
            group any more. Returns its frames; or an async iterator of them, which is
            advanced as subscribers take them and closed in the end; or None, where there is
            no such group; or :class:`~moqtrio.Missing`, where there is none below its
            ``next_available`` either. May be an async generator function.
        max_calls: how many calls at a time, up to the moment they return.
        buffer_bytes: memory for one group of an async iterator. Larger ones flow through.
        cache_bytes: memory for groups that were found, for others who ask soon after.

    What ``function`` raises fails one try to get one group. After OSError,
    trio.BrokenResourceError, trio.TooSlowError, and a ReplayError that is ``retryable``,
    subscriptions try again within their patience; after anything else they are told that
    the group is lost, and it is logged.
    """

    async def answer(request: ReplayRequest, queue: RequestQueue) -> None:
        await _answer_from(function, request, queue)

    limits = RequestLimits(max_calls, buffer_bytes, cache_bytes)
    async with _open_store(answer, limits, None) as requested:
        yield requested


@asynccontextmanager
async def _open_store(
    answer: Answer, limits: RequestLimits, known: range | None
) -> AsyncGenerator[RequestedStore, None]:
    async with open_scope() as nursery:
        store = RequestedStore(nursery, answer, limits, known)
        try:
            yield store
        finally:
            store.close()


async def _cancel_when_withdrawn(request: ReplayRequest, scope: trio.CancelScope) -> None:
    await request.wait_withdrawn()
    scope.cancel()


def _replay_error(error: Exception, request: ReplayRequest, queue: RequestQueue) -> ReplayError:
    """What subscriptions are told of an exception."""
    if isinstance(error, ReplayError):
        return error
    passing = isinstance(error, _PASSING)
    message = f"group {request.sequence} of {queue.label} could not be read: {error!r}"
    if not passing:
        logger.error("%s", message, exc_info=error)
    return ReplayError(message, retryable=passing)


# Blocking


class _BlockingRead:
    """One group, read in worker threads: one call at a time."""

    def __init__(self, store: BlockingStore, sequence: int) -> None:
        self._store = store
        self._sequence = sequence
        self._frames: Iterator[Frame] | None = None

    @property
    def is_open(self) -> bool:
        """Whether there may be more of it."""
        return self._frames is not None

    def begin(self) -> list[Frame] | Missing | range:
        """The first frames; or what there is besides, where there is no such group."""
        found = self._store.read(self._sequence)
        if found is None:
            return self._store.bounds()
        if isinstance(found, Missing):
            return found
        self._frames = iter(found)
        return self.read()

    def read(self) -> list[Frame]:
        """The next frames."""
        assert self._frames is not None
        frames = []
        size = 0
        for frame in self._frames:
            frames.append(frame)
            size += len(frame.payload) + FRAME_OVERHEAD
            if size >= HOP_BYTES:
                return frames
        self.close()
        return frames

    def close(self) -> None:
        """Let go of the group."""
        frames, self._frames = self._frames, None
        close = getattr(frames, "close", None)
        if close is not None:
            close()


async def _answer_in_threads(
    request: ReplayRequest,
    queue: RequestQueue,
    store: BlockingStore,
    limiter: trio.CapacityLimiter,
) -> None:
    reading = _BlockingRead(store, request.sequence)

    async def in_thread(function: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(function, limiter=limiter)

    try:
        found = await in_thread(reading.begin)
        if isinstance(found, range):
            queue.known = found
            _report_hole(request, queue, found)
        elif isinstance(found, Missing):
            _report_missing(request, queue, found)
        else:
            group = request.accept()
            await _send(group, found)
            while reading.is_open:
                await _send(group, await in_thread(reading.read))
            group.finish()
    finally:
        if reading.is_open:
            with trio.CancelScope(shield=True):
                await in_thread(reading.close)


def _report_hole(request: ReplayRequest, queue: RequestQueue, known: range) -> None:
    """The store does not have a group, but may have those in ``known``."""
    if request.sequence in known:
        request.missing()
    else:
        below = request.sequence < known.start
        _report_missing(request, queue, Missing(known.start if below else None))


def _report_missing(request: ReplayRequest, queue: RequestQueue, missing: Missing) -> None:
    end = missing.next_available
    request.missing(max(queue.edge, request.sequence + 1) if end is None else end)


async def _send(group: ReplayWriter, frames: Iterable[Frame]) -> None:
    """Write frames, waiting only where there is no room."""
    for frame in frames:
        try:
            group.write_frame(frame.payload, frame.timestamp_us)
        except trio.WouldBlock:
            await group.send_frame(frame.payload, frame.timestamp_us)


# Async


async def _answer_from(
    function: AsyncFunction, request: ReplayRequest, queue: RequestQueue
) -> None:
    called = function(request.sequence)
    found = called if isinstance(called, AsyncIterable) else await called
    if found is None:
        request.missing()
    elif isinstance(found, Missing):
        _report_missing(request, queue, found)
    elif isinstance(found, AsyncIterable):
        await _send_each(request.accept(), found)
    else:
        group = request.accept()
        await _send(group, found)
        group.finish()


async def _send_each(group: ReplayWriter, frames: AsyncIterable[Frame]) -> None:
    try:
        async for frame in frames:
            await group.send_frame(frame.payload, frame.timestamp_us)
        group.finish()
    finally:
        close = getattr(frames, "aclose", None)
        if close is not None:
            await close()
