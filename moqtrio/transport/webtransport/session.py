"""A WebTransport session: a connection within an HTTP/3 connection."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

import attrs
import trio
from aioquic.buffer import encode_uint_var
from cryptography import x509

from ...errors import MoqError, SessionClosed, SessionCode
from ..accepting import AcceptingConnection
from ..base import ConnectionBase
from ..connection import BidiStream, ConnectionStatistics, SendStream
from ..quic.codes import SESSION_GONE, is_mapped, stream_code_from_wire
from ..streams import ReceiveHalf, SendHalf
from .capsules import CloseSession
from .codes import FrameType, H3Code, StreamType, describe_code
from .records import encode_record

_Stream = TypeVar("_Stream", SendStream, BidiStream)
_LARGEST_PLAIN_CODE = 0xFF


class WebTransportSession(AcceptingConnection):
    """The streams of one session are streams of the connection under it, the same objects:
    all this adds to one is the few bytes it starts with."""

    def __init__(
        self, carrier: ConnectionBase, connect: BidiStream, *, authority: str, path: str
    ) -> None:
        super().__init__(carrier._settings)
        assert isinstance(connect.send, SendHalf)
        self._carrier = carrier
        self._connect = connect.send
        self._authority = authority
        self._path = path
        self._protocol = ""
        #: Whether the peer takes datagrams (SETTINGS_H3_DATAGRAM).
        self.takes_datagrams = False
        self.session_id: int = connect.send.stream_id
        session_id = encode_uint_var(self.session_id)
        self.uni_prefix: bytes = encode_uint_var(StreamType.WEBTRANSPORT) + session_id
        self.bidi_prefix: bytes = encode_uint_var(FrameType.WEBTRANSPORT_STREAM) + session_id
        # RFC 9297 section 2.1.
        self._datagram_prefix = encode_uint_var(self.session_id // 4)
        self._openers: set[trio.CancelScope] = set()
        self._streams_dismissed = False

    def agree(self, protocol: str) -> None:
        """The server chose a protocol."""
        self._protocol = protocol

    # How it ends

    def closed_by_peer(self, code: int, reason: str) -> None:
        """The peer said so, or ended the CONNECT stream."""
        if self._end is None:
            self._terminate(SessionClosed(reason, code=code, remote=True))
            self._connect.finish()
        self.dismiss_streams()

    def dismiss_streams(self) -> None:
        """Tell the peer that the session's streams are over too."""
        if self._streams_dismissed or self._carrier.closed is not None:
            return
        self._streams_dismissed = True
        for sender in self._live_send_halves():
            sender._abandon(SESSION_GONE)
        for receiver in self._live_receive_halves():
            if not receiver._ended and receiver._reset_code is None and not receiver._closed:
                receiver._refuse(SESSION_GONE)

    def release(self) -> None:
        """Nobody uses the session any more: its streams' credit goes back."""
        self.dismiss_streams()
        self._discard_arrivals()
        for receiver in self._live_receive_halves():
            receiver.stop(SESSION_GONE)

    def carrier_closed(self, end: SessionClosed) -> None:
        """The connection under the session is over."""
        self._terminate(_translate(end))

    def carrier_writable(self) -> None:
        """Something can be written or opened again on the connection."""
        self._notify_writable()

    def _terminate(self, end: SessionClosed, *, discard: bool = False) -> None:
        if self._end is None:
            for scope in self._openers:
                scope.cancel()
            super()._terminate(end, discard=discard)

    # What AcceptingConnection asks for

    def _stream_accepted(self, stream: ReceiveHalf) -> None:
        self._carrier._stream_accepted(stream)

    def _send_close(self, code: int, reason: str) -> None:
        capsule = CloseSession(code, reason).encode()
        # Where the peer wants no more of the CONNECT stream, it has ended the session too.
        with contextlib.suppress(MoqError, trio.ClosedResourceError, trio.WouldBlock):
            self._connect.send_nowait(encode_record(FrameType.DATA, capsule), finish=True)

    def _live_send_halves(self) -> Iterable[SendHalf]:
        return [half for half in self._carrier._live_send_halves() if half._parent is self]

    def _live_receive_halves(self) -> Iterable[ReceiveHalf]:
        return [half for half in self._carrier._live_receive_halves() if half._parent is self]

    def _discard_arrivals(self) -> None:
        for receiver in self._take_uni():
            self._stream_accepted(receiver)
        for stream in self._take_bidi():
            assert isinstance(stream.receive, ReceiveHalf)
            self._stream_accepted(stream.receive)
        self._datagrams.clear()

    # Streams

    def adopt_uni(self, receiver: ReceiveHalf) -> None:
        """The peer opened a stream of this session; its prefix was taken."""
        receiver._parent = self
        self._incoming_uni(receiver)

    def adopt_bidi(self, stream: BidiStream) -> None:
        """The peer opened a stream of this session; its prefix was taken."""
        self._claim_bidi(stream)
        self._incoming_bidi(stream)

    def _claim_bidi(self, stream: BidiStream) -> SendHalf:
        sender, receiver = stream.send, stream.receive
        assert isinstance(sender, SendHalf)
        assert isinstance(receiver, ReceiveHalf)
        sender._parent = receiver._parent = self
        return sender

    def _begin_uni(self, stream: SendStream) -> SendStream:
        assert isinstance(stream, SendHalf)
        stream._parent = self
        stream._lead = self.uni_prefix
        return stream

    def _begin_bidi(self, stream: BidiStream) -> BidiStream:
        self._claim_bidi(stream)._lead = self.bidi_prefix
        return stream

    async def _open(
        self, open_stream: Callable[[], Awaitable[_Stream]], begin: Callable[[_Stream], _Stream]
    ) -> _Stream:
        """Wait for a stream of the carrier, but no longer than the session lives."""
        if self.closed is not None:
            raise self._closed_error()
        with trio.CancelScope() as scope:
            self._openers.add(scope)
            try:
                stream = await open_stream()
            except SessionClosed:
                raise self._closed_error() from None
            finally:
                self._openers.discard(scope)
            begun = begin(stream)
            if self.closed is None:
                return begun
            _give_up(begun)
        raise self._closed_error()

    async def open_uni(self) -> SendStream:
        return await self._open(self._carrier.open_uni, self._begin_uni)

    def open_uni_nowait(self) -> SendStream:
        if self._end is not None:
            raise self._closed_error()
        return self._begin_uni(self._carrier.open_uni_nowait())

    async def open_bidi(self) -> BidiStream:
        return await self._open(self._carrier.open_bidi, self._begin_bidi)

    # Datagrams

    def datagram_arrived(self, data: bytes) -> None:
        """One of this session's; its prefix was taken."""
        if self._end is None:
            self._incoming_datagram(data)

    @property
    def max_datagram_size(self) -> int | None:
        limit = self._carrier.max_datagram_size if self.takes_datagrams else None
        if limit is None or self._end is not None:
            return None
        return max(0, limit - len(self._datagram_prefix))

    def send_datagram_nowait(self, data: bytes) -> None:
        if self._end is not None:
            raise self._closed_error()
        limit = self.max_datagram_size
        if limit is None:
            raise ValueError("the peer takes no datagrams")
        if len(data) > limit:
            raise ValueError(f"a datagram carries at most {limit} bytes here, not {len(data)}")
        self._carrier.send_datagram_nowait(self._datagram_prefix + data)

    # The rest of a connection

    @property
    def is_client(self) -> bool:
        return self._carrier.is_client

    @property
    def alpn(self) -> str:
        return self._protocol

    @property
    def authority(self) -> str:
        """The host, and perhaps the port, of the URL the client asked for."""
        return self._authority

    @property
    def request_path(self) -> str | None:
        return self._path

    @property
    def remote_address(self) -> str:
        return self._carrier.remote_address

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        return self._carrier.peer_certificate

    @property
    def peer_window(self) -> int:
        return self._carrier.peer_window

    def statistics(self) -> ConnectionStatistics:
        """The connection's, except that only this session's streams are counted."""
        streams = {half.stream_id for half in self._live_send_halves()}
        streams |= {half.stream_id for half in self._live_receive_halves()}
        return attrs.evolve(self._carrier.statistics(), streams_open=len(streams))


def _give_up(stream: SendStream | BidiStream) -> None:
    """A stream was opened just as its session ended."""
    if isinstance(stream, BidiStream):
        stream.receive.stop(SESSION_GONE)
        stream = stream.send
    stream.reset(SESSION_GONE)


def _translate(end: SessionClosed) -> SessionClosed:
    """The end of the HTTP/3 connection, as the end of a session on it."""
    code, reason = end.code, end.reason
    if is_mapped(code):
        code = stream_code_from_wire(code)
    elif code == H3Code.NO_ERROR:
        code = SessionCode.NO_ERROR
    elif code > _LARGEST_PLAIN_CODE:
        reason = f"HTTP/3 {describe_code(code)}: {reason or 'no reason given'}"
        code = SessionCode.INTERNAL
    return SessionClosed(reason, code=code, remote=end.remote)
