"""A qmux connection whose peer is the test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair
from wsproto.connection import Connection as Protocol
from wsproto.connection import ConnectionType

from moqtrio.transport.http.websocket import WebSocketLink
from moqtrio.transport.qmux import Agreement, QmuxConnection, QmuxVersion, drive
from moqtrio.transport.qmux.frames import Frame, ParametersFrame, decode_frames, encode_parameters
from moqtrio.transport.qmux.parameters import Parameters
from moqtrio.transport.qmux.versions import QMUX_02

from ..pairs import ALPN, plain_settings

GENEROUS = Parameters(
    initial_max_data=1 << 20,
    initial_max_stream_data_bidi_local=1 << 20,
    initial_max_stream_data_bidi_remote=1 << 20,
    initial_max_stream_data_uni=1 << 20,
    initial_max_streams_bidi=100,
    initial_max_streams_uni=100,
    max_datagram_frame_size=16382,
)


def make_connection(
    *, version: QmuxVersion = QMUX_02, is_client: bool = False, **settings: Any
) -> QmuxConnection:
    """A connection that has not heard of its peer."""
    return QmuxConnection(
        Agreement(version, ALPN),
        plain_settings(**settings),
        is_client=is_client,
        remote_address="test",
        request_path="/",
    )


def open_connection(
    peer: Parameters = GENEROUS,
    *,
    version: QmuxVersion = QMUX_02,
    is_client: bool = False,
    **settings: Any,
) -> QmuxConnection:
    """A connection whose peer has declared itself. By default this side is the server."""
    settings.setdefault("keep_alive", None)
    connection = make_connection(version=version, is_client=is_client, **settings)
    connection.feed(encode_parameters(peer.encode()))
    connection.settle()
    assert isinstance(taken(connection)[0], ParametersFrame)
    return connection


def taken(connection: QmuxConnection, most: int = 1 << 20) -> list[Frame]:
    """The frames there are to send."""
    frames = [frame for message in connection.take(most) for frame in decode_frames(message)]
    connection.sent()
    return frames


@asynccontextmanager
async def linked(
    *,
    version: QmuxVersion = QMUX_02,
    lockstep: bool = False,
    client: dict[str, Any] | None = None,
    server: dict[str, Any] | None = None,
) -> AsyncIterator[Linked]:
    """Two connections over a WebSocket over a stream in memory, so that time may be
    virtual; in lockstep, what is sent waits until it is read."""
    make: Any = lockstep_stream_pair if lockstep else memory_stream_pair
    near_stream, far_stream = make()
    ends = []
    for stream, kind, settings in (
        (near_stream, ConnectionType.CLIENT, client),
        (far_stream, ConnectionType.SERVER, server),
    ):
        connection = make_connection(
            version=version, is_client=kind is ConnectionType.CLIENT, **(settings or {})
        )
        link = WebSocketLink(
            stream, Protocol(kind), largest_message=connection._version.largest_message
        )
        ends.append((connection, link, stream))
    async with trio.open_nursery() as nursery:
        pair = Linked(nursery, ends)
        yield pair
        nursery.cancel_scope.cancel()


class Linked:
    """The ends of :func:`linked`, which are driven one by one."""

    def __init__(
        self, nursery: trio.Nursery, ends: list[tuple[QmuxConnection, WebSocketLink, Any]]
    ) -> None:
        self._nursery = nursery
        (self.near, self.near_link, self.near_stream) = ends[0]
        (self.far, self.far_link, self.far_stream) = ends[1]

    def drive_near(self) -> trio.CancelScope:
        return self._drive(self.near, self.near_link)

    def drive_far(self) -> trio.CancelScope:
        return self._drive(self.far, self.far_link)

    def _drive(self, connection: QmuxConnection, link: WebSocketLink) -> trio.CancelScope:
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await drive(connection, link)

        self._nursery.start_soon(run)
        return scope
