"""Does what worker threads would do in the one thread there is, so that runs can be repeated.

Work is done at once, at one instant of the run's own clock. When that is, and when who asked
for it gets to know, differs as it does with threads: everybody else may go on in between.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import trio

T = TypeVar("T")

_LONGEST_STALL = 3600.0
"""Seconds. Work cannot be cancelled, and a run must come to an end."""


class Workers:
    """Takes the place of ``trio.to_thread``.

    Attributes:
        seconds: how long each piece of work waits before it is done, and once more before
            its result is there.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._may_work = trio.Event()
        self._may_work.set()

    @property
    def stalled(self) -> bool:
        """Whether no work is done."""
        return not self._may_work.is_set()

    def stall(self) -> None:
        """Do nothing until :meth:`resume`."""
        if self._may_work.is_set():
            self._may_work = trio.Event()

    def resume(self) -> None:
        """Go on."""
        self._may_work.set()

    async def run_sync(
        self,
        work: Callable[..., T],
        *arguments: Any,
        abandon_on_cancel: bool = False,
        limiter: trio.CapacityLimiter,
    ) -> T:
        """See ``trio.to_thread.run_sync``."""
        await trio.lowlevel.checkpoint_if_cancelled()
        async with limiter:
            with trio.CancelScope(shield=not abandon_on_cancel):
                await self._take_time()
                try:
                    return work(*arguments)
                finally:
                    await self._take_time()

    async def _take_time(self) -> None:
        with trio.move_on_after(_LONGEST_STALL):
            await self._may_work.wait()
        await trio.sleep(self.seconds)


@contextmanager
def without_threads(workers: Workers) -> Iterator[None]:
    """While this is open, there are no threads."""

    async def run_sync(work: Callable[..., T], *arguments: Any, **options: Any) -> T:
        options.setdefault("limiter", trio.CapacityLimiter(1))
        return await workers.run_sync(work, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio.to_thread, "run_sync", run_sync)
        yield
