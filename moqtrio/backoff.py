"""How long to wait before something that failed is tried again, and when to give up."""

from __future__ import annotations

import math
import random

import attrs
import trio

_MOST_DOUBLINGS = 64  # more of them only overflow


@attrs.frozen(kw_only=True)
class Backoff:
    """How something that fails is tried again: after delays that grow, each with some chance
    in it, so that those who lost the same server do not come back all at once.

    Attributes:
        initial: seconds before the second try.
        factor: by how much each delay is longer than the one before.
        maximum: the longest delay in seconds.
        jitter: how much of each delay is left to chance: of a delay of 10 s and a jitter of
            0.5, between 5 and 10 s are waited.
        seconds: give up when the next try would begin later than this after the first
            failure; by default five minutes, :data:`math.inf` for never.
        attempts: how often it is tried again before giving up; None for any number.
    """

    initial: float = attrs.field(default=0.5, validator=attrs.validators.gt(0))
    factor: float = attrs.field(default=2.0, validator=attrs.validators.ge(1))
    maximum: float = attrs.field(default=15.0, validator=attrs.validators.gt(0))
    jitter: float = attrs.field(
        default=0.5, validator=[attrs.validators.ge(0), attrs.validators.le(1)]
    )
    seconds: float = attrs.field(default=300.0, validator=attrs.validators.ge(0))
    attempts: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.ge(1))
    )

    def delay(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row, of which there is at least one."""
        doublings = min(failures - 1, _MOST_DOUBLINGS)
        longest = min(self.initial * self.factor**doublings, self.maximum)
        return longest * random.uniform(1.0 - self.jitter, 1.0)


class Tries:
    """The tries at one thing, on Trio's clock.

    Args:
        backoff: how it is tried again.
    """

    __slots__ = ("_deadline", "_failures", "_step", "backoff")

    def __init__(self, backoff: Backoff) -> None:
        self.backoff: Backoff = backoff
        self._failures = 0
        self._step = 0
        self._deadline = math.inf

    def failed(self, *, seconds: float | None = None) -> float | None:
        """A try has failed: when to make the next one, or None where that was the last.

        ``seconds`` is a budget to use instead of the backoff's own, if this is the first
        failure in a row.
        """
        now = trio.current_time()
        if not self._failures:
            self._deadline = now + (self.backoff.seconds if seconds is None else seconds)
        self._failures += 1
        self._step += 1
        if self.backoff.attempts is not None and self._failures > self.backoff.attempts:
            return None
        again = now + self.backoff.delay(self._step)
        return again if again <= self._deadline else None

    def succeeded(self, *, lasting: bool = True) -> None:
        """A try has succeeded: the next failure is the first one again. The delays begin anew
        only if the success was ``lasting``."""
        self._failures = 0
        if lasting:
            self._step = 0
