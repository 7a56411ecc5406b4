"""A group: frames that are delivered in order, as one unit, under one sequence number."""

from __future__ import annotations

import abc
from types import TracebackType
from typing import TYPE_CHECKING, Self

import attrs
import trio

from ..errors import ProtocolError, StreamCode, StreamReset
from .frame import Frame

if TYPE_CHECKING:
    from .log import TrackLog


@attrs.frozen
class Finished:
    """The group is complete."""


@attrs.frozen
class Aborted:
    """The group ended early, with this stream code; its frames are a prefix."""

    code: int


FINISHED = Finished()
GroupEnd = Finished | Aborted


@attrs.define(slots=True, eq=False)
class Group:
    """One group in a track's log. Written by one producer, read by any number of readers.

    A reader keeps its own reference, so what it reads stays readable after the log has
    evicted the group.

    Attributes:
        sequence: its number on the track.
        created_at: Trio time of its creation.
        frames: what was written so far.
        size: the payload bytes in ``frames``.
        end: how it ended, or None while it is open.
        changed_at: Trio time of the last write.
        recorded: how many of the frames are durable.
        recorded_at: Trio time; what was written before is durable.
        durable: whether all of it, end included, is durable.
        lost: whether it will not be recorded, or not as a whole.
        held_back: whether subscribers see only what is durable.
    """

    sequence: int
    created_at: float
    changed_at: float = attrs.field(init=False)
    frames: list[Frame] = attrs.Factory(list)
    size: int = 0
    end: GroupEnd | None = None
    recorded: int = 0
    recorded_at: float = attrs.field(init=False)
    durable: bool = False
    lost: bool = False
    held_back: bool = False

    @changed_at.default
    def _not_yet_changed(self) -> float:
        return self.created_at

    @recorded_at.default
    def _not_yet_recorded(self) -> float:
        return self.created_at

    @property
    def hidden(self) -> bool:
        """Whether there is nothing of it yet that subscribers may see."""
        return self.held_back and not (self.recorded or self.durable)


class EndedByBlock(abc.ABC):
    """What writes a group: as a context manager it finishes the group on the way out, or aborts
    it with :attr:`StreamCode.INTERNAL` where an exception passes (:attr:`StreamCode.CANCEL`
    for :exc:`trio.Cancelled`)."""

    __slots__ = ()

    @abc.abstractmethod
    def finish(self) -> None:
        """The group is complete. A no-op if it has ended already."""

    @abc.abstractmethod
    def abort(self, code: int = StreamCode.CANCEL) -> None:
        """End the group early. A no-op if it has ended already."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.finish()
        elif isinstance(error, trio.Cancelled):
            self.abort(StreamCode.CANCEL)
        else:
            self.abort(StreamCode.INTERNAL)


class GroupProducer(EndedByBlock):
    """Writes one group. Nothing here blocks.

    As a context manager it finishes the group on the way out, or aborts it with
    :attr:`StreamCode.INTERNAL` where an exception passes (:attr:`StreamCode.CANCEL` for
    :exc:`trio.Cancelled`).
    """

    __slots__ = ("_group", "_log")

    def __init__(self, log: TrackLog, group: Group) -> None:
        self._log = log
        self._group = group

    @property
    def sequence(self) -> int:
        """The group's number on its track."""
        return self._group.sequence

    def write_frame(self, payload: bytes, timestamp_us: int | None = None) -> None:
        """Append one frame; every subscriber sees it from now on.

        Args:
            payload: the bytes, delivered as they are. Must not be changed afterwards.
            timestamp_us: microseconds; by default now, on the track's clock.

        Raises:
            ProtocolError: the group has ended (also when the log had to evict it).
            ValueError: the payload is larger than the track's ``max_frame_bytes``, or the
                timestamp is not in ``[0, 2**61)``, which is what can be sent.
        """
        self._log.write_frame(self._group, payload, timestamp_us)

    def finish(self) -> None:
        """The group is complete. A no-op if it has ended already."""
        self._log.end_group(self._group, FINISHED)

    def abort(self, code: int = StreamCode.CANCEL) -> None:
        """End the group early: readers get this error code instead of an end, perhaps
        before all that was written. A no-op if it has ended already.
        """
        self._log.end_group(self._group, Aborted(int(code)))


class GroupConsumer(trio.abc.ReceiveChannel[Frame]):
    """Reads the frames of one group, in order, wherever they come from.

    ``receive`` raises :exc:`trio.EndOfChannel` after the last frame of a complete group
    and :exc:`~moqtrio.errors.StreamReset` where the group was aborted. Frames that have
    already arrived are handed out without a checkpoint; only waiting for more is one.
    Cancelling ``receive`` loses nothing.
    """

    @property
    @abc.abstractmethod
    def sequence(self) -> int:
        """The group's number on its track."""

    @abc.abstractmethod
    async def receive_batch(self) -> list[Frame]:
        """All frames that are there, waiting for the first; ``[]`` at the end.

        The cheap way to read groups of many frames. Raises as ``receive`` does.
        """

    async def read_all(self) -> list[Frame]:
        """Every remaining frame of the group, once it is complete.

        Raises as ``receive`` does. Cancelling it loses the frames it had gathered.
        """
        frames: list[Frame] = []
        while batch := await self.receive_batch():
            frames += batch
        return frames


def check_open(group: Group) -> None:
    """Raise :exc:`ProtocolError` if ``group`` can take no more frames."""
    if group.end is None:
        return
    how = f"aborted with code {group.end.code}" if isinstance(group.end, Aborted) else "finished"
    raise ProtocolError(f"group {group.sequence} takes no more frames: it was {how}")


def reset_for(end: GroupEnd) -> StreamReset | None:
    """The error a reader of a group that ended so gets after its frames, if any."""
    return StreamReset(end.code) if isinstance(end, Aborted) else None
