"""One HTTP/3 connection, as far as WebTransport needs it: what client and server share.

Tasks read the control streams and the CONNECT streams, and look at the first bytes of
every other stream; from then on a session's streams are its own.
"""

from __future__ import annotations

import abc
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import trio
from aioquic.buffer import encode_uint_var

from ...errors import SessionClosed, SessionCode, StreamReset
from ..base import ConnectionBase
from ..connection import URGENT, BidiStream, Connection, ReceiveStream
from ..quic.codes import SESSION_GONE, WireCode, stream_code_to_wire
from ..streams import ReceiveHalf
from .capsules import Capsules, CloseSession
from .codes import (
    CapsuleType,
    FrameType,
    H3Code,
    H3Error,
    MessageError,
    Setting,
    StreamType,
    describe_code,
)
from .control import CRITICAL, PeerControl
from .fields import FieldCoder
from .frames import RequestFrames, encode_settings, own_settings
from .prefix import Prefix
from .records import BITE, read_varint
from .session import WebTransportSession

logger: logging.Logger = logging.getLogger("moqtrio.transport")

_LARGEST_QUARTER = (1 << 60) - 1  # RFC 9297 section 2.1
# Streams whose first bytes are waited for at a time; others queue behind them.
_MOST_DAWDLING = 256


class Http3Connection(abc.ABC):
    """One end of an HTTP/3 connection over ``carrier``."""

    _nursery: trio.Nursery

    def __init__(self, carrier: Connection, *, max_sessions: int) -> None:
        if not isinstance(carrier, ConnectionBase):
            raise TypeError(f"WebTransport runs on moqtrio's own connections, not {carrier!r}")
        self._carrier: ConnectionBase = carrier
        self._max_sessions = max_sessions
        self._timeout: float = carrier._settings.connect_timeout
        self._fields = FieldCoder()
        self._sessions: dict[int, WebTransportSession] = {}
        self._control = PeerControl(
            self._fields, is_client=carrier.is_client, on_goaway=self._goaway
        )
        self._dawdling = trio.Semaphore(_MOST_DAWDLING)
        self._leave_carrier = carrier.on_writable(self._carrier_changed)

    def start(self, nursery: trio.Nursery) -> None:
        """Serve the connection in tasks of ``nursery``."""
        self._nursery = nursery
        for task in (
            self._send_settings,
            self._route_uni_forever,
            self._route_bidi_forever,
            self._route_datagrams_forever,
        ):
            nursery.start_soon(self._guarded, task)

    async def _send_settings(self) -> None:
        control = await self._carrier.open_uni()
        control.set_priority(URGENT)
        settings = encode_settings(own_settings(self._max_sessions))
        control.send_nowait(encode_uint_var(StreamType.CONTROL) + settings)

    async def _guarded(self, task: Callable[..., Awaitable[None]], *args: Any) -> None:
        """What the peer does wrong ends the connection, and that ends every task."""
        try:
            await task(*args)
        except H3Error as error:
            self.fail(error)
        except SessionClosed:
            pass

    def fail(self, error: H3Error) -> None:
        """The peer broke the rules."""
        logger.info(
            "%s: HTTP/3 %s: %s", self._carrier.remote_address, describe_code(error.code), error
        )
        self._carrier.close(error.code, str(error))

    def shut(self, code: int = SessionCode.NO_ERROR, reason: str = "") -> None:
        """Close every session, and the connection."""
        if self._carrier.closed is not None:
            return
        for session in tuple(self._sessions.values()):
            session.close(code, reason)
        self._leave_carrier()
        # A peer that never reads the capsule learns the same from the connection's end.
        self._carrier._flush_now()
        wire = stream_code_to_wire(code) if code else int(H3Code.NO_ERROR)
        self._carrier.close(wire, reason)

    def _carrier_changed(self) -> None:
        end = self._carrier.closed
        if end is None:
            for session in self._sessions.values():
                session.carrier_writable()
            return
        with contextlib.suppress(H3Error, SessionClosed):
            self._route_arrived()
        for session in self._sessions.values():
            session.carrier_closed(end)

    # What client and server do differently

    @abc.abstractmethod
    def _request_arrived(self, stream: BidiStream, taken: bytes) -> None:
        """The peer opened a bidirectional stream that belongs to no session, and begins
        with ``taken``."""

    @abc.abstractmethod
    def _session_of(self, session_id: int) -> WebTransportSession | None:
        """Whose stream or datagram it is. Raises H3Error where there can be none."""

    def _stream_without_session(self, session_id: int, stream: BidiStream | ReceiveHalf) -> None:
        """A stream came whose session is over, or yet to come."""
        self._drop(stream, SESSION_GONE)

    @abc.abstractmethod
    def _goaway(self, number: int) -> None:
        """The peer wants no more of what has this number or a higher one."""

    # Streams the peer opens

    async def _route_uni_forever(self) -> None:
        while True:
            await self._carrier._wait_for_uni()
            for stream in self._sort_uni():
                await self._dawdling.acquire()
                self._nursery.start_soon(self._guarded, self._route_late_uni, stream)

    async def _route_bidi_forever(self) -> None:
        while True:
            await self._carrier._wait_for_bidi()
            for stream in self._sort_bidi():
                await self._dawdling.acquire()
                self._nursery.start_soon(self._guarded, self._route_late_bidi, stream)

    def _route_arrived(self) -> None:
        """Route what can be before a session ends: what came before the end is its own."""
        late_uni, late_bidi = list(self._sort_uni()), list(self._sort_bidi())
        self._carrier._accepted_uni.extend(late_uni)
        self._carrier._accepted_bidi.extend(late_bidi)

    def _sort_uni(self) -> Iterator[ReceiveHalf]:
        """Route the streams whose first bytes are there; the others come out."""
        for stream in self._carrier._take_uni():
            if self._adopt_at_once(stream):
                continue
            prefix = self._take_prefix(stream, StreamType.WEBTRANSPORT)
            if prefix is not None:
                self._route_uni(stream, prefix)
            elif _is_over(stream):
                self._drop(stream, H3Code.NO_ERROR.on_wire)
            else:
                yield stream

    def _sort_bidi(self) -> Iterator[BidiStream]:
        for stream in self._carrier._take_bidi():
            prefix = self._take_prefix(stream.receive, FrameType.WEBTRANSPORT_STREAM)
            if prefix is not None:
                self._route_bidi(stream, prefix)
            elif _is_over(stream.receive):
                self._drop(stream, H3Code.REQUEST_INCOMPLETE.on_wire)
            else:
                yield stream

    def _adopt_at_once(self, stream: ReceiveHalf) -> bool:
        """The way of nearly every stream, and there may be thousands each second."""
        try:
            data = stream.peek_nowait()
        except (trio.WouldBlock, StreamReset):
            return False
        for session in self._sessions.values():
            prefix = session.uni_prefix
            if data.startswith(prefix) and session.closed is None:
                stream._skip(len(prefix))
                session.adopt_uni(stream)
                return True
        return False

    def _take_prefix(self, receiver: ReceiveStream, mark: int) -> Prefix | None:
        """What a stream starts with, if that is all there."""
        assert isinstance(receiver, ReceiveHalf)
        try:
            prefix = Prefix.of(receiver.peek_nowait(), mark)
            if prefix is not None:
                receiver._skip(len(prefix.taken))
        except (trio.WouldBlock, StreamReset):
            return None
        return prefix

    async def _route_late_uni(self, stream: ReceiveHalf) -> None:
        prefix = await self._wait_for_prefix(stream, StreamType.WEBTRANSPORT)
        if prefix is not None:
            self._route_uni(stream, prefix)
        else:
            self._drop(stream, H3Code.STREAM_CREATION_ERROR.on_wire)

    async def _route_late_bidi(self, stream: BidiStream) -> None:
        prefix = await self._wait_for_prefix(stream.receive, FrameType.WEBTRANSPORT_STREAM)
        if prefix is not None:
            self._route_bidi(stream, prefix)
        else:
            self._drop(stream, H3Code.REQUEST_INCOMPLETE.on_wire)

    async def _wait_for_prefix(self, receiver: ReceiveStream, mark: int) -> Prefix | None:
        """What a stream starts with, if that comes in time."""
        assert isinstance(receiver, ReceiveHalf)
        taken = b""
        try:
            with trio.move_on_after(self._timeout):
                while (prefix := Prefix.of(taken, mark)) is None:
                    octet = await receiver._receive_idly(1)
                    if not octet:
                        return None
                    taken += octet
                return prefix
        except StreamReset:
            pass
        finally:
            self._dawdling.release()
        return None

    def _route_uni(self, stream: ReceiveHalf, prefix: Prefix) -> None:
        kind = prefix.kind
        if kind == StreamType.WEBTRANSPORT:
            session = self._session_of(prefix.session_id)
            if session is None:
                self._stream_without_session(prefix.session_id, stream)
            else:
                session.adopt_uni(stream)
        elif kind in CRITICAL:
            self._control.claim(kind)
            self._carrier._stream_accepted(stream)
            self._nursery.start_soon(self._guarded, self._control.read, stream, kind)
        elif kind == StreamType.PUSH:
            raise H3Error(
                # RFC 9114 sections 4.6 and 6.2.2: only servers push, and only when asked.
                H3Code.ID_ERROR if self._carrier.is_client else H3Code.STREAM_CREATION_ERROR,
                "a push stream",
            )
        else:
            self._drop(stream, H3Code.STREAM_CREATION_ERROR.on_wire)

    def _route_bidi(self, stream: BidiStream, prefix: Prefix) -> None:
        if prefix.kind != FrameType.WEBTRANSPORT_STREAM:
            self._request_arrived(stream, prefix.taken)
            return
        session = self._session_of(prefix.session_id)
        if session is None:
            self._stream_without_session(prefix.session_id, stream)
        else:
            session.adopt_bidi(stream)

    def _drop(self, stream: BidiStream | ReceiveHalf, code: WireCode) -> None:
        """Nobody wants a stream the peer opened."""
        receiver = stream.receive if isinstance(stream, BidiStream) else stream
        assert isinstance(receiver, ReceiveHalf)
        self._carrier._stream_accepted(receiver)
        receiver.stop(code)
        if isinstance(stream, BidiStream):
            stream.send.reset(code)

    # Sessions

    def _begin_session(
        self, connect: BidiStream, *, authority: str, path: str
    ) -> WebTransportSession:
        session = WebTransportSession(self._carrier, connect, authority=authority, path=path)
        session.takes_datagrams = bool(
            self._control.settings.get(Setting.H3_DATAGRAM)
            or self._control.settings.get(Setting.H3_DATAGRAM_DRAFT_04)
        )
        self._sessions[session.session_id] = session
        return session

    async def _watch(
        self, session: WebTransportSession, connect: ReceiveStream, frames: RequestFrames
    ) -> None:
        """Read a CONNECT stream to its end, which is the session's."""
        assert isinstance(connect, ReceiveHalf)
        capsules = Capsules()
        ended = False
        try:
            data = b""  # something may have come with the headers
            while True:
                for _, piece in frames.feed(data):
                    if ended:
                        raise MessageError("something after the session's end")
                    for kind, value in capsules.feed(piece):
                        ended = self._capsule(session, kind, value) or ended
                data = await connect._receive_idly(BITE)
                if not data:
                    break
            if not frames.between_records:
                raise H3Error(H3Code.FRAME_ERROR, "a CONNECT stream ends within a frame")
            if not capsules.between_records:
                raise MessageError("a CONNECT stream ends within a capsule")
            self._route_arrived()
            session.closed_by_peer(SessionCode.NO_ERROR, "")
        except StreamReset as error:
            session.closed_by_peer(
                SessionCode.INTERNAL, f"the CONNECT stream was reset ({describe_code(error.code)})"
            )
        except trio.ClosedResourceError:
            pass  # the peer took too long to confirm the end
        except MessageError as error:
            connect.stop(error.code.on_wire)
            session._connect.reset(error.code.on_wire)
            session.closed_by_peer(SessionCode.PROTOCOL_VIOLATION, str(error))

    def _capsule(self, session: WebTransportSession, kind: int, value: bytes) -> bool:
        """True if it ended the session."""
        if kind == CapsuleType.CLOSE_SESSION:
            close = CloseSession.decode(value)
            self._route_arrived()
            session.closed_by_peer(close.code, close.reason)
            return True
        logger.debug("%s: the peer drains a session", self._carrier.remote_address)
        return False

    # Datagrams

    async def _route_datagrams_forever(self) -> None:
        while True:
            data = await self._carrier.receive_datagram()
            quarter = read_varint(data)
            if quarter is None or quarter[0] > _LARGEST_QUARTER:
                raise H3Error(H3Code.DATAGRAM_ERROR, "a datagram of no stream")
            session = self._sessions.get(quarter[0] * 4)
            # One that overtook its session, or outlived it, is lost, as datagrams may be.
            if session is not None:
                session.datagram_arrived(data[quarter[1] :])


def _is_over(receiver: ReceiveStream) -> bool:
    """Whether a stream ended or was reset, and there is nothing more to take."""
    try:
        return not receiver.peek_nowait()
    except StreamReset:
        return True
    except trio.WouldBlock:
        return False
