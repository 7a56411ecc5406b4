"""A stream as the engine keeps it, and who is told about it."""

from __future__ import annotations

from typing import Any, Protocol

from ...newest_first import NewestFirst
from ..buffers import ReceiveBuffer, SendBuffer


class _FinishedSender:
    """The sending part a stream of the other direction does not have."""

    is_finished = True
    has_frames = False
    unsent = 0
    reset_pending = False
    reset_code = None

    def reset(self, error_code: int) -> None:
        """Nothing to abandon."""


class _FinishedReceiver:
    """The receiving part a stream of the other direction does not have."""

    is_finished = True
    stop_pending = False


FINISHED_SENDER: Any = _FinishedSender()
FINISHED_RECEIVER: Any = _FinishedReceiver()


class EngineStream:
    """One stream, as aioquic's methods and ours need it."""

    __slots__ = (
        "application_receives",
        "application_sends",
        "consumed",
        "entry",
        "is_blocked",
        "max_stream_data_local",
        "max_stream_data_local_sent",
        "max_stream_data_remote",
        "order",
        "priority",
        "rank",
        "receiver",
        "rivals",
        "sender",
        "settled",
        "stream_id",
        "stuck",
    )

    def __init__(
        self,
        stream_id: int,
        order: int,
        *,
        sender: SendBuffer,
        receiver: ReceiveBuffer,
        local_window: int,
        remote_window: int,
    ) -> None:
        self.stream_id: int = stream_id
        self.order: int = order
        self.priority: int = 0
        self.rivals: NewestFirst[EngineStream] | None = None  # with whom it shares places
        self.rank: int = 0  # among them
        self.sender: SendBuffer = sender
        self.receiver: ReceiveBuffer = receiver
        self.max_stream_data_local: int = local_window
        self.max_stream_data_local_sent: int = local_window
        self.max_stream_data_remote: int = remote_window
        self.is_blocked: bool = False
        self.consumed: int = 0  # bytes the application took
        self.entry: tuple[int, int, EngineStream] | None = None  # its place in the heap
        self.stuck: int = 0  # unsent bytes, found to wait for max_stream_data_remote to grow
        self.settled: int = 0  # of the peer's stream: what is over (see QuicConnectionBinding)
        self.application_sends: Any = None
        self.application_receives: Any = None

    def __lt__(self, other: EngineStream) -> bool:
        # Streams that have changed places tie with what is left of one another in the heap.
        return self.stream_id < other.stream_id

    @property
    def is_finished(self) -> bool:
        """Whether both directions are over on the wire."""
        return bool(self.sender.is_finished and self.receiver.is_finished)


class EngineOwner(Protocol):
    """Who is told what happened. Called in the middle of a packet: only take note."""

    def stream_opened(self, stream: EngineStream) -> None:
        """The peer opened a stream."""

    def stream_data(self, stream: EngineStream, data: bytes, ended: bool) -> None:
        """Bytes arrived in order."""

    def stream_reset(self, stream: EngineStream, error_code: int) -> None:
        """The peer abandoned its side."""

    def stream_stopped(self, stream: EngineStream, error_code: int) -> None:
        """The peer wants no more of our side."""

    def stream_delivered(self, stream: EngineStream) -> None:
        """Everything up to the FIN, or the reset, was acknowledged."""

    def stream_discarded(self, stream: EngineStream) -> None:
        """The stream is over on the wire, in both directions."""

    def stream_credit_grew(self) -> None:
        """The peer allows more streams."""
