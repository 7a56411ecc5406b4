"""How a change in shared state reaches the tasks that wait for it.

A log is read by many tasks, each at its own pace, and written by one that must not be
slowed by them. So a change only calls a handful of plain functions, and each of those
only marks a task as worth running: any number of changes before the task runs cost one
wake-up.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

Callback = Callable[[], None]


class Wakeup:
    """A flag that one task sleeps on and anything may set.

    :meth:`set` is synchronous and may be called any number of times; :meth:`wait`
    returns once for all of them. Only one task may wait at a time.
    """

    __slots__ = ("_flag", "_task")

    def __init__(self) -> None:
        self._flag = False
        self._task: trio.lowlevel.Task | None = None

    def set(self) -> None:
        """Wake the waiting task, or make its next :meth:`wait` return at once."""
        if self._flag:
            return
        self._flag = True
        if self._task is not None:
            trio.lowlevel.reschedule(self._task)
            self._task = None

    async def wait(self) -> None:
        """Return once :meth:`set` was called since the last time; always a checkpoint.

        Cancelling it leaves the flag as it is: nothing is lost.
        """
        if self._flag:
            await trio.lowlevel.checkpoint()
            self._flag = False
            return
        if self._task is not None:
            raise trio.BusyResourceError("another task is already waiting on this wake-up")
        self._task = trio.lowlevel.current_task()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._task = None
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)
        self._flag = False


class Watchers:
    """The functions to call when something changes. They must neither block nor raise."""

    __slots__ = ("_callbacks",)

    def __init__(self) -> None:
        self._callbacks: dict[object, Callback] = {}

    def add(self, callback: Callback) -> Callback:
        """Call ``callback`` at every change. Returns the function that undoes this."""
        key = object()
        self._callbacks[key] = callback

        def remove() -> None:
            self._callbacks.pop(key, None)

        return remove

    def notify(self) -> None:
        """Call them all. One that takes itself or another away meanwhile is fine."""
        for callback in tuple(self._callbacks.values()) if self._callbacks else ():
            callback()

    def __len__(self) -> int:
        return len(self._callbacks)
