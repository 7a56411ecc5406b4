"""Runs Trio one step at a time, from code that is not asynchronous.

Hypothesis calls a state machine's rules one by one and wants each to have happened when the
rule returns. So Trio runs as a guest of the rules: a rule hands it one asynchronous function
and turns the crank until that has ended. In between nothing moves, not even the clock.

The run is the same every time. There is no thread: Trio only asks for one when it has nothing
to do, and the task that waits for the next step always has. Time is a ``MockClock`` and
jumps only in :meth:`TrioPump.sleep`. Hypothesis seeds the generator that orders Trio's tasks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

import outcome
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

Step = Callable[[], Awaitable[Any]]

_MOST_TICKS = 200_000


class Livelock(AssertionError):
    """A step did not come to an end: some task never stops to run."""


class TrioPump:
    """One run of Trio, moved on by :meth:`run`."""

    def __init__(self) -> None:
        self.clock = MockClock()
        self._ready: deque[Callable[[], object]] = deque()
        self._step: Step | None = None
        self._result: outcome.Outcome[Any] | None = None
        self._ended: outcome.Outcome[Any] | None = None
        self._nursery: trio.Nursery | None = None
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._ready.append,
            done_callback=self._done,
            host_uses_signal_set_wakeup_fd=True,
            clock=self.clock,
        )

    @property
    def nursery(self) -> trio.Nursery:
        """Where a step starts what is to go on after it."""
        assert self._nursery is not None
        return self._nursery

    def run(self, step: Step) -> Any:
        """Run ``step``, then everything it set in motion, until every task waits."""
        self._step, self._result = step, None
        for _ in range(_MOST_TICKS):
            result = self._take_result()
            if result is not None:
                return result.unwrap()
            self._raise_if_over()
            self._tick()
        raise Livelock(f"a step took more than {_MOST_TICKS} ticks")

    async def sleep(self, seconds: float) -> None:
        """Let time pass. For a step."""
        with self.time_passing():
            await trio.sleep(seconds)

    @contextmanager
    def time_passing(self) -> Iterator[None]:
        """Whenever every task waits, the clock goes to the next deadline. For a step."""
        self.clock.autojump_threshold = 0
        try:
            yield
        finally:
            self.clock.autojump_threshold = inf

    def close(self) -> None:
        """Cancel everything, and see it end."""
        for _ in range(_MOST_TICKS):
            if self._ended is not None:
                return
            if self._nursery is not None:
                self._nursery.cancel_scope.cancel()
            self.clock.autojump_threshold = 0  # what is shielded may have a deadline
            self._tick()
        raise Livelock("the run does not end when cancelled")

    def _take_result(self) -> outcome.Outcome[Any] | None:
        return self._result

    def _raise_if_over(self) -> None:
        """Where a task has failed, and with it the run: raise what it failed with."""
        if self._ended is None:
            return
        try:
            self._ended.unwrap()
        except BaseExceptionGroup as group:
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error from group
        raise AssertionError("the run has ended")

    def _tick(self) -> None:
        assert self._ready, "Trio has asked for a thread: a step waits for what nobody does"
        self._ready.popleft()()

    def _done(self, result: outcome.Outcome[Any]) -> None:
        self._ended = result

    async def _main(self) -> None:
        async with trio.open_nursery() as self._nursery:
            while True:
                step = self._step
                if step is None:
                    await trio.lowlevel.checkpoint()
                    continue
                self._step = None
                self._result = await outcome.acapture(_settled, step)


async def _settled(step: Step) -> Any:
    result = await step()
    await wait_all_tasks_blocked()
    return result
