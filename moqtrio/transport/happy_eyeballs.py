"""Connecting to a host that has several addresses (RFC 8305, "Happy Eyeballs").

The families take turns, and the next address is tried while the one before it is still
silent: a broken IPv6 costs a quarter of a second, not a time-out.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import trio

from ..errors import ConnectError
from ..scope import bare_exceptions

T = TypeVar("T")

ATTEMPT_DELAY = 0.25
"""Seconds before the next address is tried beside one that is silent (RFC 8305 section 8)."""


async def resolve(host: str, port: int, kind: socket.SocketKind) -> list[tuple[int, Any]]:
    """The (family, address) pairs of ``host``, in the order to try them.

    Raises:
      ConnectError: there is no such host.
    """
    try:
        found = await trio.socket.getaddrinfo(host, port, type=kind)
    except OSError as error:
        raise ConnectError(f"cannot find the address of {host!r}: {error.strerror}") from error
    except UnicodeError as error:
        raise ConnectError(f"{host!r} is no name of a host: {error}", retryable=False) from error
    return interleaved([(int(family), address) for family, _, _, _, address in found])


def interleaved(addresses: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
    """Each once, the families taking turns (RFC 8305 section 4).

    The first stays the first, and within a family the order stays.
    """
    families: dict[int, list[tuple[int, Any]]] = {}
    for family, address in dict.fromkeys(addresses):
        families.setdefault(family, []).append((family, address))
    turns: list[tuple[int, Any]] = []
    while families:
        for family in tuple(families):
            turns.append(families[family].pop(0))
            if not families[family]:
                del families[family]
    return turns


async def race(
    attempts: Sequence[Callable[[], Awaitable[T]]],
    *,
    discard: Callable[[T], object],
    delay: float = ATTEMPT_DELAY,
) -> T:
    """The result of the first attempt that succeeds.

    An attempt begins when the one before it has failed, or ``delay`` seconds after it.
    Once one has succeeded the others are cancelled; ``discard`` is called with what one of
    them brought all the same.

    Raises:
      ConnectError: all failed; it names the reason of each, in their order.

    Any other exception of an attempt ends the race, and comes out as it is.
    """
    failures: dict[int, ConnectError] = {}
    won: list[T] = []

    async def attempt(index: int, failed: trio.Event) -> None:
        try:
            result = await attempts[index]()
        except ConnectError as error:
            failures[index] = error
            failed.set()
            return
        if won:
            discard(result)
        else:
            won.append(result)
            nursery.cancel_scope.cancel()

    with bare_exceptions():
        async with trio.open_nursery() as nursery:
            for index in range(len(attempts)):
                failed = trio.Event()
                nursery.start_soon(attempt, index, failed)
                with trio.move_on_after(delay):
                    await failed.wait()
    if won:
        return won[0]
    if len(failures) == 1:
        raise failures[0]
    reasons = dict.fromkeys(str(failures[index]) for index in range(len(attempts)))
    retryable = all(failure.retryable for failure in failures.values())
    raise ConnectError("; ".join(reasons), retryable=retryable)
