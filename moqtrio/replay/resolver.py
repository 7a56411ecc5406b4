"""Decides, one sequence at a time, where a subscription gets its next group from.

The rules (docs/replay.md has them with their reasons):

* A group is in the live log, or in the store, or nowhere; each sequence is looked up on
  its own. There is no hand-over point between history and live for a hole to fall into.
* Absent and failed are different answers: what neither the log nor the store has is
  dropped with code 0, what could not be read is retried and then dropped with another.
* Nothing here waits. Every answer is there now, or says when to ask again.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

from ..errors import ReplayError, RequestError, StreamCode
from ..model.log import TrackLog
from ..model.requests import RequestQueue
from ..model.source import GroupReader, Missing, Pending, Ready, ReplaySource
from .expiry import Expiry
from .live import PARKED, LiveReader, Parked
from .reopened import ReopenedReader
from .retry import Retries, RetryingReader, RetryPolicy, SourceTries
from .window import WindowStart

Reader = LiveReader | GroupReader

_DAMAGED_AT_ONCE = 1024


@attrs.frozen
class Dropped:
    """No group in ``[start, end)`` will come. Code 0: there is none."""

    start: int
    end: int
    code: int


class Done:
    """Every sequence up to the end has been answered (see :data:`DONE`)."""

    def __repr__(self) -> str:
        return "DONE"


DONE: Final = Done()

Resolved = Ready[Reader] | Dropped | Pending | Parked | Done


class Resolver:
    """Answers for one subscription what comes next.

    Args:
        log: the track's groups in memory.
        source: the store behind it, or None.
        start: the first sequence asked for; None for the latest.
        end: where to stop (half-open); None for never.
        priority: how much what comes is wanted, for a source that can choose.
        max_latency: seconds a group may lag behind the latest; beyond it is dropped, unless
            it is history that was asked for.
        by_clock: whether a group also lags behind by when it was queued, and not only by its
            timestamp.
        retry: how a failing source is asked again.
        window: how many seconds before the latest group, by their timestamps, the first may be;
            0 is the latest alone. Only where there is a ``start``. Of a track whose past an
            application answers for it is what is in memory, or the latest alone.

    Attributes:
        retries: the tries of this subscription; whoever reads its groups tells them, too.
        expiry: which groups have become too old.
    """

    def __init__(
        self,
        log: TrackLog,
        source: ReplaySource | None,
        *,
        start: int | None,
        end: int | None,
        priority: int = 0,
        max_latency: float = math.inf,
        by_clock: bool = True,
        retry: RetryPolicy | None = None,
        window: float = math.inf,
    ) -> None:
        self.cursor: int | None = start
        self.end: int | None = end
        self.priority: int = priority
        self.retries: Retries = Retries(retry)
        self.expiry: Expiry = Expiry(log, max_latency, by_clock=by_clock)
        self._log = log
        self._source = source
        self._window: WindowStart | None = None
        self._latest_only = window <= 0
        if start is not None and window == math.inf:
            self.expiry.exempt_end = log.edge
        elif start is not None and window > 0:
            # An application is not asked for group after group to learn how old they are.
            stored = None if isinstance(source, RequestQueue) else source
            self._window = WindowStart(log, stored, start, window)
            # Who asks for the recent past alone may mean the latest group, which is not past.
            self.expiry.exempt_end = log.edge if log.latest is None else log.latest
        self._found: Reader | None = None
        self._tries = SourceTries(self.retries)

    def poll_start(self) -> Ready[int] | Pending:
        """Find the first group that will come; ``cursor`` is then its sequence.

        The smallest available sequence at or above the one asked for, over the log and
        the store together, or the first that was lost, if that is before it; where there is
        none, the live edge (or later, if later was asked for). What was found is held until
        it is served, so that it is there when the answer has been given.
        """
        log = self._log
        log.evict()
        if self.cursor is None or self._latest_only:
            self.cursor = max(self.cursor or 0, self._latest())
            self._latest_only = False
        if self._window is not None:
            young = self._window.poll()
            if isinstance(young, Pending):
                return young
            self.cursor = max(self.cursor, young.value)
            self._window = None
            if isinstance(self._source, RequestQueue):
                in_memory = log.first_from(self.cursor)
                self.cursor = max(self.cursor, self._latest() if in_memory is None else in_memory)
        while self.cursor < log.edge:
            group = log.get(self.cursor)
            if group is not None:
                self._found = LiveReader(group)
                break
            answer = self._poll_source(self.cursor)
            if isinstance(answer, Pending):
                return answer
            if isinstance(answer, Ready):
                self._found = answer.value
                break
            if isinstance(answer, Dropped):
                break  # It is there and cannot be read: start with it, and drop it by name.
            end, code = log.absence(self.cursor, self._next_available(self.cursor, answer))
            if code:
                break  # It was there and is lost: as above, which the store will say soon.
            self.cursor = end
        return Ready(self.cursor)

    def poll_next(self) -> Resolved:
        """What comes at ``cursor``; moves the cursor past what is answered.

        Raises ReplayError when the source has failed for too many groups in a row.
        """
        cursor = self.cursor
        assert cursor is not None, "poll_start comes first"
        if self._found is not None:
            found, self._found = self._found, None
            if found.sequence == cursor and not self._at_end(cursor):
                self.cursor = cursor + 1
                return Ready(found)
            found.close()
        if self._at_end(cursor):
            return DONE
        if self.expiry.is_limited:
            expired_until = self.expiry.expired_until(cursor)
            if expired_until > cursor:
                return self._drop(expired_until, StreamCode.OLD)
        group = self._log.get(cursor)
        if group is not None:
            self.cursor = cursor + 1
            return Ready(LiveReader(group))
        if cursor >= self._log.edge:
            return PARKED
        lost_until = self._log.lost_until(cursor)
        if lost_until is not None:
            return self._drop(min(lost_until, self._log.edge), StreamCode.EVICTED)
        answer = self._poll_source(cursor)
        if isinstance(answer, Missing):
            return self._drop(*self._log.absence(cursor, self._next_available(cursor, answer)))
        if isinstance(answer, Dropped):
            return self._drop(self._damaged_until(answer), answer.code)
        if isinstance(answer, Ready):
            self.cursor = cursor + 1
        return answer

    def raise_start(self, start: int) -> None:
        """Skip ahead to ``start``; going back is not possible, and ignored."""
        if self.cursor is None or start > self.cursor:
            self.cursor = start

    def reopen(self, sequence: int, taken: int) -> Reader:
        """Go on from the store with a group that has left memory, after ``taken`` frames.

        Raises ReplayError where there is no store.
        """
        if self._source is None:
            raise ReplayError(
                f"group {sequence} left memory long ago, and the subscriber did not take it",
                code=StreamCode.EVICTED,
                retryable=False,
            )
        reader = ReopenedReader(self._source, sequence, taken, priority=self.priority)
        return RetryingReader(reader, self.retries)

    def close(self) -> None:
        """Let go of what was found and not taken."""
        if self._window is not None:
            self._window.close()
            self._window = None
        if self._found is not None:
            self._found.close()
            self._found = None

    def _at_end(self, cursor: int) -> bool:
        final = self._log.final_sequence
        return (self.end is not None and cursor >= self.end) or (
            final is not None and cursor >= final
        )

    def _damaged_until(self, dropped: Dropped) -> int:
        """Where the run of groups ends that are known to be as unreadable as the first one."""
        end = dropped.end
        if self._source is None or self.retries.failing:
            return end  # the source is failing, not the group: the next may have better luck
        limit = min(self._log.edge, end + _DAMAGED_AT_ONCE)
        while end < limit and not self._at_end(end) and self._log.get(end) is None:
            try:
                answer = self._source.poll_group(end, priority=self.priority)
            except ReplayError as error:
                if error.retryable or (error.code or StreamCode.EVICTED) != dropped.code:
                    break
                end += 1
                continue
            if isinstance(answer, Ready):
                self._found = RetryingReader(answer.value, self.retries)
            break
        return end

    def _drop(self, end: int, code: int) -> Dropped:
        start = self.cursor
        assert start is not None
        if self.end is not None:
            end = min(end, self.end)
        self.cursor = end
        return Dropped(start, end, code)

    def _next_available(self, sequence: int, missing: Missing) -> int:
        """The first sequence above ``sequence`` that the log or the store has, else the edge."""
        candidates = [self._log.edge]
        in_log = self._log.first_from(sequence)
        if in_log is not None:
            candidates.append(in_log)
        if missing.next_available is not None:
            candidates.append(missing.next_available)
        return max(min(candidates), sequence + 1)

    def _latest(self) -> int:
        """Where a subscription begins that did not say."""
        log = self._log
        # After a restart what was published last is in the store alone; and where subscribers
        # see only what is durable, it may be there already while one that is hidden follows.
        stored = None if self._source is None else self._source.bounds().latest
        latest = max((each for each in (log.latest, stored) if each is not None), default=log.edge)
        return min(latest, log.edge)

    def _poll_source(self, sequence: int) -> Ready[Reader] | Pending | Missing | Dropped:
        """Ask the source, within the retry policy. A failure for good is a Dropped of one."""
        if self._source is None:
            return Missing(None)
        waiting = self._tries.waiting()
        if waiting is not None:
            return waiting
        try:
            answer = self._source.poll_group(sequence, priority=self.priority)
        except ReplayError as error:
            return self._failed(sequence, error)
        if isinstance(answer, Pending):
            return answer
        self._tries.answered()
        if isinstance(answer, Missing):
            self.retries.answered()
            return answer
        return Ready(RetryingReader(answer.value, self.retries))

    def _failed(self, sequence: int, error: ReplayError) -> Pending | Dropped:
        if error.retryable:
            waiting = self._tries.failed()
            if waiting is not None:
                return waiting
            self.retries.gave_up(sequence, error)
        else:
            self._tries.answered()
            self.retries.answered()
        return Dropped(sequence, sequence + 1, error.code or StreamCode.EVICTED)


async def resolve_group(resolver: Resolver) -> Reader:
    """Find the group at the resolver's cursor, waiting for the store while its retries last.

    Raises RequestError where there is none, ReplayError where it cannot be read. Cancelling
    it leaves nothing behind.
    """
    sequence = resolver.cursor
    while True:
        answer = resolver.poll_next()
        if isinstance(answer, Ready):
            return answer.value
        if isinstance(answer, Pending):
            await answer.wait()
        elif isinstance(answer, Dropped) and answer.code:
            raise ReplayError(f"group {sequence} cannot be read", code=answer.code, retryable=False)
        else:
            raise RequestError(f"there is no group {sequence}", code=StreamCode.NOT_FOUND)
