"""A track's live log: the groups that are in memory, shared by everyone who reads them.

One producer writes, any number of subscriptions and one recorder read. The log keeps what
is young or not yet durable, and forgets the rest. It holds no task and no timer: what is
too old is forgotten when somebody next writes or looks. (A recorder looks in time.)
"""

from __future__ import annotations

import logging
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator

import attrs
import trio

from ..errors import ProtocolError, StreamCode
from .clock import MediaClock
from .frame import TIMESTAMP_END, Frame
from .group import Aborted, Group, GroupEnd, check_open
from .notify import Watchers
from .recording import Backlog, RecordingMode, RecordingStatistics

logger: logging.Logger = logging.getLogger("moqtrio.log")

# What the wire can carry (RFC 9000 section 16: 62 bits): the end after the last group.
_LARGEST_SEQUENCE = 2**62 - 2

_COMPACT_AT = 256


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
        recording: what its recorder says; None for a track that is not recorded.
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
    recording: RecordingStatistics | None = None


class TrackLog:
    """The shared state behind one track. See the module's docstring.

    Attributes:
        watchers: called at every change a reader could wait for.
        next_sequence: one more than the highest sequence ever used: the live edge.
        final_sequence: one more than the last sequence, once the track has finished.
        aborted: the code the track was aborted with, if it was.
        recording_failures: how often its recorder failed.
    """

    def __init__(
        self,
        limits: LogLimits | None = None,
        clock: MediaClock | None = None,
        *,
        recording: RecordingMode = "live",
    ) -> None:
        self.limits: LogLimits = LogLimits() if limits is None else limits
        self.clock: MediaClock = MediaClock() if clock is None else clock
        self.watchers: Watchers = Watchers()
        self.next_sequence: int = 0
        self.final_sequence: int | None = None
        self.aborted: int | None = None
        self.recording_failures: int = 0
        self._groups: dict[int, Group] = {}
        self._order: list[int] = []  # sorted; some of them, and all before _head, are evicted
        self._head = 0
        self._leaving: deque[Group] = deque()  # may be evicted, longest settled first
        self._bytes = 0
        # Frames beyond this have something leave. Either limit may be the smaller one.
        self._most_bytes = min(self.limits.cache_bytes, self.limits.max_bytes)
        self._floor = 0  # below this a sequence may have been used before
        self._evicted = 0
        self._mode: RecordingMode = recording
        self._backlog: Backlog | None = None  # for a track that is not recorded
        self._visible_end: int | None = None  # of a recorded one: from here on all is hidden
        self._recorder_statistics: Callable[[], RecordingStatistics] | None = None

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
        latest = self._order[-1] if self._order else -1
        if sequence > latest:
            self._order.append(sequence)
            if latest >= 0:
                self._settle(self._groups[latest])  # The latest never leaves; now it may.
        else:
            insort(self._order, sequence, lo=self._head)
        self.next_sequence = max(self.next_sequence, sequence + 1)
        if self._backlog is not None:
            group.held_back = self._mode == "durable"
            self._backlog.add(group)
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
        if self._backlog is not None and not group.lost:
            self._backlog.bytes += size
        if self._bytes > self._most_bytes:
            self.evict()
        self.watchers.notify()

    def end_group(self, group: Group, end: GroupEnd) -> None:
        """End a group, unless it has ended."""
        if group.end is None:
            group.end = end
            self._settle(group)
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
        for group in self._groups.values():
            self.end_group(group, Aborted(code))
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
        self._show_below(sequence)

    # Reading.

    @property
    def edge(self) -> int:
        """One more than the highest sequence subscribers may see.

        For a recorded track that is held back until the store has reserved the sequences
        durably: otherwise a crash could give one number to two contents. Where subscribers
        see only what is durable, it is held back until something of the group is.
        """
        if self._visible_end is None:
            return self.next_sequence
        return min(self.next_sequence, self._visible_end)

    @property
    def ended(self) -> bool:
        """Whether the track was finished or aborted."""
        return self.final_sequence is not None or self.aborted is not None

    def get(self, sequence: int) -> Group | None:
        """The group, if it is in memory and its number may be seen."""
        group = self._groups.get(sequence)
        if group is None or (self._visible_end is not None and sequence >= self._visible_end):
            return None
        # What was given up is shown live, but not where only what is durable is.
        return None if group.held_back and group.lost else group

    def first_from(self, sequence: int) -> int | None:
        """The smallest sequence at or above this one that is in memory and may be seen."""
        order, edge = self._order, self.edge
        for index in range(bisect_left(order, sequence, lo=self._head), len(order)):
            if order[index] >= edge:
                break
            if order[index] in self._groups:
                return order[index]
        return None

    @property
    def latest(self) -> int | None:
        """The highest sequence in memory of which something may be seen, or None."""
        return next((group.sequence for group in self._newest_first()), None)

    @property
    def latest_first_us(self) -> int | None:
        """The first timestamp of the latest group that has a frame and may be seen."""
        groups = (group for group in self._newest_first() if group.frames)
        return next((group.frames[0].timestamp_us for group in groups), None)

    def _newest_first(self) -> Iterator[Group]:
        order = self._order
        for index in range(bisect_left(order, self.edge, lo=self._head) - 1, self._head - 1, -1):
            group = self.get(order[index])
            if group is not None and not group.hidden:
                yield group

    def lost_until(self, sequence: int) -> int | None:
        """Where the run of lost groups around ``sequence`` ends; None where it was not lost,
        or the store has taken note of it. (See also :meth:`absence`.)"""
        return None if self._backlog is None else self._backlog.lost_until(sequence)

    def absence(self, start: int, end: int) -> tuple[int, int]:
        """How to report sequences from ``start`` on that neither memory nor store has, up to
        ``end`` at most: the end of those to which one code applies, and that code; 0 where
        there is no such group."""
        return (end, 0) if self._backlog is None else self._backlog.absence(start, end)

    def statistics(self) -> LogStatistics:
        """A snapshot of the counters."""
        backlog, describe = self._backlog, self._recorder_statistics
        return LogStatistics(
            groups=len(self._groups),
            bytes=self._bytes,
            oldest=self._order[self._head] if self._groups else None,
            next_sequence=self.next_sequence,
            unrecorded=0 if backlog is None else len(backlog.groups),
            durable_end=None if backlog is None else self.durable_end,
            evicted=self._evicted,
            lost=self.lost,
            readers=len(self.watchers),
            recording=None if describe is None else describe(),
        )

    # Recording: called by the recorder.

    def begin_recording(
        self,
        first_sequence: int,
        reserved_end: int,
        statistics: Callable[[], RecordingStatistics] | None = None,
    ) -> None:
        """From now on a group stays in memory until it is durable, and sequences below
        ``first_sequence`` count as used. Must come before the first group."""
        if self._groups:
            raise ProtocolError("recording must begin before the first group is created")
        self._backlog = Backlog()
        self._recorder_statistics = statistics
        self._floor = self.next_sequence = max(self.next_sequence, first_sequence)
        self._visible_end = reserved_end if self._mode == "live" else self.next_sequence

    @property
    def is_recorded(self) -> bool:
        """Whether there is a recorder."""
        return self._backlog is not None

    def set_reserved_end(self, end: int) -> None:
        """Sequences below ``end`` are reserved durably: subscribers may see them."""
        if self._mode == "live":
            self._visible_end = end
            self.watchers.notify()

    @property
    def trouble(self) -> int:
        """How often recording failed or lost a group. Never falls: who waits for more of it
        than there was would miss what comes next."""
        losses = 0 if self._backlog is None else self._backlog.losses
        return losses + self.recording_failures

    @property
    def durable_end(self) -> int:
        """Every group below this is durable or lost. For a recorded track only."""
        return min(self._recorded.groups, default=self.next_sequence)

    @property
    def lost(self) -> int:
        """How many groups were lost."""
        return 0 if self._backlog is None else self._backlog.lost_count

    def unrecorded(self) -> list[Group]:
        """The groups that are not yet wholly durable, oldest first by creation."""
        return [] if self._backlog is None else list(self._backlog.groups.values())

    def mark_recorded(self, group: Group, frames: int, end: GroupEnd | None) -> None:
        """``frames`` more of the group's frames are durable, and ``end`` unless it is None.

        The group may have been lost while they were written. If that was all of it, it is
        not lost after all; otherwise it stays in :meth:`unrecorded` until its end is
        recorded, because what is stored must not be taken for the whole.
        """
        backlog = self._recorded
        group.recorded += frames
        if end is None:
            backlog.add(group)
        else:
            if end == group.end and group.recorded == len(group.frames):
                group.durable = True
                self._settle(group)
            backlog.remove(group)
            if group.durable and group.lost:
                backlog.find(group)
        if not group.hidden:
            self._show_below(group.sequence + 1)

    def give_up(self, group: Group) -> None:
        """The store will not take ``group``: it is lost, but stays in memory as any other."""
        backlog = self._recorded
        if group.lost:
            backlog.remove(group)  # It does not even take the news that it is incomplete.
            return
        self._lose(group)
        self._settle(group)

    def first_unrecorded(self, sequence: int) -> int | None:
        """The smallest sequence at or above this one that the store is still to learn of: a
        group that is not wholly durable, or was lost."""
        groups = [] if self._backlog is None else self._backlog.groups
        found = [each for each in groups if each >= sequence]
        found += [max(start, sequence) for start, end in self.lost_ranges() if end > sequence]
        return min(found, default=None)

    def lost_ranges(self) -> list[tuple[int, int]]:
        """The lost groups the store is still to take note of; perhaps with others between."""
        return [] if self._backlog is None else self._backlog.lost_ranges()

    def forget_lost(self, ranges: list[tuple[int, int]]) -> None:
        """The store answers for these from now on (as :meth:`lost_ranges` returned them)."""
        self._recorded.forget_lost(ranges)

    def is_behind(self, behind_bytes: int) -> bool:
        """Whether more than this many payload bytes are still to be recorded; with 0,
        whether any group is."""
        backlog = self._backlog
        if backlog is None:
            return False
        return backlog.bytes > behind_bytes if behind_bytes else bool(backlog.groups)

    @property
    def behind_bytes(self) -> int:
        """The payload bytes of the groups that are not yet wholly durable."""
        return 0 if self._backlog is None else self._backlog.bytes

    @property
    def _recorded(self) -> Backlog:
        assert self._backlog is not None, "begin_recording comes first"
        return self._backlog

    def _show_below(self, end: int) -> None:
        """Where only what is durable is shown: nothing below ``end`` is waited for."""
        if self._mode == "durable" and self._visible_end is not None:
            self._visible_end = max(self._visible_end, end)

    # Forgetting.

    @property
    def next_eviction(self) -> float | None:
        """The Trio time at which :meth:`evict` has something to do; None where only writing
        can bring that about."""
        return self._leaving[0].changed_at + self.limits.cache_age if self._leaving else None

    def evict(self) -> bool:
        """Forget what is too old or too much; whether there was any. The latest group stays.

        A group that has ended leaves in the order in which they ended, a recorded one in
        the order in which they became durable, whatever else is open. Only beyond
        ``max_bytes`` do others leave, oldest first; those that are recorded are then lost,
        and open ones aborted, so that nobody takes the part that was seen or stored for the
        whole.
        """
        limits, leaving = self.limits, self._leaving
        now = trio.current_time()
        before = self._evicted
        while leaving:
            group = leaving[0]
            if group.changed_at + limits.cache_age > now and self._bytes <= limits.cache_bytes:
                break
            leaving.popleft()
            if self._groups.get(group.sequence) is group:
                self._forget(group)
        while self._bytes > limits.max_bytes and len(self._groups) > 1:
            self._forget(self._groups[self._order[self._head]])
        return self._evicted > before

    def _settle(self, group: Group) -> None:
        """Let a group leave in its turn, if nothing is missing of it and it is not the latest."""
        if group.end is None or group.sequence == self._order[-1]:
            return
        if self._backlog is None or group.durable or group.lost:
            self._leaving.append(group)

    def _forget(self, group: Group) -> None:
        if group.end is None:
            group.end = Aborted(StreamCode.EVICTED)
        if self._backlog is not None and not (group.durable or group.lost):
            self._lose(group)
        del self._groups[group.sequence]
        self._bytes -= group.size
        self._evicted += 1
        self._floor = max(self._floor, group.sequence + 1)
        order = self._order
        while self._head < len(order) and order[self._head] not in self._groups:
            self._head += 1
        evicted = len(order) - len(self._groups)
        if evicted >= _COMPACT_AT and evicted * 2 >= len(order):
            self._order = [each for each in order[self._head :] if each in self._groups]
            self._head = 0

    def _lose(self, group: Group) -> None:
        backlog = self._recorded
        backlog.lose(group)
        self._show_below(group.sequence + 1)
        if backlog.lost_count & (backlog.lost_count - 1) == 0:  # 1, 2, 4, 8 ...: not a flood
            logger.error(
                "group %d is lost: it left memory before it was recorded, or the store refused "
                "it (%d lost so far); max_bytes is %d",
                group.sequence,
                backlog.lost_count,
                self.limits.max_bytes,
            )
