"""The streams of a connection: opening, writing, and credit in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aioquic.quic.configuration import QuicConfiguration

from ...newest_first import NewestFirst
from ...send_queue import SendQueue
from ...settings import TransportSettings
from ..buffers import PieceCount, ReceiveBuffer, SendBuffer
from ..pacing import SlowStartExit, TickPacer
from .stock import StockConnection
from .stream import FINISHED_RECEIVER, EngineOwner, EngineStream


class SchedulingEngine(StockConnection):
    """Keeps the streams with something to send in order, and counts credit."""

    # aioquic's, as far as they are assigned here or below.
    _handshake_complete: bool
    _handshake_done_pending: bool
    _local_next_stream_id_bidi: int
    _local_next_stream_id_uni: int
    _probe_pending: bool
    _quic_logger: Any
    _remote_max_data_used: int
    _remote_max_streams_bidi: int
    _remote_max_streams_uni: int

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        settings: TransportSettings,
        owner: EngineOwner,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self._owner = owner
        # A qlog wants every frame described, which only aioquic's own methods do.
        self._fast_path = settings.fast_path and configuration.quic_logger is None
        self._stream_window = settings.stream_window
        self._connection_window = settings.connection_window
        for limit, value in (
            (self._local_max_streams_uni, settings.max_streams_uni),
            (self._local_max_streams_bidi, settings.max_streams_bidi),
        ):
            limit.value = limit.sent = value
        self._data_consumed = 0
        self._pieces = PieceCount()
        self._stream_order = 0
        self._queue: SendQueue[EngineStream] = SendQueue()
        self._out_of_data_credit: dict[EngineStream, None] = {}
        # Streams with a RESET_STREAM, STOP_SENDING or MAX_STREAM_DATA to write.
        self._control: dict[EngineStream, None] = {}
        self.packets_lost = 0
        self._loss._pacer = TickPacer(max_datagram_size=configuration.max_datagram_size)
        self._loss._cc._rtt_monitor = SlowStartExit()
        self._count_losses()

    def stream_credit(self, uni: bool) -> int:
        """How many streams the peer lets us open now."""
        if uni:
            return self._remote_max_streams_uni - self._local_next_stream_id_uni // 4
        return self._remote_max_streams_bidi - self._local_next_stream_id_bidi // 4

    def open_stream(self, *, uni: bool) -> EngineStream:
        """Open a stream; the caller checked :meth:`stream_credit`."""
        if uni:
            stream_id = self._local_next_stream_id_uni
            self._local_next_stream_id_uni = stream_id + 4
            local_window, remote_window = 0, self._remote_max_stream_data_uni
        else:
            stream_id = self._local_next_stream_id_bidi
            self._local_next_stream_id_bidi = stream_id + 4
            local_window = self._local_max_stream_data_bidi_local
            remote_window = self._remote_max_stream_data_bidi_remote
        self._stream_order = order = self._stream_order + 1
        stream = self._streams[stream_id] = EngineStream(
            stream_id,
            order,
            sender=SendBuffer(),
            receiver=FINISHED_RECEIVER if uni else ReceiveBuffer(self._pieces),
            local_window=local_window,
            remote_window=remote_window,
        )
        return stream

    def write(self, stream: EngineStream, data: bytes, end: bool) -> None:
        """Queue bytes, and the end of the stream if ``end``."""
        stream.sender.write(data, end)
        queue = self._queue
        if data:
            # As count_unsent does; here it is once for each small group.
            size, priority, unsent_at = len(data), stream.priority, queue.unsent_at
            queue.unsent += size
            unsent_at[priority] = unsent_at.get(priority, 0) + size
        if stream.entry is None:
            queue.add(stream)

    def abandon(self, stream: EngineStream, error_code: int) -> None:
        """Send RESET_STREAM, once, unless everything arrived already."""
        self._queue.count_unsent(stream.priority, -stream.sender.unsent)
        self._queue.count_stuck(stream, 0)
        self._queue.leave(stream)
        self._out_of_data_credit.pop(stream, None)
        stream.sender.reset(error_code)
        if stream.sender.reset_pending:
            self._control[stream] = None

    def refuse(self, stream: EngineStream, error_code: int) -> None:
        """Send STOP_SENDING, unless the stream has ended."""
        stream.receiver.stop(error_code)
        if stream.receiver.stop_pending:
            self._control[stream] = None

    def prioritise(self, stream: EngineStream, priority: int) -> None:
        """Send this stream's bytes before those of a lower number."""
        unsent = stream.sender.unsent
        if unsent:
            self._queue.count_unsent(stream.priority, -unsent)
            self._queue.count_unsent(priority, unsent)
        stream.priority = priority
        if stream.entry is not None:
            self._queue.add(stream)

    def share_places(
        self, stream: EngineStream, rivals: NewestFirst[EngineStream] | None, rank: int
    ) -> None:
        """Let the highest rank among ``rivals`` go first in the place of any that has not
        begun."""
        self._queue.share_places(stream, rivals, rank)

    @property
    def unsent(self) -> int:
        """Bytes taken on all streams and not sent once."""
        return self._queue.unsent

    @property
    def stuck(self) -> int:
        """Those of them that wait for credit of their own stream."""
        return self._queue.stuck

    @property
    def unsent_at(self) -> Mapping[int, int]:
        """What is unsent of the streams of each priority, where there is any."""
        return self._queue.unsent_at

    def consume(self, stream: EngineStream, count: int) -> bool:
        """The application took bytes; True if there is credit to announce."""
        announce = self._consume_data(count)
        stream.consumed = consumed = stream.consumed + count
        if not stream.receiver.is_finished:
            limit = consumed + self._stream_window
            if limit - stream.max_stream_data_local >= self._stream_window // 2 + 1:
                stream.max_stream_data_local = limit
                self._control[stream] = None
                return True
        return announce

    def lend(self, most: int) -> bool:
        """Let the peer send a stream's window more than it may, once it can send nothing;
        True if there is credit to announce.

        For a reader that waits for one stream while others, unread, have used up the
        connection's window. It is exceeded by ``most`` unread bytes at most.
        """
        limit = self._local_max_data
        if limit.used < limit.value:
            return False
        most += self._data_consumed + self._connection_window
        value = min(limit.used + self._stream_window, most)
        if value <= limit.value:
            return False
        limit.value = value
        return True

    def grant_stream(self, uni: bool) -> bool:
        """Let the peer open one more stream; True if that is worth announcing now."""
        limit = self._local_max_streams_uni if uni else self._local_max_streams_bidi
        limit.value += 1
        return bool(limit.sent - limit.used < limit.value - limit.sent)

    # Inside

    def _consume_data(self, count: int) -> bool:
        self._data_consumed += count
        limit = self._local_max_data
        value = self._data_consumed + self._connection_window
        # Once the peer has less left than it would get. Half a window would not do: streams
        # that nobody reads may keep the others from ever coming to that much.
        if value - limit.value > limit.value - limit.used:
            limit.value = value
            return True
        return False

    def _discard_if_over(self, stream: EngineStream) -> None:
        if (
            stream.sender.is_finished
            and stream.receiver.is_finished
            and self._streams.pop(stream.stream_id, None) is not None
        ):
            self._owner.stream_discarded(stream)

    def _count_losses(self) -> None:
        on_packets_lost = self._loss._on_packets_lost

        def count(*, packets: Any, **rest: Any) -> None:
            packets = list(packets)
            self.packets_lost += len(packets)
            on_packets_lost(packets=packets, **rest)

        self._loss._on_packets_lost = count
