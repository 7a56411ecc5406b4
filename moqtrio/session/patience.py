"""How long a peer may take to say what a stream is for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from ..transport.connection import Connection

T = TypeVar("T")

REQUEST_TIMEOUT = 10.0
"""Seconds a peer may take from opening a stream to having said what it is for."""


async def patiently(connection: Connection, wait: Callable[[], Awaitable[T]]) -> T:
    """``await wait()``, for at most :data:`REQUEST_TIMEOUT` seconds.

    While bytes of the peer lie here unread, it may be our flow control that keeps it from
    saying more; then there is more time. ``wait`` must lose nothing by being cancelled.

    Raises trio.TooSlowError.
    """
    while True:
        with trio.move_on_after(REQUEST_TIMEOUT):
            return await wait()
        if not connection.statistics().receive_buffered:
            raise trio.TooSlowError
