"""How a failing source is asked again, and when it has failed for long enough."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import attrs
import trio

from ..backoff import Backoff, Tries
from ..errors import ReplayError
from ..model.frame import Frame
from ..model.source import End, GroupReader, Pending, Ready


@attrs.frozen
class RetryPolicy:
    """How a failing source is asked again.

    Attributes:
        budget: seconds to go on asking for one group. A source that used them up gets one
            try for each further group until it answers again.
        first_delay: seconds before the second try; doubled each time, with jitter.
        max_delay: the longest delay in seconds.
        breaker: how many groups in a row may fail before the subscription ends. A failure
            that is not retryable is an answer, and does not count.
    """

    budget: float = attrs.field(default=30.0, validator=attrs.validators.ge(0))
    first_delay: float = attrs.field(default=0.05, validator=attrs.validators.gt(0))
    max_delay: float = attrs.field(default=2.0, validator=attrs.validators.gt(0))
    breaker: int = attrs.field(default=16, validator=attrs.validators.ge(1))


class Retries:
    """What one subscription knows of its source's health, whichever group it asks for.

    Attributes:
        policy: how it is asked again.
        backoff: after which delays.
    """

    def __init__(self, policy: RetryPolicy | None = None) -> None:
        self.policy: RetryPolicy = RetryPolicy() if policy is None else policy
        self.backoff: Backoff = Backoff(
            initial=self.policy.first_delay, maximum=self.policy.max_delay
        )
        self._failed_in_a_row = 0
        self._failed_last: int | None = None

    @property
    def failing(self) -> bool:
        """Whether the last group that was asked for could not be had."""
        return self._failed_last is not None

    @property
    def budget(self) -> float:
        """Seconds there are for the next group."""
        return 0.0 if self._failed_in_a_row else self.policy.budget

    def answered(self) -> None:
        """The source has said something other than that it fails."""
        self._failed_in_a_row = 0
        self._failed_last = None

    def gave_up(self, sequence: int, error: ReplayError) -> None:
        """One group could not be had within its budget.

        Raises ``error`` where there have been too many of them in a row.
        """
        if sequence != self._failed_last:  # where a subscription starts is looked up twice
            self._failed_last = sequence
            self._failed_in_a_row += 1
        if self._failed_in_a_row >= self.policy.breaker:
            raise error


class SourceTries:
    """The tries for one group: exponential, with jitter, within the budget there is.

    Args:
        retries: those of the subscription.
    """

    __slots__ = ("_retries", "_retry_at", "_tries")

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        self._tries: Tries | None = None  # since the last success; most have not failed
        self._retry_at: float | None = None

    def waiting(self) -> Pending | None:
        """What there is to wait for before the next try, if anything."""
        if self._retry_at is None:
            return None
        if trio.current_time() >= self._retry_at:
            self._retry_at = None
            return None
        return Pending(partial(trio.sleep_until, self._retry_at))

    def failed(self) -> Pending | None:
        """A try has failed: what there is to wait for; None where that was the last one."""
        if self._tries is None:
            self._tries = Tries(self._retries.backoff)
        self._retry_at = self._tries.failed(seconds=self._retries.budget)
        if self._retry_at is None:
            self.answered()
            return None
        return self.waiting()

    def answered(self) -> None:
        """A try has succeeded, or the next one will be for something else."""
        self._tries = self._retry_at = None


class RetryingReader:
    """A :class:`~moqtrio.replay.GroupReader` that asks another one again where that fails.

    Only what cannot be had within the budget, or is not retryable, is raised.
    """

    __slots__ = ("_reader", "_retries", "_tries")

    def __init__(self, reader: GroupReader, retries: Retries) -> None:
        self._reader = reader
        self._retries = retries
        self._tries = SourceTries(retries)

    @property
    def sequence(self) -> int:
        """The group's sequence."""
        return self._reader.sequence

    def poll_frames(self, max_bytes: int) -> Ready[Sequence[Frame]] | Pending | End:
        """The next frames; see :class:`~moqtrio.replay.GroupReader`."""
        waiting = self._tries.waiting()
        if waiting is not None:
            return waiting
        try:
            answer = self._reader.poll_frames(max_bytes)
        except ReplayError as error:
            if not error.retryable:
                self._retries.answered()
                raise
            waiting = self._tries.failed()
            if waiting is None:
                raise
            return waiting
        if not isinstance(answer, Pending):
            self._tries.answered()
        if isinstance(answer, End):
            self._retries.answered()
        return answer

    def close(self) -> None:
        """Close the other one. Idempotent."""
        self._reader.close()
