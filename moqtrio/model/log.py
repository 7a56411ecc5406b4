"""A track's live log: the groups that are in memory, shared by everyone who reads them.

One producer writes, any number of subscriptions and one recorder read. The log keeps what
is young or not yet durable, and forgets the rest, oldest first. It holds no task and no
timer: what is too old is forgotten when somebody next writes or looks.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, insort

import attrs
import trio

from ..errors import ProtocolError, StreamCode
from .clock import MediaClock
from .frame import TIMESTAMP_END, Frame
from .group import Aborted, Group, GroupEnd, check_open
from .notify import Watchers
from .ranges import RangeSet

logger: logging.Logger = logging.getLogger("moqtrio.log")

# What the wire can carry (RFC 9000 section 16: 62 bits): the end after the last group.
_LARGEST_SEQUENCE = 2**62 - 2

_LOST_RANGES = 1024
_COMPACT_AT = 4096


@attrs.frozen
class LogLimits:
    """How much a log remembers.

    Attributes:
        cache_age: seconds a group stays in memory after its last write.
        cache_bytes: payload bytes beyond which older groups leave earlier.
        max_bytes: payload bytes beyond which even a group that is still to be recorded
            leaves memory, and is counted as lost.
        max_frame_bytes: the largest payload of one frame.
    """

    cache_age: float = attrs.field(default=5.0, validator=attrs.validators.ge(0))
    cache_bytes: int = attrs.field(default=64 * 2**20, validator=attrs.validators.ge(0))
    max_bytes: int = attrs.field(default=256 * 2**20, validator=attrs.validators.ge(0))
    max_frame_bytes: int = attrs.field(default=16 * 2**20, validator=attrs.validators.gt(0))


@attrs.frozen
class LogStatistics:
    """A snapshot of one track's log.

    Attributes:
        groups: groups in memory.
        bytes: payload bytes in memory.
        oldest: the smallest sequence in memory, or None.
        next_sequence: one more than the highest sequence ever used.
        unrecorded: groups not yet durable; 0 for a track that is not recorded.
        durable_end: every group below this is durable or was lost; None for a track that
            is not recorded.
        evicted: groups that have left memory.
        lost: those of them that had not been recorded, but should have been.
        readers: who follows the log: subscriptions and recorder.
    """

    groups: int
    bytes: int
    oldest: int | None
    next_sequence: int
    unrecorded: int
    durable_end: int | None
    evicted: int
    lost: int
    readers: int


class TrackLog:
    """The shared state behind one track. See the module's docstring.

    Attributes:
        watchers: called at every change a reader could wait for.
        next_sequence: one more than the highest sequence ever used: the live edge.
        final_sequence: one more than the last sequence, once the track has finished.
        aborted: the code the track was aborted with, if it was.
    """

    def __init__(self, limits: LogLimits | None = None, clock: MediaClock | None = None) -> None:
        self.limits: LogLimits = LogLimits() if limits is None else limits
        self.clock: MediaClock = MediaClock() if clock is None else clock
        self.watchers: Watchers = Watchers()
        self.next_sequence: int = 0
        self.final_sequence: int | None = None
        self.aborted: int | None = None
        self._groups: dict[int, Group] = {}
        self._order: list[int] = []  # sorted; entries before _head have been evicted
        self._head = 0
        self._bytes = 0
        self._floor = 0  # below this a sequence may have been used before
        self._evicted = 0
        self._lost_count = 0
        self._lost = RangeSet(limit=_LOST_RANGES)
        self._recorded = False
        self._reserved_end: int | None = None
        self._unrecorded: dict[int, Group] = {}
        self._unrecorded_bytes = 0

    # Writing: called by the producers' handles.

    def create_group(self, sequence: int | None = None) -> Group:
        """Open a group: the next one, or any sequence that was never used.

        Raises ProtocolError where the track has ended or the sequence may have been used.
        """
        self.check_open()
        if sequence is None:
            sequence = self.next_sequence
        elif sequence in self._groups or sequence < self._floor:
            raise ProtocolError(
                f"group {sequence} cannot be created: sequences below {self._floor} and those "
                f"in the log are used; the next free one is {self.next_sequence}"
            )
        if sequence > _LARGEST_SEQUENCE:
            raise ProtocolError(
                f"group {sequence} cannot be created: the largest sequence is {_LARGEST_SEQUENCE}"
            )
        group = Group(sequence, trio.current_time())
        self._groups[sequence] = group
        if not self._order or sequence > self._order[-1]:
            self._order.append(sequence)
        else:
            insort(self._order, sequence, lo=self._head)
        self.next_sequence = max(self.next_sequence, sequence + 1)
        if self._recorded:
            self._unrecorded[sequence] = group
        self.evict()
        self.watchers.notify()
        return group

    def write_frame(self, group: Group, payload: bytes, timestamp_us: int | None) -> None:
        """Append a frame to an open group of this log."""
        if group.end is not None:
            check_open(group)
        size = len(payload)
        if size > self.limits.max_frame_bytes:
            raise ValueError(
                f"a frame of {size} bytes is larger than this track allows "
                f"(max_frame_bytes={self.limits.max_frame_bytes})"
            )
        if timestamp_us is not None and not 0 <= timestamp_us < TIMESTAMP_END:
            raise ValueError(f"expected a timestamp in [0, 2**61) microseconds, got {timestamp_us}")
        group.changed_at = now = trio.current_time()
        if timestamp_us is None:
            timestamp_us = self.clock.at(now)
        group.frames.append(Frame(payload, timestamp_us))
        group.size += size
        self._bytes += size
        if self._recorded:
            self._unrecorded_bytes += size
        if self._bytes > self.limits.cache_bytes:
            self.evict()
        self.watchers.notify()

    def end_group(self, group: Group, end: GroupEnd) -> None:
        """End a group, unless it has ended."""
        if group.end is None:
            group.end = end
            self.watchers.notify()

    def finish(self) -> None:
        """No group will follow. Groups that are open may still be written."""
        self.check_open()
        self.final_sequence = self.next_sequence
        self.watchers.notify()

    def abort(self, code: int) -> None:
        """End the track and every open group with an error."""
        self.check_open()
        self.aborted = code
        for sequence in self._order[self._head :]:
            self.end_group(self._groups[sequence], Aborted(code))
        self.watchers.notify()

    def check_open(self) -> None:
        """Raise ProtocolError where the track has ended."""
        if self.final_sequence is not None:
            raise ProtocolError(f"the track was finished at group {self.final_sequence}")
        if self.aborted is not None:
            raise ProtocolError(f"the track was aborted with code {self.aborted}")

    def begin_at(self, sequence: int) -> None:
        """Sequences below this count as used: what they hold was published before.

        Raises ProtocolError once there was a group.
        """
        if not 0 <= sequence <= _LARGEST_SEQUENCE + 1:
            raise ValueError(f"expected a sequence in [0, {_LARGEST_SEQUENCE}], got {sequence}")
        if self._groups:
            raise ProtocolError("the first sequence must be set before the first group is created")
        self._floor = self.next_sequence = max(self.next_sequence, sequence)

    # Reading.

    @property
    def edge(self) -> int:
        """One more than the highest sequence subscribers may see.

        For a recorded track that is held back until the store has reserved the sequences
        durably: otherwise a crash could give one number to two contents.
        """
        if self._reserved_end is None:
            return self.next_sequence
        return min(self.next_sequence, self._reserved_end)

    @property
    def ended(self) -> bool:
        """Whether the track was finished or aborted."""
        return self.final_sequence is not None or self.aborted is not None

    def get(self, sequence: int) -> Group | None:
        """The group, if it is in memory and may be seen."""
        group = self._groups.get(sequence)
        if group is None or (self._reserved_end is not None and sequence >= self._reserved_end):
            return None
        return group

    def first_from(self, sequence: int) -> int | None:
        """The smallest sequence at or above this one that is in memory and may be seen."""
        index = bisect_left(self._order, sequence, lo=self._head)
        if index < len(self._order) and self._order[index] < self.edge:
            return self._order[index]
        return None

    @property
    def latest(self) -> int | None:
        """The highest sequence in memory that may be seen, or None."""
        index = bisect_left(self._order, self.edge, lo=self._head) - 1
        return self._order[index] if index >= self._head else None

    @property
    def latest_first_us(self) -> int | None:
        """The first timestamp of the latest group that has a frame and may be seen."""
        for index in range(bisect_left(self._order, self.edge, lo=self._head) - 1, -1, -1):
            group = self._groups.get(self._order[index])
            if group is not None and group.frames:
                return group.frames[0].timestamp_us
        return None

    def lost_until(self, sequence: int) -> int | None:
        """Where the run of lost groups around ``sequence`` ends; None if it was not lost."""
        return self._lost.end_of(sequence)

    def statistics(self) -> LogStatistics:
        """A snapshot of the counters."""
        return LogStatistics(
            groups=len(self._groups),
            bytes=self._bytes,
            oldest=self._order[self._head] if self._groups else None,
            next_sequence=self.next_sequence,
            unrecorded=len(self._unrecorded),
            durable_end=self.durable_end if self._recorded else None,
            evicted=self._evicted,
            lost=self._lost_count,
            readers=len(self.watchers),
        )

    # Recording: called by the recorder.

    def begin_recording(self, first_sequence: int, reserved_end: int) -> None:
        """From now on a group stays in memory until it is durable, and sequences below
        ``first_sequence`` count as used. Must come before the first group."""
        if self._groups:
            raise ProtocolError("recording must begin before the first group is created")
        self._recorded = True
        self.begin_at(first_sequence)
        self._reserved_end = reserved_end

    def set_reserved_end(self, end: int) -> None:
        """Sequences below ``end`` are reserved durably: subscribers may see them."""
        self._reserved_end = end
        self.watchers.notify()

    @property
    def durable_end(self) -> int:
        """Every group below this is durable or lost. For a recorded track only."""
        return min(self._unrecorded, default=self.next_sequence)

    def unrecorded(self) -> list[Group]:
        """The groups that are not yet wholly durable, oldest first by creation."""
        return list(self._unrecorded.values())

    def mark_recorded(self, group: Group, frames: int, end: GroupEnd | None) -> None:
        """``frames`` more of the group's frames are durable, and ``end`` unless it is None.

        The group may have been lost while they were written. If that was all of it, it is
        not lost after all; otherwise it stays in :meth:`unrecorded` until its end is
        recorded, because what is stored must not be taken for the whole.
        """
        group.recorded += frames
        if end is None:
            if group.lost and group.sequence not in self._unrecorded:
                self._unrecorded[group.sequence] = group
                self._unrecorded_bytes += group.size
            return
        if end == group.end and group.recorded == len(group.frames):
            group.durable = True
            if group.lost:
                self._find(group)
        self._drop_unrecorded(group)

    def is_behind(self, behind_bytes: int) -> bool:
        """Whether more than this many payload bytes are still to be recorded; with 0,
        whether any group is."""
        if behind_bytes:
            return self._unrecorded_bytes > behind_bytes
        return bool(self._unrecorded)

    # Forgetting.

    def evict(self) -> None:
        """Forget, oldest first, what is too old or too much. The latest group stays.

        A recorded group leaves when it is durable. Only beyond ``max_bytes`` does it leave
        anyway, marked as lost, and then it is aborted so that nobody takes the part that
        was seen or stored for the whole.
        """
        deadline = trio.current_time() - self.limits.cache_age
        while len(self._groups) > 1:
            group = self._groups[self._order[self._head]]
            forced = self._bytes > self.limits.max_bytes
            if not forced:
                if group.end is None or (self._recorded and not group.durable):
                    break
                if group.changed_at > deadline and self._bytes <= self.limits.cache_bytes:
                    break
            self._forget(group)

    def _forget(self, group: Group) -> None:
        if group.end is None:
            group.end = Aborted(StreamCode.EVICTED)
        if self._recorded and not group.durable:
            self._lose(group)
        del self._groups[group.sequence]
        self._bytes -= group.size
        self._evicted += 1
        self._floor = max(self._floor, group.sequence + 1)
        self._head += 1
        if self._head >= _COMPACT_AT and self._head * 2 >= len(self._order):
            del self._order[: self._head]
            self._head = 0

    def _lose(self, group: Group) -> None:
        group.lost = True
        self._lost.add(group.sequence, group.sequence + 1)
        self._lost_count += 1
        if group.recorded == 0:
            self._drop_unrecorded(group)
        # Otherwise the recorder still has to write that the stored prefix is not the whole.
        if self._lost_count & (self._lost_count - 1) == 0:  # 1, 2, 4, 8 ...: not a flood
            logger.error(
                "group %d left memory before it was recorded (%d lost so far): the store is "
                "slower than the track, or failing; max_bytes is %d",
                group.sequence,
                self._lost_count,
                self.limits.max_bytes,
            )

    def _find(self, group: Group) -> None:
        """What was lost turns out not to be."""
        group.lost = False
        self._lost.discard(group.sequence)
        self._lost_count -= 1

    def _drop_unrecorded(self, group: Group) -> None:
        if self._unrecorded.pop(group.sequence, None) is not None:
            self._unrecorded_bytes -= group.size
