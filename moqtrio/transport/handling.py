"""Running what an application does with each connection of a server."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import trio

from ..errors import MoqError, SessionClosed, SessionCode
from ..scope import is_wholly
from .connection import Connection

logger: logging.Logger = logging.getLogger("moqtrio.transport")

Handler = Callable[[Connection], Awaitable[object]]


async def run_handler(handler: Handler, connection: Connection) -> None:
    """Run ``handler(connection)``, and close the connection after it.

    An exception is logged and goes no further; cancellation does.
    """
    code, reason = SessionCode.NO_ERROR, ""
    try:
        await handler(connection)
    except BaseException as error:
        cancelled, failure = _split_cancellation(error)
        if failure is not None and not isinstance(failure, Exception):
            raise
        if failure is not None:
            if not is_wholly(failure, SessionClosed):
                code, reason = SessionCode.INTERNAL, "internal error"
            _log_failure(connection, failure)
        if cancelled is not None:
            code, reason = SessionCode.NO_ERROR, "server shut down"
            raise cancelled from None
    finally:
        connection.close(code, reason)


def _split_cancellation(
    error: BaseException,
) -> tuple[BaseException | None, BaseException | None]:
    """What of ``error`` is Trio's cancellation, and what is not."""
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.Cancelled)
    return (error, None) if isinstance(error, trio.Cancelled) else (None, error)


def _log_failure(connection: Connection, error: Exception) -> None:
    """What a handler ended with: the end of its connection is news to nobody, a peer's
    fault is one line, and a defect is a traceback."""
    peer = connection.remote_address
    if is_wholly(error, SessionClosed):
        logger.debug("connection with %s: %s", peer, connection.closed)
    elif isinstance(error, MoqError):
        logger.warning("connection with %s: %s", peer, error)
    else:
        logger.error("handler for %s failed", peer, exc_info=error)
