"""Several addresses of one host: the order, the race, and what is left of it."""

from __future__ import annotations

import errno
import os
import socket
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from moqtrio.errors import ConnectError
from moqtrio.transport.happy_eyeballs import ATTEMPT_DELAY, interleaved, race, resolve
from moqtrio.transport.quic import open_quic

from .pairs import ALPN, pinned, plain_settings, start_server
from .test_quic_server import ask, echo

FOUR, SIX = int(socket.AF_INET), int(socket.AF_INET6)


def test_families_take_turns() -> None:
    found = [(SIX, "a"), (SIX, "b"), (SIX, "c"), (FOUR, "d"), (SIX, "a"), (FOUR, "e")]
    assert interleaved(found) == [(SIX, "a"), (FOUR, "d"), (SIX, "b"), (FOUR, "e"), (SIX, "c")]
    assert interleaved(found[3:]) == [(FOUR, "d"), (SIX, "a"), (FOUR, "e")]
    assert interleaved([]) == []


class Attempts:
    """Attempts that take a time each, and then succeed or fail."""

    def __init__(self, *plans: tuple[float, bool]) -> None:
        self.begun: list[float] = []
        self.discarded: list[int] = []
        self.cancelled: list[int] = []
        self._start = trio.current_time()
        self._plans = plans

    def make(self, index: int) -> Any:
        async def attempt() -> int:
            seconds, succeeds = self._plans[index]
            self.begun.append(round(trio.current_time() - self._start, 3))
            try:
                await trio.sleep(seconds)
            except trio.Cancelled:
                self.cancelled.append(index)
                raise
            if succeeds:
                return index
            raise ConnectError(f"failure {index}")

        return attempt

    async def run(self) -> int:
        attempts = [self.make(index) for index in range(len(self._plans))]
        return await race(attempts, discard=self.discarded.append)


async def test_the_next_one_begins_after_a_delay(autojump_clock: MockClock) -> None:
    attempts = Attempts((100, True), (100, True), (0.1, True), (1, True))
    assert await attempts.run() == 2
    assert attempts.begun == [0, ATTEMPT_DELAY, 2 * ATTEMPT_DELAY]
    assert sorted(attempts.cancelled) == [0, 1]
    assert attempts.discarded == []


async def test_the_next_one_begins_at_once_when_one_fails(autojump_clock: MockClock) -> None:
    attempts = Attempts((0.01, False), (0.01, False), (0.01, True))
    assert await attempts.run() == 2
    assert attempts.begun == [0, 0.01, 0.02]


async def test_an_early_one_may_still_win(autojump_clock: MockClock) -> None:
    attempts = Attempts((0.3, True), (100, True))
    assert await attempts.run() == 0
    assert attempts.cancelled == [1]


async def test_every_failure_is_named_in_its_order(autojump_clock: MockClock) -> None:
    attempts = Attempts((1, False), (0.1, False), (0.5, False))
    with pytest.raises(ConnectError, match=r"^failure 0; failure 1; failure 2$"):
        await attempts.run()
    alone = Attempts((1, False))
    with pytest.raises(ConnectError, match=r"^failure 0$"):
        await alone.run()


async def test_of_two_that_succeed_at_once_one_is_discarded() -> None:
    go = trio.Event()
    discarded: list[str] = []

    async def attempt(name: str) -> str:
        with trio.CancelScope(shield=True):  # it has its result before it can be cancelled
            await go.wait()
        return name

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_set_later, go)
        won = await race([lambda: attempt("a"), lambda: attempt("b")], discard=discarded.append)
    assert {won, *discarded} == {"a", "b"}


async def _set_later(event: trio.Event) -> None:
    await trio.sleep(1.2 * ATTEMPT_DELAY)
    event.set()


async def test_an_unknown_host() -> None:
    with pytest.raises(ConnectError, match=r"nowhere\.invalid"):
        await resolve("nowhere.invalid", 1, socket.SOCK_STREAM)
    assert await resolve("127.0.0.1", 80, socket.SOCK_STREAM) == [(FOUR, ("127.0.0.1", 80))]


class Resolver(trio.abc.HostnameResolver):
    """Knows one host, by addresses of both families."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def getaddrinfo(self, host: Any, port: Any, *_: Any, **__: Any) -> Any:
        return [
            (SIX, socket.SOCK_DGRAM, 17, "", (address, port, 0, 0))
            if ":" in address
            else (FOUR, socket.SOCK_DGRAM, 17, "", (address, port))
            for address in self._addresses
        ]

    async def getnameinfo(self, *_: Any) -> Any:
        raise NotImplementedError


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_a_silent_address_costs_a_delay_and_leaves_nothing() -> None:
    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, echo)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(("127.0.0.9", listener.port))
            silent.setblocking(False)
            trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.9", "127.0.0.1"))
            before = descriptors()
            started = trio.current_time()
            async with open_quic(
                "two.test", listener.port, alpn=[ALPN], tls=pinned(), settings=plain_settings()
            ) as connection:
                assert ATTEMPT_DELAY <= trio.current_time() - started < ATTEMPT_DELAY + 2
                assert connection.remote_address == f"127.0.0.1:{listener.port}"
                assert await ask(connection, b"hello") == b"hello"
                # The attempt that lost has closed its socket by now: one is left.
                assert descriptors() == before + 1
            assert descriptors() == before
        nursery.cancel_scope.cancel()


async def test_without_ipv6_the_next_address_is_tried_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OldSocket(socket.socket):
        def __init__(self, family: int = -1, *arguments: Any, **options: Any) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *arguments, **options)

    async with trio.open_nursery() as nursery:
        listener = await start_server(nursery, echo)
        monkeypatch.setattr(socket, "socket", OldSocket)
        trio.socket.set_custom_hostname_resolver(Resolver("::1", "::2", "127.0.0.1"))
        async with open_quic(
            "many.test", listener.port, alpn=[ALPN], tls=pinned(), settings=plain_settings()
        ) as connection:
            assert await ask(connection, b"hello") == b"hello"
        nursery.cancel_scope.cancel()


async def test_what_every_address_said_is_told() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.9", 0))
        port = silent.getsockname()[1]
        trio.socket.set_custom_hostname_resolver(Resolver("127.0.0.9", "127.0.0.8"))
        with pytest.raises(ConnectError) as raised:
            async with open_quic(
                "two.test",
                port,
                alpn=[ALPN],
                tls=pinned(),
                settings=plain_settings(connect_timeout=0.5),
            ):
                pytest.fail("connected to nobody")
    first, second = str(raised.value).split("; ")[0], str(raised.value)
    assert f"127.0.0.9:{port} did not answer within 0.5 s" in first
    assert f"127.0.0.8:{port} (connection refused)" in second


async def test_one_refusal_is_an_answer_for_all_addresses() -> None:
    async def attempt(retryable: bool) -> None:
        raise ConnectError("no", retryable=retryable)

    for answers, expected in (([True, True], True), ([False, True], False)):
        with pytest.raises(ConnectError) as raised:
            await race([partial(attempt, each) for each in answers], discard=repr)
        assert raised.value.retryable == expected


async def test_what_cannot_be_a_name_is_an_answer() -> None:
    with pytest.raises(ConnectError, match="no name of a host") as raised:
        await resolve("a" * 64, 443, socket.SOCK_DGRAM)
    assert not raised.value.retryable
