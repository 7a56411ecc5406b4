"""One qmux connection as a session sees it. No I/O: a driver carries its messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
from cryptography import x509

from ...errors import SessionClosed, SessionCode, StreamCode
from ..connection import ConnectionStatistics
from ..settings import TransportSettings
from .core import QmuxStreams
from .errors import QmuxCode, QmuxError, describe_code
from .frames import (
    CloseFrame,
    DatagramFrame,
    MaxDataFrame,
    MaxStreamDataFrame,
    MaxStreamsFrame,
    ParametersFrame,
    PingFrame,
    ResetFrame,
    StopFrame,
    StreamFrame,
    decode_frames,
    largest_datagram,
)
from .parameters import Parameters
from .versions import Agreement

_NEVER = float("inf")
_LARGEST_CODE = 0xFFFFFFFF
_NEW_SAMPLE = 1 / 8  # RFC 9002 section 5.3


class QmuxConnection(QmuxStreams):
    """Fed and emptied by :func:`~.driver.drive`."""

    def __init__(
        self,
        agreement: Agreement,
        settings: TransportSettings,
        *,
        is_client: bool,
        remote_address: str,
        request_path: str | None,
        peer_certificate: x509.Certificate | None = None,
    ) -> None:
        super().__init__(agreement.version, settings, is_client=is_client)
        self._agreement = agreement
        self._remote_address = remote_address
        self._request_path = request_path
        self._peer_certificate = peer_certificate
        #: Set when the peer has said what it admits, or the connection is over.
        self.ready: trio.Event = trio.Event()
        self._has_parameters = False
        self._to_send = trio.Event()
        self._to_send.set()
        self._stopped_streams = False
        self._credit_changed = False
        self._started_at = trio.current_time()
        self._active_at = self._started_at
        self._sent_since_heard = False
        self._idle_timeout = _NEVER
        self._ping_interval = _NEVER
        self._ping_at = _NEVER
        self._pings_sent = 0
        self._pings_heard = -1
        self._ping_sent_at: float | None = None
        self._smoothed_rtt = 0.0
        self._link_ping_due = False
        self._bytes_sent = 0
        self._bytes_received = 0
        self._messages_sent = 0
        self._messages_received = 0

    def _mark_dirty(self) -> None:
        self._to_send.set()

    def _send_close(self, code: int, reason: str) -> None:
        self._outbox.close(max(0, code), reason, by_application=True)

    def _terminate(self, end: SessionClosed, *, discard: bool = False) -> None:
        super()._terminate(end, discard=discard)
        self.ready.set()
        self._mark_dirty()

    # What the driver calls

    def heard(self, now: float) -> None:
        """Something arrived, be it only part of a message."""
        self._active_at = now
        self._sent_since_heard = False

    def feed(self, message: bytes) -> None:
        """One message arrived."""
        self._bytes_received += len(message)
        self._messages_received += 1
        try:
            for frame in decode_frames(message):
                if self._end is not None:
                    return
                kind = type(frame)
                if (kind is ParametersFrame) == self._has_parameters and kind is not CloseFrame:
                    raise QmuxError(
                        QmuxCode.PROTOCOL_VIOLATION,
                        "transport parameters must be the first frame, and only that, "
                        f"but a {kind.__name__} came",
                    )
                _HANDLERS[kind](self, frame)
        except QmuxError as error:
            if self._end is None:
                self._outbox.close(error.code, str(error), by_application=False)
                self._terminate(
                    SessionClosed(
                        f"qmux {error.code.name}: {error}",
                        code=SessionCode.PROTOCOL_VIOLATION,
                        remote=False,
                    )
                )

    def settle(self) -> None:
        """After what arrived together: pass on what it means for writers."""
        if self._end is not None:
            return
        if self._credit_changed:
            self._credit_changed = False
            self._credit_grew()
        if self._stopped_streams:
            self._stopped_streams = False
            self._notify_writable()
        self._lend_credit()

    def wake_sender(self) -> None:
        """The link itself has something to send."""
        self._mark_dirty()

    async def wait_to_send(self) -> None:
        """Wait until :meth:`take` may have something, or will never again."""
        await self._to_send.wait()

    def take(self, most: int) -> list[bytes]:
        """Messages of some ``most`` bytes to send now. After the last ones of a connection that
        is over there are none."""
        messages = self._outbox.take(most)
        if not messages:
            if self._end is None:
                self._to_send = trio.Event()
            return messages
        self._messages_sent += len(messages)
        self._bytes_sent += sum([len(message) for message in messages])
        if not self._sent_since_heard:
            self._sent_since_heard = True
            self._active_at = trio.current_time()
        if self._starved_streams and self._end is None:
            self._send_buffers_shrank()
        return messages

    def sent(self) -> None:
        """What was taken last has left."""
        ended, self._outbox.ended = self._outbox.ended, []
        for half in ended:
            if not half.is_over:
                half._settle()
                if half.stream_id in self._streams:
                    self._sending_over(half)

    def take_link_ping(self) -> bool:
        """Whether the link is to find out if the peer is there."""
        due, self._link_ping_due = self._link_ping_due, False
        return due

    def lost(self, reason: str) -> None:
        """There is nothing to send on any more."""
        self._outbox.shut()
        self._terminate(SessionClosed(reason, code=SessionCode.INTERNAL, remote=True))

    def broken(self, reason: str) -> None:
        """The peer broke a rule of what carries the messages."""
        self._outbox.shut()
        self._terminate(SessionClosed(reason, code=SessionCode.PROTOCOL_VIOLATION, remote=False))

    def give_up(self, reason: str) -> None:
        """The peer is as good as gone."""
        self._outbox.shut()
        self._terminate(SessionClosed(reason, code=SessionCode.INTERNAL, remote=False))

    @property
    def patience(self) -> float:
        """Seconds a peer may leave unread what is sent. It may say something all the time,
        and what waits for it would grow for ever."""
        return self._settings.idle_timeout

    def deadline(self) -> float:
        """When :meth:`fire` wants to be called; it may be later by then."""
        if not self._has_parameters:
            return self._started_at + self._settings.connect_timeout
        return min(self._active_at + self._idle_timeout, self._ping_at)

    def fire(self, now: float) -> None:
        """The deadline came: the idle timeout, and pings."""
        if self._end is not None:
            return
        if not self._has_parameters:
            if now >= self._started_at + self._settings.connect_timeout:
                self.close(SessionCode.INTERNAL, "no transport parameters came in time")
        elif now >= self._active_at + self._idle_timeout:
            self.give_up(f"nothing was heard for {self._idle_timeout:g} s (idle timeout)")
        elif now >= self._ping_at:
            self._ping(now)

    def _ping(self, now: float) -> None:
        self._ping_at = now + self._ping_interval
        if self._version.has_records:
            self._outbox.ping(self._pings_sent)
            self._pings_sent += 1
            self._ping_sent_at = now
        else:
            self._link_ping_due = True
        self._mark_dirty()

    # Frames

    def _on_parameters(self, frame: ParametersFrame) -> None:
        peer = Parameters.decode(frame.payload, self._version)
        self._has_parameters = True
        self._peer = peer
        self._outbox.max_data = peer.initial_max_data
        self._streams_admitted[True] = peer.initial_max_streams_uni
        self._streams_admitted[False] = peer.initial_max_streams_bidi
        settings = self._settings
        # RFC 9000 section 10.1: the shorter of both sides' timeouts counts; 0 is none.
        self._idle_timeout = min(
            settings.idle_timeout, peer.max_idle_timeout / 1000 or settings.idle_timeout
        )
        self._credit_changed = True
        self.ready.set()
        if settings.keep_alive is not None:
            self._ping_interval = min(settings.keep_alive, self._idle_timeout / 2)
            self._ping(trio.current_time())

    def _on_stream(self, frame: StreamFrame) -> None:
        stream_id, offset, data, ended = frame
        half = self._receiver_of(stream_id)
        if half is None or half.is_over:
            return
        if offset is not None and offset != half.received:
            raise QmuxError(
                QmuxCode.PROTOCOL_VIOLATION,
                f"bytes of stream {stream_id} must come in order: "
                f"byte {half.received} is next, {offset} came",
            )
        if data:
            self._receive_data(half, len(data))
        if data or ended:
            half._arrived(data, ended)
            if ended:
                self._discard_if_over(stream_id)

    def _on_reset(self, frame: ResetFrame) -> None:
        half = self._receiver_of(frame.stream_id)
        if half is None or half.is_over:
            return
        # Released peers say 0 whatever they sent.
        missing = max(0, frame.final_size - half.received)
        if missing:
            self._receive_data(half, missing)
            self._consume_data(missing)
        half._reset_by_peer(_stream_code(frame.code))
        self._discard_if_over(frame.stream_id)

    def _on_stop(self, frame: StopFrame) -> None:
        half = self._sender_of(frame.stream_id)
        if half is not None and not half.is_over:
            code = _stream_code(frame.code)
            half._stopped_by_peer(code)
            self._abandon(half, code)  # RFC 9000 section 3.5
            self._stopped_streams = True

    def _on_max_data(self, frame: MaxDataFrame) -> None:
        self._outbox.admit_data(frame.limit)
        self._mark_dirty()

    def _on_max_stream_data(self, frame: MaxStreamDataFrame) -> None:
        half = self._sender_of(frame.stream_id)
        if half is not None and not half.is_over:
            self._outbox.admit(half, frame.limit)
            self._mark_dirty()

    def _on_max_streams(self, frame: MaxStreamsFrame) -> None:
        if frame.limit > self._streams_admitted[frame.uni]:
            self._streams_admitted[frame.uni] = frame.limit
            self._credit_changed = True

    def _on_close(self, frame: CloseFrame) -> None:
        self._outbox.shut()
        if frame.by_application:
            end = SessionClosed(frame.reason, code=frame.code, remote=True)
        else:
            # qmux's own codes are no session codes.
            reason = f"qmux {describe_code(frame.code)}: {frame.reason or 'no reason given'}"
            end = SessionClosed(reason, code=SessionCode.INTERNAL, remote=True)
        self._terminate(end)

    def _on_ping(self, frame: PingFrame) -> None:
        if frame.is_answer:
            if frame.sequence >= self._pings_sent:
                raise QmuxError(
                    QmuxCode.PROTOCOL_VIOLATION,
                    f"ping {frame.sequence} was answered, which was never sent",
                )
            if frame.sequence == self._pings_sent - 1 and self._ping_sent_at is not None:
                self._sample(trio.current_time() - self._ping_sent_at)
                self._ping_sent_at = None
            return
        if frame.sequence <= self._pings_heard:
            raise QmuxError(
                QmuxCode.PROTOCOL_VIOLATION,
                f"ping {frame.sequence} came after ping {self._pings_heard}",
            )
        self._pings_heard = frame.sequence
        self._outbox.answer(frame.sequence)
        self._mark_dirty()

    def _on_datagram(self, frame: DatagramFrame) -> None:
        if not self._version.has_records:
            raise QmuxError(QmuxCode.PROTOCOL_VIOLATION, "a datagram came, but none is taken")
        self._incoming_datagram(frame.data)

    def _sample(self, rtt: float) -> None:
        before = self._smoothed_rtt
        self._smoothed_rtt = before + (rtt - before) * _NEW_SAMPLE if before else rtt

    # The public side

    @property
    def is_client(self) -> bool:
        return self._is_client

    @property
    def alpn(self) -> str:
        return self._agreement.protocol

    @property
    def remote_address(self) -> str:
        return self._remote_address

    @property
    def request_path(self) -> str | None:
        return self._request_path

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        return self._peer_certificate

    @property
    def peer_window(self) -> int:
        return self._peer.initial_max_data

    @property
    def max_datagram_size(self) -> int | None:
        accepted = self._peer.max_datagram_frame_size
        if self._end is not None or not accepted or not self._version.has_records:
            return None
        return largest_datagram(min(accepted, self._version.largest_message))

    def send_datagram_nowait(self, data: bytes) -> None:
        if self._end is not None:
            raise self._closed_error()
        limit = self.max_datagram_size
        if limit is None:
            raise ValueError("the peer takes no datagrams")
        if len(data) > limit:
            raise ValueError(f"a datagram carries at most {limit} bytes here, not {len(data)}")
        if len(self._outbox.datagrams) >= self._settings.datagram_queue:
            raise trio.WouldBlock
        self._outbox.datagrams.append(bytes(data))
        self._mark_dirty()

    def statistics(self) -> ConnectionStatistics:
        return ConnectionStatistics(
            bytes_sent=self._bytes_sent,
            bytes_received=self._bytes_received,
            datagrams_sent=self._messages_sent,
            datagrams_received=self._messages_received,
            packets_lost=0,
            smoothed_rtt=self._smoothed_rtt,
            congestion_window=0,
            send_buffered=self._outbox.queue.unsent,
            receive_buffered=self._data_received - self._data_consumed,
            streams_open=len(self._streams),
        )


_HANDLERS: dict[type[object], Callable[[QmuxConnection, Any], None]] = {
    ParametersFrame: QmuxConnection._on_parameters,
    StreamFrame: QmuxConnection._on_stream,
    ResetFrame: QmuxConnection._on_reset,
    StopFrame: QmuxConnection._on_stop,
    MaxDataFrame: QmuxConnection._on_max_data,
    MaxStreamDataFrame: QmuxConnection._on_max_stream_data,
    MaxStreamsFrame: QmuxConnection._on_max_streams,
    CloseFrame: QmuxConnection._on_close,
    PingFrame: QmuxConnection._on_ping,
    DatagramFrame: QmuxConnection._on_datagram,
}


def _stream_code(wire: int) -> int:
    """What is beyond moq-lite's codes says nothing."""
    return wire if wire <= _LARGEST_CODE else StreamCode.INTERNAL
