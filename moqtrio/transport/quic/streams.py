"""The two halves of a QUIC stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..newest_first import NewestFirst
from ..settling import CONSUMED
from ..streams import ReceiveHalf, SendHalf
from .codes import stream_code_to_wire

if TYPE_CHECKING:
    from .connection import QuicConnection
    from .engine import EngineStream


class QuicSendHalf(SendHalf):
    """Writes go to the engine's buffers and share the next flush."""

    __slots__ = ("_stream",)

    _connection: QuicConnection

    def __init__(self, connection: QuicConnection, stream: EngineStream) -> None:
        SendHalf.__init__(self, connection, stream.stream_id)
        self._stream = stream
        stream.application_sends = self

    def _unsent(self) -> int:
        return self._stream.sender.unsent

    def _transmit(self, data: bytes, finish: bool) -> None:
        connection = self._connection
        connection._engine.write(self._stream, data, finish)
        connection._mark_dirty()

    def _abandon(self, code: int) -> None:
        connection = self._connection
        connection._engine.abandon(self._stream, stream_code_to_wire(code))
        connection._mark_dirty()

    def _reprioritise(self) -> None:
        self._connection._engine.prioritise(self._stream, self._priority)

    def share_places(self, rivals: NewestFirst[Any] | None, rank: int) -> None:
        if not self._settled:
            self._connection._engine.share_places(self._stream, rivals, rank)


class QuicReceiveHalf(ReceiveHalf):
    """Reads give credit back to the peer."""

    __slots__ = ("_stream",)

    _connection: QuicConnection

    def __init__(self, connection: QuicConnection, stream: EngineStream) -> None:
        ReceiveHalf.__init__(self, connection, stream.stream_id)
        self._stream = stream
        stream.application_receives = self

    def _give_credit(self, count: int) -> None:
        connection = self._connection
        if connection._engine.consume(self._stream, count):
            connection._mark_dirty()

    def _refuse(self, code: int) -> None:
        connection = self._connection
        if self._stream.receiver.is_finished:
            self._consumed()  # reset after its session ended
            return
        connection._engine.refuse(self._stream, stream_code_to_wire(code))
        connection._mark_dirty()

    def _consumed(self) -> None:
        self._connection._settle_peer_stream(self._stream, CONSUMED)
