"""Nurseries behind context managers: that there is one is nobody's business but ours."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio


@asynccontextmanager
async def open_scope() -> AsyncGenerator[trio.Nursery, None]:
    """A nursery whose tasks serve the block and end with it.

    When the block is left the tasks are cancelled. An exception of the block's own, or of
    one task, comes out bare.
    """
    with bare_exceptions():
        async with trio.open_nursery() as nursery:
            yield nursery
            nursery.cancel_scope.cancel()


@contextmanager
def bare_exceptions() -> Iterator[None]:
    """Let the one exception that ended a nursery out of the group the nursery made.

    Cancellations that accompany it are its consequence, not news. A group that was raised
    as a group, within, stays one.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        news = [error for error in group.exceptions if not is_wholly(error, trio.Cancelled)]
        if len(news) != 1:
            raise
        error, context = news[0], news[0].__context__
        try:
            raise error
        finally:  # it comes out as it went in, without the nursery's group as its context
            error.__context__ = context
            del news, error, context


def is_wholly(
    error: BaseException, kinds: type[BaseException] | tuple[type[BaseException], ...]
) -> bool:
    """Whether an error, or every error in a group of them, is of these kinds."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(kinds)[1] is None
    return isinstance(error, kinds)
