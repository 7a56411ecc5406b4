"""moq-rs as a client over WebSocket. Its server listens on UDP alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import moqtrio
import pytest
import trio
from moqtrio.session.session import Session
from moqtrio.transport.connection import Connection
from moqtrio.transport.http import HttpListener, serve_http
from moqtrio.wire import OFFERED, version_for_alpn

from .endpoints import append_groups, assert_next_groups
from .processes import MoqRs, assert_groups, moq_rs_client

FRAMES, SIZE = 3, 40_000


class WebSocketServer:
    """A moqtrio server over WebSocket, and what it saw."""

    def __init__(self, origin: moqtrio.Origin) -> None:
        self.origin = origin
        self.sessions: list[Session] = []
        self.connections: list[Connection] = []
        self.url = ""

    async def handle(self, connection: Connection) -> None:
        version = version_for_alpn(connection.alpn)
        assert version is not None
        session = Session(connection, version, publish=self.origin)
        self.connections.append(connection)
        self.sessions.append(session)
        await session.run()


@asynccontextmanager
async def websocket_server(
    origin: moqtrio.Origin, versions: list[str] | None = None, *, encrypted: bool = False
) -> AsyncIterator[tuple[WebSocketServer, str]]:
    server = WebSocketServer(origin)
    tls = moqtrio.generate_certificate()
    async with trio.open_nursery() as nursery:
        listener: HttpListener = await nursery.start(
            partial(
                serve_http,
                server.handle,
                "127.0.0.1",
                0,
                protocols=versions or [version.alpn for version in OFFERED],
                tls=tls,
            )
        )
        server.url = f"{'wss' if encrypted else 'ws'}://127.0.0.1:{listener.port}/some/path?x=1"
        yield server, tls.fingerprint
        nursery.cancel_scope.cancel()


async def check_both_ways(server: WebSocketServer, client: MoqRs) -> None:
    """The client reads what the server publishes, and the other way round."""
    await client.do("subscribe", id="s", broadcast="ours", track="t", start=0, end=8)
    groups = await client.groups("s", 8)
    assert_groups(groups, 0, 8, FRAMES, SIZE)

    await client.do("publish", broadcast="theirs", track="t")
    await client.do(
        "append", broadcast="theirs", track="t", start=0, end=8, frames=FRAMES, size=SIZE
    )
    (session,) = server.sessions
    async with session.subscribe("theirs", "t", start=0) as subscription:
        with trio.fail_after(20):
            await assert_next_groups(subscription, 0, 8, FRAMES, SIZE)


@pytest.mark.parametrize("encrypted", [False, True], ids=["ws", "wss"])
async def test_moq_rs_over_websocket(encrypted: bool) -> None:
    origin = moqtrio.Origin()
    append_groups(origin.create_broadcast("ours").create_track("t"), 0, 8, FRAMES, SIZE)
    async with websocket_server(origin, encrypted=encrypted) as (server, fingerprint):
        async with moq_rs_client(server.url, fingerprint) as client:
            await check_both_ways(server, client)
            (connection,) = server.connections
            assert connection.request_path == "/some/path?x=1"
            assert connection.alpn == OFFERED[0].alpn
            assert connection.statistics().smoothed_rtt > 0
        with trio.fail_after(5):
            end = await connection.wait_closed()
        assert end.remote
