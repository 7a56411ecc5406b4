"""Wakeup and Watchers: any number of changes, one wake-up, none lost."""

from __future__ import annotations

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from moqtrio.model.notify import Wakeup, Watchers


async def test_a_flag_that_is_set_is_taken_once() -> None:
    wakeup = Wakeup()
    wakeup.set()
    wakeup.set()
    with assert_checkpoints():
        await wakeup.wait()
    with trio.move_on_after(0) as scope:
        await wakeup.wait()
    assert scope.cancelled_caught


async def test_many_changes_wake_a_task_once() -> None:
    wakeup = Wakeup()
    woken: list[None] = []

    async def sleep() -> None:
        while True:
            await wakeup.wait()
            woken.append(None)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(sleep)
        await wait_all_tasks_blocked()
        for _ in range(1000):
            wakeup.set()
        await wait_all_tasks_blocked()
        assert len(woken) == 1
        wakeup.set()
        await wait_all_tasks_blocked()
        assert len(woken) == 2
        nursery.cancel_scope.cancel()


async def test_cancelling_a_wait_loses_nothing() -> None:
    wakeup = Wakeup()
    with trio.CancelScope() as scope:
        wakeup.set()
        scope.cancel()
        await wakeup.wait()
    assert scope.cancelled_caught
    with trio.fail_after(1):
        await wakeup.wait()
    # Cancelled while asleep, then set: the next wait returns, nobody is rescheduled twice.
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wakeup.wait)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        wakeup.set()
    wakeup.set()
    with trio.fail_after(1):
        await wakeup.wait()


async def test_a_second_waiter_is_refused_and_the_first_is_unharmed() -> None:
    wakeup = Wakeup()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wakeup.wait)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError, match="already waiting"):
            await wakeup.wait()
        wakeup.set()


async def test_watchers_may_take_themselves_and_others_away_meanwhile() -> None:
    watchers = Watchers()
    told: list[str] = []

    def leave() -> None:
        told.append("first")
        remove_first()
        remove_second()

    remove_first = watchers.add(leave)
    remove_second = watchers.add(lambda: None)
    watchers.add(lambda: told.append("third"))
    watchers.notify()
    watchers.notify()
    assert told == ["first", "third", "third"]
    assert len(watchers) == 1


async def test_one_function_may_be_added_twice() -> None:
    watchers = Watchers()
    told: list[None] = []

    def tell() -> None:
        told.append(None)

    remove = watchers.add(tell)
    watchers.add(tell)
    remove()
    watchers.notify()
    assert len(told) == 1
