"""HTTP/1.1 with one client: pages, and what becomes a WebSocket."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import formatdate
from urllib.parse import urlsplit

import h11
import trio
from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection, RejectConnection
from wsproto.events import Request as UpgradeRequest
from wsproto.handshake import H11Handshake
from wsproto.utilities import RemoteProtocolError

from ..handling import Handler, logger, run_handler
from ..qmux import VERSIONS, Agreement, QmuxConnection, choose, drive
from ..settings import TransportSettings
from .resources import Resource, Routes
from .waiting import Waiting
from .websocket import WebSocketLink

_LARGEST_HEAD = 16 * 1024  # and what is read at once: a head of twice that never passes
# How long, in seconds, what a refused client still sends is read and thrown away, so that
# it gets to read the refusal.
_LINGER = 1.0

_NO_BODY = "a request with a body is not for this server"

_Headers = Sequence[tuple[str, str]]


class Conversation:
    """One client's requests, one after the other.

    Args:
      stream: TCP or TLS.
      client: its address, for logs.
      routes: what there is to get.
      protocols: application protocols for WebSockets, the preferred one first.
      handler: what to do with a WebSocket's connection.
      needs_tls: whether there are WebSockets over TLS only.
      waiting: bounds the clients whose requests are waited for.
      settings: a request's head has to arrive within ``connect_timeout``; a client that
        asks for nothing, or does not read, is put up with for ``idle_timeout``.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        client: str,
        *,
        routes: Routes,
        protocols: Sequence[str],
        handler: Handler,
        needs_tls: bool,
        waiting: Waiting,
        settings: TransportSettings,
    ) -> None:
        self._stream = stream
        self._client = client
        self._routes = routes
        self._protocols = protocols
        self._handler = handler
        self._needs_tls = needs_tls
        self._waiting = waiting
        self._settings = settings
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=_LARGEST_HEAD)

    async def run(self) -> None:
        """Answer until the client, or a time limit, has had enough."""
        try:
            patience = self._settings.connect_timeout
            while (request := await self._next_request(patience)) is not None:
                if _wants_websocket(request):
                    if await self._upgrade(request):
                        return
                else:
                    await self._answer(request)
                if not self._go_on():
                    break
                patience = self._settings.idle_timeout
            with trio.move_on_after(_LINGER):
                await self._stream.aclose()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client is gone

    # Requests

    async def _next_request(self, patience: float) -> h11.Request | None:
        """The next request without what may follow its head; None where none comes."""
        with trio.move_on_after(patience) as scope, self._waiting.one_more(scope):
            try:
                while True:
                    event = self._http.next_event()
                    if isinstance(event, h11.Request):
                        return event
                    if event is not h11.NEED_DATA:
                        return None
                    is_new = not self._http.trailing_data[0]
                    data = await self._stream.receive_some(_LARGEST_HEAD)
                    if is_new:
                        limit = trio.current_time() + self._settings.connect_timeout
                        scope.deadline = min(scope.deadline, limit)
                    self._http.receive_data(bytes(data))
            except h11.RemoteProtocolError as error:
                await self._refuse(error.error_status_hint, f"not a valid request: {error}")
        return None

    def _has_body(self) -> bool:
        """Whether something follows the request's head."""
        return not isinstance(self._http.next_event(), h11.EndOfMessage)

    def _go_on(self) -> bool:
        """Whether another request may follow the one that was answered."""
        if self._http.states != {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            return False
        self._http.start_next_cycle()
        return True

    # Answers

    async def _answer(self, request: h11.Request) -> None:
        if self._has_body():
            await self._refuse(400, _NO_BODY)
            return
        path = _path_of(request)
        route = self._routes.get(path) if path is not None else None
        if path is None:
            await self._refuse(400, "the request's target is no path")
        elif route is None:
            await self._send(404, Resource(body=b"there is nothing here\n"))
        elif request.method not in (b"GET", b"HEAD"):
            text = Resource(body=b"this can only be read\n")
            await self._send(405, text, [("Allow", "GET, HEAD")])
        else:
            resource = route if isinstance(route, Resource) else route()
            await self._send(200, resource, with_body=request.method == b"GET")

    async def _refuse(self, status: int, reason: str, headers: _Headers = ()) -> None:
        """Answer a request that cannot be understood, and no more after it."""
        resource = Resource(body=f"{reason}\n".encode())
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send(status, resource, [*headers, ("Connection", "close")])
            await self._linger()

    async def _send(
        self,
        status: int,
        resource: Resource,
        headers: _Headers = (),
        *,
        with_body: bool = True,
    ) -> None:
        head = [
            ("Date", formatdate(usegmt=True)),
            ("Content-Type", resource.content_type),
            ("Content-Length", str(len(resource.body))),
            ("Cache-Control", resource.cache_control),
            *resource.headers,
            *headers,
        ]
        if resource.any_origin:
            head.append(("Access-Control-Allow-Origin", "*"))
        events: list[h11.Event] = [h11.Response(status_code=status, headers=head)]
        if with_body:
            events.append(h11.Data(data=resource.body))
        events.append(h11.EndOfMessage())
        await self._write(b"".join([self._http.send(event) or b"" for event in events]))

    async def _write(self, data: bytes) -> None:
        with trio.move_on_after(self._settings.idle_timeout) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the client does not read its answer")

    async def _linger(self) -> None:
        if isinstance(self._stream, trio.SocketStream):
            with trio.move_on_after(_LINGER):
                await self._stream.send_eof()
                while await self._stream.receive_some(_LARGEST_HEAD):
                    pass

    # WebSockets

    async def _upgrade(self, request: h11.Request) -> bool:
        """Serve a WebSocket until it is over; False where none came about."""
        if self._has_body():
            await self._refuse(400, _NO_BODY)
            return False
        if self._needs_tls and not isinstance(self._stream, trio.SSLStream):
            await self._refuse(403, "this server wants to see a certificate: use wss")
            return False
        handshake = H11Handshake(ConnectionType.SERVER)
        try:
            handshake.initiate_upgrade_connection(list(request.headers), bytes(request.target))
            asked = next(handshake.events())
        except RemoteProtocolError as error:
            hint = error.event_hint
            status = hint.status_code if isinstance(hint, RejectConnection) else 400
            wanted = [("Sec-WebSocket-Version", "13")] if status == 426 else []
            await self._refuse(status, f"no WebSocket handshake: {error}", wanted)
            return False
        except UnicodeError:
            await self._refuse(400, "no WebSocket handshake: a header field is not ASCII")
            return False
        assert isinstance(asked, UpgradeRequest)
        agreement = choose(self._protocols, asked.subprotocols)
        if agreement is None:
            await self._refuse(400, self._what_is_spoken())
            return False
        answer = AcceptConnection(subprotocol=agreement.subprotocol)
        await self._write(handshake.send(answer))
        protocol = handshake.connection
        assert protocol is not None
        protocol.receive_data(self._http.trailing_data[0])
        link = WebSocketLink(
            self._stream, protocol, largest_message=agreement.version.largest_message
        )
        await self._serve(agreement, link, asked.target)
        return True

    def _what_is_spoken(self) -> str:
        return (
            "none of the protocols offered in Sec-WebSocket-Protocol is spoken here, but "
            f"{', '.join(self._protocols)} over {', '.join(each.name for each in VERSIONS)}"
        )

    async def _serve(self, agreement: Agreement, link: WebSocketLink, target: str) -> None:
        connection = QmuxConnection(
            agreement,
            self._settings,
            is_client=False,
            remote_address=self._client,
            request_path=target,
            peer_certificate=link.peer_certificate,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drive, connection, link)
            await connection.ready.wait()
            if connection.closed is None:
                await run_handler(self._handler, connection)
            else:  # there is no handler to tell of it
                logger.info("%s: %s", self._client, connection.closed)


def _wants_websocket(request: h11.Request) -> bool:
    return request.method == b"GET" and any(
        name == b"upgrade" and value.strip().lower() == b"websocket"
        for name, value in request.headers
    )


def _path_of(request: h11.Request) -> str | None:
    """The path that is asked for, without its query; None where the target is none."""
    try:
        parts = urlsplit(request.target.decode("ascii"))
    except ValueError:
        return None
    return parts.path if parts.path.startswith("/") else None
