"""Old groups as requests that an application answers in its own time."""

from __future__ import annotations

import math
from types import TracebackType

import trio

from ...errors import ProtocolError, ReplayError, StreamCode
from .buffer import GroupBuffer
from .queue import Entry, RequestLimits, RequestQueue, RequestStatistics
from .writer import ReplayWriter, call_soon, forgotten


class ReplayRequest:
    """Somebody waits for a group that has left memory. From :meth:`ReplayRequests.receive`.

    Answer it once, with :meth:`accept`, :meth:`missing`, :meth:`retry` or :meth:`fail`,
    whenever you like: who waits goes on waiting. However many wait for the group, there is
    one request, and all get its answer.

    Use it as a context manager: what leaves the block unanswered has failed, and a writer
    that was not finished is aborted. A request that is forgotten fails as well.
    """

    __slots__ = ("__weakref__", "_buffer", "_entry", "_queue", "_settled", "_token")

    def __init__(self, queue: RequestQueue, entry: Entry) -> None:
        self._settled = False
        self._queue = queue
        self._entry = entry
        self._buffer: GroupBuffer | None = None
        self._token = trio.lowlevel.current_trio_token()

    @property
    def sequence(self) -> int:
        """The group's number on its track."""
        return self._entry.sequence

    @property
    def priority(self) -> int:
        """How much the group is wanted: the highest priority of those who wait, now. Only
        good for comparing requests with each other: higher comes first."""
        return self._entry.priority

    @property
    def readahead(self) -> int:
        """How many of the groups after this one are likely to be asked for next: as many as
        were asked for in a row before it, at most 16, and none that is in memory. Worth
        having at hand where fetching several at once is cheap."""
        return self._entry.readahead or 0

    @property
    def withdrawn(self) -> bool:
        """Whether nobody has waited for the answer, or read the group, for a second. Then it
        may be dropped without harm, and stays withdrawn: whoever asks again causes a new
        request. Also True once the channel was closed."""
        if self._buffer is not None:
            return self._buffer.is_given_up()
        return not self._settled and self._queue.is_withdrawn(self._entry)

    async def wait_withdrawn(self) -> None:
        """Wait until :attr:`withdrawn`: for a task beside the one that works on the answer,
        to cancel it. Never returns for a request that was answered otherwise than with
        :meth:`accept`, nor after its group was finished."""
        await trio.lowlevel.checkpoint()
        while not self.withdrawn:
            await (self._buffer or self._entry).demand.wait_changed()

    def accept(self) -> ReplayWriter:
        """Provide the group: returns what writes it.

        Where the request was withdrawn meanwhile, writing raises trio.BrokenResourceError.
        Raises ProtocolError where the request was answered before, as all answers do.
        """
        self._settle()
        self._buffer = self._queue.accept(self._entry)
        return ReplayWriter(self._buffer)

    def missing(self, next_available: int | None = None) -> None:
        """There is no such group, nor any below ``next_available``: subscribers are told that
        none of ``[sequence, next_available)`` will come, with code 0 for "does not exist".
        None is for this group alone. What is in memory is sent all the same.

        Raises ValueError where ``next_available`` does not come after the group.
        """
        if next_available is not None and next_available <= self.sequence:
            raise ValueError(
                f"expected next_available to be above {self.sequence}, got {next_available}"
            )
        self._settle()
        end = self.sequence + 1 if next_available is None else next_available
        self._queue.miss(self._entry, end)

    def retry(self, after: float) -> None:
        """Not now: ask again after so many seconds, if somebody still waits then.

        Raises ValueError where ``after`` is negative or not finite.
        """
        if not (math.isfinite(after) and after >= 0):
            raise ValueError(f"expected a number of seconds that is not negative, got {after}")
        self._settle()
        self._queue.retry(self._entry, after)

    def fail(self, code: int = StreamCode.CANCEL) -> None:
        """The group cannot be had: subscribers are told so, with this code, and go on after
        it.

        Raises ValueError for code 0, which would say that there is no such group.
        """
        if not code:
            raise ValueError("expected a code other than 0, which says that there is no group")
        self.fail_with(
            ReplayError(f"group {self.sequence} cannot be had", code=int(code), retryable=False)
        )

    def fail_with(self, error: ReplayError) -> None:
        """As :meth:`fail`, with an error of your own: where it is ``retryable`` every
        subscription asks again, with growing delays, for as long as its patience lasts.

        May also come after :meth:`accept`: then it ends the group that is being written.
        """
        if self._buffer is not None:
            self._buffer.fail(error)
            return
        self._settle()
        self._queue.fail(self._entry, error)

    def _settle(self) -> None:
        if self._settled:
            raise ProtocolError(f"the request for group {self.sequence} was answered already")
        self._settled = True

    def __enter__(self) -> ReplayRequest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._buffer is not None:
            self._buffer.fail(forgotten(self.sequence))
        elif not self._settled:
            self._settled = True
            self._queue.forget(self._entry)

    def __del__(self) -> None:
        if not self._settled:
            call_soon(self._token, self._queue.forget, self._entry)


class ReplayRequests(trio.abc.ReceiveChannel[ReplayRequest]):
    """The requests for one track's old groups. Made by :meth:`Track.requests`.

    The one that is wanted most comes first, among equals the one that has waited longest.
    When as many as ``max_unanswered`` were taken and not answered, :meth:`receive` waits.
    Several tasks may receive.

    Once it is closed, every request that was not answered has failed, groups that are being
    written are aborted, and what is asked for later fails at once, until
    :meth:`Track.requests` is called again.
    """

    def __init__(self, queue: RequestQueue, limits: RequestLimits) -> None:
        self._closed = True  # as long as the queue has not said yes
        self._queue = queue
        self._token = trio.lowlevel.current_trio_token()
        queue.open(limits)
        self._closed = False

    def receive_nowait(self) -> ReplayRequest:
        """The next request, if there is one. Raises trio.WouldBlock, ClosedResourceError."""
        if self._closed:
            raise trio.ClosedResourceError
        entry = self._queue.take()
        if entry is None:
            raise trio.WouldBlock
        return ReplayRequest(self._queue, entry)

    async def receive(self) -> ReplayRequest:
        """The next request, when there is one. Cancelling it loses none.

        Raises trio.ClosedResourceError where this side has closed the channel. It has no
        other end.
        """
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return self.receive_nowait()
            except trio.WouldBlock:
                await self._queue.wait_due()

    def statistics(self) -> RequestStatistics:
        """A snapshot of what is asked for and answered."""
        return self._queue.statistics()

    def close(self) -> None:
        """Close the channel; see the class. Idempotent."""
        if not self._closed:
            self._closed = True
            self._queue.close()

    async def aclose(self) -> None:
        """As :meth:`close`, and a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def __enter__(self) -> ReplayRequests:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._closed:
            call_soon(self._token, self._queue.close)
