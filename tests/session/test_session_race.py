"""WebTransport and WebSocket race for a session: who wins, what becomes of the other, and what
is said where neither gets there."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
from trio.testing import MockClock

import moqtrio
from moqtrio.errors import ConnectError
from moqtrio.session.dialing import HEAD_START, Opener, first_of
from moqtrio.transport.connection import Connection
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.wire import LITE_05, LITE_06


class Ways:
    """Ways to connect that take their time, and what became of each."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.connections: dict[str, Connection] = {}
        self.left: list[str] = []

    def way(self, name: str, seconds: float, error: Exception | None = None) -> Opener:
        @asynccontextmanager
        async def opener() -> AsyncGenerator[Connection, None]:
            self.begun.append(name)
            try:
                await trio.sleep(seconds)
                if error is not None:
                    raise error
                connection, _ = memory_connection_pair()
                self.connections[name] = connection
                try:
                    yield connection
                finally:
                    connection.close()
            finally:
                self.left.append(name)

        return opener


@pytest.mark.parametrize(
    ("first", "second", "winner", "begun"),
    [
        (HEAD_START - 0.1, 0.0, "first", ["first"]),
        (HEAD_START + 0.1, 0.2, "first", ["first", "second"]),
        (HEAD_START + 0.2, 0.1, "second", ["first", "second"]),
        (60.0, 0.1, "second", ["first", "second"]),
    ],
)
async def test_the_first_to_get_there_wins(
    first: float, second: float, winner: str, begun: list[str], autojump_clock: MockClock
) -> None:
    ways = Ways()
    async with first_of(ways.way("first", first), ways.way("second", second)) as connection:
        assert connection is ways.connections[winner]
        await trio.sleep(100)
        assert connection.closed is None
        assert sorted(ways.left) == sorted(set(begun) - {winner})
    assert ways.begun == begun
    assert all(each.closed is not None for each in ways.connections.values())


async def test_two_at_once_are_one_connection(autojump_clock: MockClock) -> None:
    for _ in range(20):  # in either order
        ways = Ways()
        both = (ways.way("first", HEAD_START + 0.1), ways.way("second", 0.1))
        async with first_of(*both) as connection:
            await trio.sleep(1)
            still_open = [each for each in ways.connections.values() if each.closed is None]
            assert still_open == [connection]
        assert sorted(ways.left) == ["first", "second"]


async def test_a_failure_gives_way_at_once(autojump_clock: MockClock) -> None:
    ways = Ways()
    began = trio.current_time()
    async with first_of(ways.way("first", 0.0, ConnectError("no")), ways.way("second", 0.0)):
        assert trio.current_time() - began < HEAD_START
        assert list(ways.connections) == ["second"]


async def test_where_both_fail_both_reasons_are_told(autojump_clock: MockClock) -> None:
    ways = Ways()
    late, soon = ConnectError("late", retryable=False), ConnectError("soon")
    with pytest.raises(ConnectError, match=r"^late; soon$") as caught:
        async with first_of(ways.way("first", 5.0, late), ways.way("second", 0.0, soon)):
            pytest.fail("connected to nobody")
    assert not caught.value.retryable


@pytest.mark.parametrize("at", [0.0, 0.1, HEAD_START, HEAD_START + 0.1, 1.0])
async def test_a_race_is_given_up(at: float, autojump_clock: MockClock) -> None:
    ways = Ways()
    with trio.move_on_after(at) as scope:
        async with first_of(ways.way("first", HEAD_START + 0.1), ways.way("second", 0.1)):
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert sorted(ways.left) == sorted(ways.begun)
    assert all(each.closed is not None for each in ways.connections.values())


async def test_what_is_no_failure_to_connect_comes_out_as_it_is(
    autojump_clock: MockClock,
) -> None:
    ways = Ways()
    with pytest.raises(ZeroDivisionError):
        async with first_of(ways.way("first", 0.0, ZeroDivisionError()), ways.way("second", 0.0)):
            pytest.fail("it was raised too late")


async def test_versions_nobody_speaks_are_named_for_both_ways() -> None:
    tls = moqtrio.generate_certificate()
    async with trio.open_nursery() as nursery:
        listener = await nursery.start(
            partial(
                moqtrio.serve,
                moqtrio.Origin(),
                "https://127.0.0.1:0",
                tls=tls,
                versions=[LITE_05],
            )
        )
        pinned = moqtrio.ClientTls(fingerprint=listener.fingerprint)
        with pytest.raises(ConnectError) as caught:
            async with moqtrio.open_session(listener.url, tls=pinned, versions=[LITE_06]):
                pytest.fail("no version is in common")
        nursery.cancel_scope.cancel()
    assert not caught.value.retryable
    quic, websocket = str(caught.value).split("; ", 1)
    for reason in (quic, websocket):
        assert "none of the protocols offered" in reason
        assert "moq-lite-05" in reason
    assert "WebSocket" in websocket


@pytest.mark.parametrize("status", [403, 404, 503])
async def test_a_websocket_that_is_refused(status: int) -> None:
    async def refuse(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, refuse, listeners)
        with pytest.raises(ConnectError) as caught:
            async with moqtrio.open_session(
                f"http://127.0.0.1:{port}/room",
                tls=moqtrio.ClientTls(insecure=True),
            ):
                pytest.fail("nobody is there")
        nursery.cancel_scope.cancel()
    assert f"127.0.0.1:{port}" in str(caught.value)
    assert f"refused a WebSocket at /room with HTTP status {status}" in str(caught.value)
    assert caught.value.retryable == (status == 503)


async def test_a_host_that_is_not_there_is_said_once() -> None:
    with pytest.raises(ConnectError) as caught:
        async with moqtrio.open_session("https://no.such.host.invalid"):
            pytest.fail("there is no such host")
    assert str(caught.value).count("no.such.host.invalid") == 1
