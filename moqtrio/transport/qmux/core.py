"""The streams of a qmux connection: opening, credit in both directions, and their end."""

from __future__ import annotations

import abc
from collections.abc import Iterable, Mapping

from ..base import ConnectionBase
from ..connection import BidiStream
from ..settings import TransportSettings
from ..settling import ACCEPTED, ALL_SETTLED, CONSUMED, DISCARDED
from ..streams import ReceiveHalf, SendHalf
from .errors import QmuxCode, QmuxError
from .frames import encode_parameters
from .outbox import Outbox
from .parameters import Parameters
from .streams import (
    PeerStreams,
    QmuxReceiveHalf,
    QmuxSendHalf,
    Stream,
)
from .versions import QmuxVersion

# Unread bytes beyond the window that are put up with so that an answer gets through.
_ANSWERS = 16 * 1024
_LARGEST_CODE = 0xFFFFFFFF


class QmuxStreams(ConnectionBase):
    """Flow control is that of RFC 9000 section 4, with moqtrio's windows."""

    def __init__(
        self, version: QmuxVersion, settings: TransportSettings, *, is_client: bool
    ) -> None:
        super().__init__(settings)
        self._version = version
        self._is_client = is_client
        ours = Parameters.of(settings, version)
        self._outbox = Outbox(version, encode_parameters(ours.encode()))
        # Until the peer has said what it admits: nothing.
        self._peer = Parameters()
        self._streams: dict[int, Stream] = {}
        # Streams over on the wire, with bytes nobody took yet.
        self._unread: dict[QmuxReceiveHalf, None] = {}
        self._stream_order = 0
        self._opened = {True: 0, False: 0}  # by this side: unidirectional, bidirectional
        self._streams_admitted = {True: 0, False: 0}
        self._peer_streams = {
            True: PeerStreams(settings.max_streams_uni),
            False: PeerStreams(settings.max_streams_bidi),
        }
        self._data_received = 0
        self._data_consumed = 0
        self._data_limit = settings.connection_window

    @abc.abstractmethod
    def _mark_dirty(self) -> None:
        """There may be something to send."""

    # What ConnectionBase asks for

    def _unsent(self) -> int:
        return self._outbox.queue.unsent

    def _stuck(self) -> int:
        return self._outbox.queue.stuck

    def _unsent_at(self) -> Mapping[int, int]:
        return self._outbox.queue.unsent_at

    def _stream_credit(self, uni: bool) -> int:
        return self._streams_admitted[uni] - self._opened[uni]

    def _make_uni(self) -> SendHalf:
        sender = self._make_sender(
            self._take_stream_id(uni=True), self._peer.initial_max_stream_data_uni
        )
        self._streams[sender.stream_id] = Stream(sender, None)
        return sender

    def _make_bidi(self) -> BidiStream:
        stream_id = self._take_stream_id(uni=False)
        sender = self._make_sender(stream_id, self._peer.initial_max_stream_data_bidi_remote)
        receiver = QmuxReceiveHalf(self, stream_id, self._settings.stream_window)
        self._streams[stream_id] = Stream(sender, receiver)
        return BidiStream(sender, receiver)

    def _stream_accepted(self, stream: ReceiveHalf) -> None:
        assert isinstance(stream, QmuxReceiveHalf)
        self._settle_peer_stream(stream, ACCEPTED)

    def _live_send_halves(self) -> Iterable[SendHalf]:
        return [stream.send for stream in self._streams.values() if stream.send is not None]

    def _live_receive_halves(self) -> Iterable[ReceiveHalf]:
        live = [stream.receive for stream in self._streams.values() if stream.receive is not None]
        return [*live, *self._unread]

    def _lend_credit(self) -> None:
        if self._end is not None or self._data_received < self._data_limit:
            return
        # Somebody nearly always waits for the next answer on a bidirectional stream.
        answers, data = self._readers_waiting
        window = self._settings.connection_window
        most = window if data else _ANSWERS if answers else 0
        limit = min(
            self._data_received + self._settings.stream_window,
            self._data_consumed + window + most,
        )
        if limit > self._data_limit:
            self._announce_data(limit)

    # What the halves call

    def _consume(self, half: QmuxReceiveHalf, count: int) -> None:
        """The application took bytes, or never will."""
        self._consume_data(count)
        half.consumed += count
        if not half.is_over:
            window = self._settings.stream_window
            limit = half.consumed + window
            if limit - half.limit >= window // 2 + 1:
                half.limit = limit
                self._outbox.announce_window(half)
                self._mark_dirty()

    def _refuse(self, half: QmuxReceiveHalf, code: int) -> None:
        self._outbox.stop(half.stream_id, _in_range(code))
        self._mark_dirty()

    def _abandon(self, half: QmuxSendHalf, code: int) -> None:
        if not half.end_sent and not half.is_over:
            self._outbox.reset(half, _in_range(code))
            self._sending_over(half)
            self._mark_dirty()

    def _settle_peer_stream(self, half: QmuxReceiveHalf, what: int) -> None:
        """Give the peer a stream back once one of its own is over in every respect."""
        before = half.settled
        half.settled = settled = before | what
        if what == CONSUMED:
            self._unread.pop(half, None)
        if settled == ALL_SETTLED != before and self._is_peers(half.stream_id):
            uni = bool(half.stream_id & 2)
            streams = self._peer_streams[uni]
            if streams.grant():
                self._outbox.announce_streams(uni, streams)
                self._mark_dirty()

    # Of one stream

    def _sending_over(self, half: QmuxSendHalf) -> None:
        half.is_over = True
        self._discard_if_over(half.stream_id)

    def _discard_if_over(self, stream_id: int) -> None:
        stream = self._streams[stream_id]
        send, receive = stream.send, stream.receive
        if (send is None or send.is_over) and (receive is None or receive.is_over):
            del self._streams[stream_id]
            if receive is not None:
                self._settle_peer_stream(receive, DISCARDED)
                if not receive.settled & CONSUMED:
                    self._unread[receive] = None

    def _receiver_of(self, stream_id: int) -> QmuxReceiveHalf | None:
        """What takes a stream's bytes; None for a stream that is over.

        Raises QmuxError for a stream this side only sends on, or never opened.
        """
        if stream_id & 2 and not self._is_peers(stream_id):
            raise _wrong_state(f"stream {stream_id} carries nothing in this direction")
        stream = self._find(stream_id)
        return None if stream is None else stream.receive

    def _sender_of(self, stream_id: int) -> QmuxSendHalf | None:
        """What sends on a stream; None for a stream that is over.

        Raises QmuxError for a stream the peer only sends on, or this side never opened.
        """
        if stream_id & 2 and self._is_peers(stream_id):
            raise _wrong_state(f"stream {stream_id} carries nothing in the other direction")
        stream = self._find(stream_id)
        return None if stream is None else stream.send

    def _find(self, stream_id: int) -> Stream | None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            return stream
        uni, number = bool(stream_id & 2), stream_id >> 2
        if self._is_peers(stream_id):
            return self._admit_stream(stream_id) if self._peer_streams[uni].open(number) else None
        if number >= self._opened[uni]:
            raise _wrong_state(f"stream {stream_id} was never opened")
        return None

    def _admit_stream(self, stream_id: int) -> Stream:
        receiver = QmuxReceiveHalf(self, stream_id, self._settings.stream_window)
        if stream_id & 2:
            stream = Stream(None, receiver)
            self._incoming_uni(receiver)
        else:
            sender = self._make_sender(stream_id, self._peer.initial_max_stream_data_bidi_local)
            stream = Stream(sender, receiver)
            self._incoming_bidi(BidiStream(sender, receiver))
        self._streams[stream_id] = stream
        return stream

    def _make_sender(self, stream_id: int, limit: int) -> QmuxSendHalf:
        self._stream_order = order = self._stream_order + 1
        return QmuxSendHalf(self, stream_id, order, limit)

    def _take_stream_id(self, *, uni: bool) -> int:
        number = self._opened[uni]
        self._opened[uni] = number + 1
        return number * 4 + (0 if self._is_client else 1) + (2 if uni else 0)

    def _is_peers(self, stream_id: int) -> bool:
        """Whether the peer opened a stream (RFC 9000 section 2.1)."""
        return bool(stream_id & 1) == self._is_client

    # Of all streams

    def _receive_data(self, half: QmuxReceiveHalf, size: int) -> None:
        """Count bytes that came, or were declared to be lost, against both windows."""
        received = half.received + size
        if received > half.limit:
            raise QmuxError(
                QmuxCode.FLOW_CONTROL_ERROR,
                f"stream {half.stream_id} has {received} bytes, but {half.limit} were allowed",
            )
        if self._data_received + size > self._data_limit:
            raise QmuxError(
                QmuxCode.FLOW_CONTROL_ERROR,
                f"{self._data_received + size} bytes of streams came, "
                f"but {self._data_limit} were allowed",
            )
        half.received = received
        self._data_received += size

    def _consume_data(self, count: int) -> None:
        self._data_consumed += count
        limit = self._data_consumed + self._settings.connection_window
        # Once the peer has less left than it would get. Half a window would not do: streams
        # that nobody reads may keep the others from ever coming to that much.
        if limit - self._data_limit > self._data_limit - self._data_received:
            self._announce_data(limit)

    def _announce_data(self, limit: int) -> None:
        self._data_limit = limit
        self._outbox.announce_data(limit)
        self._mark_dirty()


def _in_range(code: int) -> int:
    return min(max(code, 0), _LARGEST_CODE)


def _wrong_state(message: str) -> QmuxError:
    return QmuxError(QmuxCode.STREAM_STATE_ERROR, message)
