"""A nursery behind a context manager does not show in the exceptions that pass it."""

from __future__ import annotations

import pytest
import trio

from moqtrio.scope import open_scope


async def test_the_tasks_end_with_the_block(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(1):
        async with open_scope() as nursery:
            nursery.start_soon(trio.sleep_forever)


async def test_an_exception_of_the_block_comes_out_as_it_was_raised() -> None:
    cause = KeyError("cause")
    error = ValueError("mine")

    async def block() -> None:
        async with open_scope() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise error from cause

    with pytest.raises(ValueError, match="mine") as caught:
        await block()
    assert caught.value is error
    assert error.__cause__ is cause
    assert error.__context__ is None


async def test_an_exception_of_a_task_comes_out_bare() -> None:
    async def fail() -> None:
        raise OSError("task")

    async def block() -> None:
        async with open_scope() as nursery:
            nursery.start_soon(fail)
            await trio.sleep_forever()

    with pytest.raises(OSError, match="task"):
        await block()


async def test_a_group_that_was_raised_as_one_stays_one() -> None:
    inner = ValueError("inner")
    with pytest.raises(ExceptionGroup, match="mine") as caught:
        async with open_scope():
            raise ExceptionGroup("mine", [inner])
    assert caught.value.exceptions == (inner,)


async def test_several_exceptions_stay_together() -> None:
    async def fail() -> None:
        try:
            await trio.sleep_forever()
        finally:
            raise OSError("task")

    async def block() -> None:
        async with open_scope() as nursery:
            nursery.start_soon(fail)
            await trio.testing.wait_all_tasks_blocked()
            raise ValueError("block")

    with pytest.raises(ExceptionGroup) as caught:
        await block()
    assert {type(error) for error in caught.value.exceptions} == {ValueError, OSError}


async def test_a_cancellation_passes(autojump_clock: trio.testing.MockClock) -> None:
    with trio.move_on_after(1) as scope:
        async with open_scope() as nursery:
            nursery.start_soon(trio.sleep_forever)
            await trio.sleep_forever()
    assert scope.cancelled_caught
