"""A nursery for the tasks behind a context manager."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def open_scope() -> AsyncGenerator[trio.Nursery, None]:
    """A nursery whose tasks serve the block and end with it.

    When the block is left the tasks are cancelled. An exception of the block's own, or of
    one task, comes out bare: that there is a nursery is nobody's business but ours.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        error = _only(group)
        if error is group:
            raise
        context = error.__context__
        try:
            raise error
        finally:  # the exception comes out as it went in, without the group as its context
            error.__context__ = context
            del error, context


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one exception in ``group``; ``group`` itself where there are several.

    Cancellations that accompany an exception are its consequence, not news.
    """
    _, rest = group.split(trio.Cancelled)
    error: BaseException = rest if rest is not None else group
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
