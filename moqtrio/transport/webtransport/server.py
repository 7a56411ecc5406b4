"""Serving WebTransport sessions."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence

import attrs
import trio

from ...errors import SessionCode, StreamReset
from ...scope import open_scope
from ..connection import URGENT, BidiStream, Connection
from ..handling import Handler, run_handler
from ..quic.codes import BUFFERED_STREAM_REJECTED, SESSION_GONE
from ..streams import ReceiveHalf
from .codes import H3Code, H3Error, MessageError
from .fields import (
    AVAILABLE_PROTOCOLS,
    DRAFT,
    PROTOCOL,
    Fields,
    Message,
    decode_strings,
    encode_strings,
)
from .frames import RequestFrames
from .http3 import Http3Connection
from .records import BITE
from .session import WebTransportSession

logger: logging.Logger = logging.getLogger("moqtrio.transport")

_OK = 200
_NOTHING_TO_READ = (StreamReset, trio.ClosedResourceError)
# Requests that have not been answered.
_MOST_REQUESTS = 16
# Streams that came before their session.
_MOST_EARLY_STREAMS = 64


@attrs.frozen
class WebTransportRequest:
    """What a client asks for, to decide by.

    Attributes:
        authority: the host, and perhaps the port, of the URL.
        path: path and query of the URL.
        origin: where the page came from that asks, if a browser says so.
        protocols: the protocols the client offers, the preferred one first.
    """

    authority: str
    path: str
    origin: str | None
    protocols: tuple[str, ...]


async def serve_webtransport(
    connection: Connection,
    handler: Handler,
    *,
    protocols: Sequence[str],
    max_sessions: int = 4,
    refuse: Callable[[WebTransportRequest], int | None] | None = None,
) -> None:
    """Serve one QUIC connection whose ALPN is ``h3``, until it is over.

    Runs ``handler(session)`` in a task for each session. A session is closed when its
    handler returns; a handler that raises is logged and disturbs no other. A connection
    without a session is closed after the ``connect_timeout`` of its settings. Cancelling
    closes every session and the connection, telling the peer.

    Args:
      connection: one that nothing else uses.
      handler: what to do with a session.
      protocols: the protocols spoken, the preferred one first. A client that offers none of
        them is refused.
      max_sessions: sessions the client may have at once; further ones are refused.
      refuse: given a request, returns the HTTP status to refuse it with, or None to
        accept. Must not block.
    """
    server = _Server(connection, protocols=protocols, max_sessions=max_sessions, refuse=refuse)
    try:
        async with trio.open_nursery() as handlers, open_scope() as nursery:
            await server.serve(nursery, handlers, handler)
    finally:
        server.shut(SessionCode.NO_ERROR, "server shut down")


class _Server(Http3Connection):
    """A server's end."""

    _handlers: trio.Nursery
    _handler: Handler

    def __init__(
        self,
        carrier: Connection,
        *,
        protocols: Sequence[str],
        max_sessions: int,
        refuse: Callable[[WebTransportRequest], int | None] | None,
    ) -> None:
        super().__init__(carrier, max_sessions=max_sessions)
        self._protocols = tuple(protocols)
        self._refuse = refuse
        self._requests: set[int] = set()  # not answered yet
        self._newest_request = -1
        self._early: dict[int, list[BidiStream | ReceiveHalf]] = {}
        self._early_count = 0
        self._change = trio.Event()  # a session began or ended

    async def serve(self, nursery: trio.Nursery, handlers: trio.Nursery, handler: Handler) -> None:
        """Serve until the connection is over."""
        self._handlers, self._handler = handlers, handler
        nursery.start_soon(self._guarded, self._close_when_unused)
        self.start(nursery)
        await self._carrier.wait_closed()

    async def _close_when_unused(self) -> None:
        while True:
            change = self._change
            with trio.move_on_after(float("inf") if self._sessions else self._timeout) as scope:
                await change.wait()
            if scope.cancelled_caught:
                raise H3Error(H3Code.NO_ERROR, f"no session for {self._timeout:g} s")

    # Requests

    def _request_arrived(self, stream: BidiStream, taken: bytes) -> None:
        receiver = stream.receive
        assert isinstance(receiver, ReceiveHalf)
        self._newest_request = max(self._newest_request, receiver.stream_id)
        if len(self._requests) >= _MOST_REQUESTS:
            self._drop(stream, H3Code.REQUEST_REJECTED.on_wire)
            return
        self._carrier._stream_accepted(receiver)
        self._requests.add(receiver.stream_id)
        self._nursery.start_soon(self._guarded, self._serve_request, stream, receiver, taken)

    async def _serve_request(self, stream: BidiStream, receiver: ReceiveHalf, taken: bytes) -> None:
        frames = RequestFrames()
        session = None
        stream.send.set_priority(URGENT)
        try:
            with trio.move_on_after(self._timeout) as scope:
                message = await self._request(receiver, frames, taken)
                await self._control.settings_arrived.wait()
                session = self._answer(stream, message)
            if scope.cancelled_caught:
                raise MessageError("a request that never ends", H3Code.REQUEST_INCOMPLETE)
        except StreamReset:
            stream.send.reset(H3Code.REQUEST_CANCELLED.on_wire)
        except MessageError as error:
            logger.debug("%s: %s", self._carrier.remote_address, error)
            stream.send.reset(error.code.on_wire)
            receiver.stop(error.code.on_wire)
        finally:
            self._requests.discard(receiver.stream_id)
        if session is None:
            for early in self._take_early(receiver.stream_id):
                self._drop(early, SESSION_GONE)
            await self._read_past(receiver)
        else:
            self._start_session(session, stream, frames)

    async def _read_past(self, receiver: ReceiveHalf) -> None:
        """Let a refused client finish. Chromium forgets an answer when it is asked to
        stop before it has read it."""
        with (
            trio.move_on_after(self._timeout),
            contextlib.suppress(StreamReset, trio.ClosedResourceError),
        ):
            while await receiver._receive_idly(BITE):
                pass
        receiver.stop(H3Code.NO_ERROR.on_wire)

    async def _request(self, receiver: ReceiveHalf, frames: RequestFrames, taken: bytes) -> Message:
        data = taken
        while True:
            for _, section in frames.feed(data):
                frames.expects_headers = False
                return Message.parse(self._fields.decode(receiver.stream_id, section))
            data = await receiver._receive_idly(BITE)
            if not data:
                raise MessageError("a request without headers", H3Code.REQUEST_INCOMPLETE)

    # Answers

    def _answer(self, stream: BidiStream, message: Message) -> WebTransportSession | None:
        """Begin a session, or refuse, and say so."""
        status, protocol = 200, ""
        try:
            request = _read_request(message)
        except _Refusal as refusal:
            status = refusal.status
        else:
            protocol = next((each for each in self._protocols if each in request.protocols), "")
            status = self._status_for(request, protocol)
        if status != _OK:
            self._send_refusal(stream, status, list_protocols=not protocol)
            return None
        fields = [(b":status", b"200"), (DRAFT, b"draft02"), (PROTOCOL, encode_strings([protocol]))]
        # Raises where the client does not want to know any more: there is no session then.
        stream.send.send_nowait(self._fields.encode(fields))
        session = self._begin_session(stream, authority=request.authority, path=request.path)
        session.agree(protocol)
        return session

    def _status_for(self, request: WebTransportRequest, protocol: str) -> int:
        if len(self._sessions) >= self._max_sessions:
            return 429
        if not protocol:
            return 400
        return (self._refuse(request) if self._refuse is not None else None) or _OK

    def _send_refusal(self, stream: BidiStream, status: int, *, list_protocols: bool) -> None:
        fields: Fields = [(b":status", b"%d" % status)]
        if list_protocols:
            # No draft asks for it: it lets the client say what would have done.
            fields.append((AVAILABLE_PROTOCOLS, encode_strings(self._protocols)))
        stream.send.send_nowait(self._fields.encode(fields), finish=True)

    def _start_session(
        self, session: WebTransportSession, stream: BidiStream, frames: RequestFrames
    ) -> None:
        for early in self._take_early(session.session_id):
            if isinstance(early, BidiStream):
                session.adopt_bidi(early)
            else:
                session.adopt_uni(early)
        self._note_change()
        watched = trio.Event()
        name = f"webtransport {session.remote_address}"
        self._handlers.start_soon(self._run_session, session, stream, watched, name=name)
        self._nursery.start_soon(self._watch_session, session, stream, frames, watched)

    async def _run_session(
        self, session: WebTransportSession, stream: BidiStream, watched: trio.Event
    ) -> None:
        try:
            await run_handler(self._handler, session)
        finally:
            session.release()
            del self._sessions[session.session_id]
            self._note_change()
        with trio.move_on_after(self._timeout):
            await watched.wait()
        stream.receive.stop(H3Code.NO_ERROR.on_wire)

    async def _watch_session(
        self,
        session: WebTransportSession,
        stream: BidiStream,
        frames: RequestFrames,
        watched: trio.Event,
    ) -> None:
        try:
            await self._guarded(self._watch, session, stream.receive, frames)
        finally:
            watched.set()

    def _note_change(self) -> None:
        change, self._change = self._change, trio.Event()
        change.set()

    # Streams that come before their session

    def _session_of(self, session_id: int) -> WebTransportSession | None:
        if session_id & 3:
            raise H3Error(H3Code.ID_ERROR, f"stream {session_id} cannot be a session")
        session = self._sessions.get(session_id)
        return session if session is not None and session.closed is None else None

    def _stream_without_session(self, session_id: int, stream: BidiStream | ReceiveHalf) -> None:
        is_yet_to_come = session_id > self._newest_request or session_id in self._requests
        if not is_yet_to_come:
            self._drop(stream, SESSION_GONE)
        elif self._early_count >= _MOST_EARLY_STREAMS:
            self._drop(stream, BUFFERED_STREAM_REJECTED)
        else:
            self._early_count += 1
            self._early.setdefault(session_id, []).append(stream)

    def _take_early(self, session_id: int) -> list[BidiStream | ReceiveHalf]:
        streams = self._early.pop(session_id, [])
        self._early_count -= len(streams)
        return streams

    def _goaway(self, number: int) -> None:
        """A client's GOAWAY is about pushes, and there are none (RFC 9114 section 5.2)."""


class _Refusal(Exception):
    """A request that is well-formed, but not for a session here."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


# RFC 9114 section 4.3.1, RFC 8441 section 4.
_PSEUDO_FIELDS = frozenset((b":method", b":scheme", b":authority", b":path", b":protocol"))


def _read_request(message: Message) -> WebTransportRequest:
    """What a message asks for. Raises MessageError where it is malformed, and _Refusal."""
    pseudo = message.pseudo
    method = pseudo.get(b":method")
    if not method:
        raise MessageError("a request without a method")
    if not pseudo.keys() <= _PSEUDO_FIELDS:
        raise MessageError(f"{min(pseudo.keys() - _PSEUDO_FIELDS)!r} in a request")
    if method != b"CONNECT":
        raise _Refusal(404 if method in (b"GET", b"HEAD") else 405)
    if b":protocol" not in pseudo:
        raise _Refusal(405)  # a tunnel to somewhere
    if pseudo[b":protocol"] != b"webtransport":
        raise _Refusal(501)  # RFC 9220 section 3
    missing = [name for name in (b":scheme", b":authority", b":path") if not pseudo.get(name)]
    if missing:
        raise MessageError(f"a request without {missing[0]!r}")
    if pseudo[b":scheme"] != b"https" or not pseudo[b":path"].startswith(b"/"):
        raise _Refusal(400)
    origin = message.get(b"origin")
    try:
        return WebTransportRequest(
            authority=pseudo[b":authority"].decode("ascii"),
            path=pseudo[b":path"].decode("ascii"),
            origin=None if origin is None else origin.decode("ascii"),
            protocols=tuple(decode_strings(message.get(AVAILABLE_PROTOCOLS))),
        )
    except UnicodeDecodeError as error:
        raise MessageError(f"a URL that is not ASCII: {error}") from error
