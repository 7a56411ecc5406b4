"""What was sent before the end of a session is not lost by it."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from moqtrio.errors import SessionClosed, StreamReset
from moqtrio.transport.base import ConnectionBase
from moqtrio.transport.connection import Connection
from moqtrio.transport.quic.codes import WireCode
from moqtrio.transport.webtransport import open_webtransport, serve_webtransport

from ..pairs import ALPN, memory_pair, plain_settings, quic_pair, read_all, until, webtransport_pair
from . import raw
from .raw import serving, varints
from .test_server import Sessions

# The tasks that are woken run in any order: try it often enough to meet each.
_ORDERS = 20


@pytest.mark.parametrize("how", ["capsule", "finish", "connection"])
async def test_what_comes_with_the_end(how: str) -> None:
    for _ in range(_ORDERS):
        sessions = Sessions()
        async with serving(sessions) as peer:
            await peer.hello()
            connect = await peer.session()
            session = await sessions.next()
            uni = peer.connection.open_uni_nowait()
            uni.send_nowait(varints(raw.UNI, 0) + b"last words", finish=True)
            if how == "capsule":
                connect.send.send_nowait(raw.capsule(raw.CLOSE, bytes(4)), finish=True)
            elif how == "finish":
                connect.send.finish()
            else:
                peer.connection.close()
            await session.wait_closed()
            assert await read_all(await session.accept_uni()) == b"last words"
            with pytest.raises(SessionClosed):
                await session.accept_uni()


async def test_a_flush_gets_ahead_of_a_close() -> None:
    async with quic_pair() as (near, far):
        assert isinstance(near, ConnectionBase)
        near.open_uni_nowait().send_nowait(b"last words", finish=True)
        near._flush_now()
        near.close()
        await far.wait_closed()
        assert await read_all(await far.accept_uni()) == b"last words"


async def test_a_client_flushes_between_the_sessions_end_and_the_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ends: list[object] = []

    async def handler(session: Connection) -> None:
        await session.wait_closed()

    async with memory_pair() as (near, far), trio.open_nursery() as nursery:
        sessions: list[Connection] = []

        def flush() -> None:
            ends.append((near.closed, sessions[0].closed is not None))

        monkeypatch.setattr(near, "_flush_now", flush)

        async def serve() -> None:
            await serve_webtransport(far, handler, protocols=[ALPN])

        nursery.start_soon(serve)
        async with open_webtransport(near, authority="a", path="/", protocols=[ALPN]) as session:
            sessions.append(session)
        assert ends == [(None, True)]


async def test_a_reset_that_follows_the_end_takes_nothing_away() -> None:
    """Over QUIC the peer resets its streams once the end of the session is confirmed."""
    async with webtransport_pair() as (near, far):
        sender = near.open_uni_nowait()
        sender.send_nowait(b"unfinished")
        await until(lambda: far.statistics().receive_buffered == len(b"unfinished"))
        near.close(3, "enough")
        await far.wait_closed()
        # The reset has come when nothing is open any more.
        await until(lambda: near._carrier.statistics().streams_open <= 3)  # type: ignore[attr-defined]  # the connection under it
        received = await far.accept_uni()
        assert await received.receive_some() == b"unfinished"
        with pytest.raises(SessionClosed, match="enough"):
            await received.receive_some()


@pytest.mark.parametrize("leave", ["at once", "later"])
async def test_unread_streams_are_given_back_over_quic(leave: str) -> None:
    """Those that ended, and those that are reset because their session did, before or after
    its handler has returned: sessions share the limits."""
    settings = plain_settings(connection_window=30_000, max_streams_uni=4)
    reset, ended = trio.Event(), 0

    async def handler(session: Connection) -> None:
        nonlocal ended
        ended += 1
        received = [await session.accept_uni() for _ in range(3)]
        received[1].stop(1)
        await session.wait_closed()
        if leave == "later":
            await reset.wait()

    async def serve(connection: Connection) -> None:
        await serve_webtransport(connection, handler, protocols=[ALPN], max_sessions=1)

    async with (
        quic_pair(client=settings, server=settings) as (near, far),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(serve, far)
        peer = raw.Peer(near)
        await peer.hello()
        for _ in range(8):
            reset = trio.Event()
            with trio.fail_after(5):
                connect = await peer.session()
                start = varints(raw.UNI, connect.send.stream_id)
                await peer.open(start + bytes(6000), finish=True)
                stopped = await peer.open(start + bytes(6000), finish=True)
                unfinished = await peer.open(start + bytes(6000))
                await stopped.wait_stopped()
                connect.send.send_nowait(raw.capsule(raw.CLOSE, bytes(4)), finish=True)
                assert await read_all(connect.receive) == b""
                await unfinished.wait_stopped()
                # The control streams are left, and on the far side what nobody took.
                await until(lambda: near.statistics().streams_open == 2)
                reset.set()
        near.close()
    assert ended == 8


async def test_what_webtransport_says_of_streams_has_a_name() -> None:
    async with webtransport_pair() as (near, far):
        for wire, code in ((0x170D7B68, 0x03), (0x3994BD84, 0x30)):
            sender = near.open_uni_nowait()
            sender.send_nowait(b"x")
            received = await far.accept_uni()
            sender.reset(WireCode(wire))
            with pytest.raises(StreamReset) as raised:
                await read_all(received)
            assert raised.value.code == code
