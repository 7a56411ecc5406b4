"""Old groups that are asked for, until an application answers: a replay source.

A request exists while somebody waits for its group. Nothing here is a task: those who wait
are the subscriptions' and fetches' own, and the application takes requests when it likes.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections import Counter, OrderedDict
from functools import partial

import attrs
import trio

from ...errors import ProtocolError, ReplayError, StreamCode
from ..log import TrackLog
from ..source import Bounds, Missing, Pending, Ready
from .answers import RecentAnswers
from .budget import Budget
from .buffer import BufferReader, GroupBuffer, Whole
from .demand import Demand
from .writer import forgotten

logger: logging.Logger = logging.getLogger("moqtrio.requests")

_LARGEST_READAHEAD = 16
_RUNS_KEPT = 256


@attrs.frozen
class RequestLimits:
    """What requests may hold of this side's memory, and of the application.

    Attributes:
        max_unanswered: requests the application may have taken and not answered.
        buffer_bytes: memory for a group while it is written.
        cache_bytes: memory for finished groups that others may still ask for.
        total_bytes: memory for all groups that are written or read.
    """

    max_unanswered: int = attrs.field(default=64, validator=attrs.validators.ge(1))
    buffer_bytes: int = attrs.field(default=2**20, validator=attrs.validators.ge(1))
    cache_bytes: int = attrs.field(default=16 * 2**20, validator=attrs.validators.ge(0))
    total_bytes: int = attrs.field(default=64 * 2**20, validator=attrs.validators.ge(1))


@attrs.frozen
class RequestStatistics:
    """A snapshot of what is asked for and answered.

    Attributes:
        waiting: groups somebody waits for and the application was not asked for yet.
        unanswered: requests the application has taken and not answered.
        writing: groups that are being written.
        writing_bytes: memory they take.
        cached_bytes: memory that finished groups take, for those who ask later.
        total_bytes: memory that groups take while they are written or read.
    """

    waiting: int
    unanswered: int
    writing: int
    writing_bytes: int
    cached_bytes: int
    total_bytes: int = 0


class Entry:
    """One group that somebody waits for.

    Attributes:
        sequence: the group's.
        demand: those who wait.
        readahead: see :attr:`ReplayRequest.readahead`; None until it is asked.
        asked: whether the application has the request.
        not_before: Trio time before which it wants to have none.
        answered: set when it is worth asking the queue again.
    """

    def __init__(self, sequence: int) -> None:
        self.sequence: int = sequence
        self.demand: Demand = Demand()
        self.readahead: int | None = None
        self.asked: bool = False
        self.not_before: float = -math.inf
        self.answered: trio.Event = trio.Event()
        self._priorities: Counter[int] = Counter()
        self._last_priority = 0

    @property
    def priority(self) -> int:
        """The highest of those who wait; the last one's where nobody does any more."""
        return max(self._priorities, default=self._last_priority)

    async def wait(self, priority: int) -> None:
        """Wait for the answer, wanting it so much."""
        self._priorities[priority] += 1
        self.demand.join()
        try:
            await self.answered.wait()
        finally:
            self._last_priority = priority
            self._priorities[priority] -= 1
            if not self._priorities[priority]:
                del self._priorities[priority]
            self.demand.leave()


class RequestQueue:
    """A :class:`~moqtrio.replay.ReplaySource` that an application answers for.

    Args:
        log: the track's.
        label: the track in messages.

    Attributes:
        is_open: whether there is an application that answers.
        known: the sequences the application has said there may be, if it has.
    """

    def __init__(self, log: TrackLog, label: str) -> None:
        self.label: str = label
        self.is_open: bool = False
        self.known: range | None = None
        self._log = log
        self._epoch = secrets.randbits(62)
        self._limits = RequestLimits()
        self._budget = Budget(self._limits.total_bytes)
        self._entries: dict[int, Entry] = {}  # those who ask may join, longest waiting first
        self._unanswered: set[Entry] = set()
        self._joinable: dict[int, GroupBuffer] = {}  # being written, and whole
        self._writing: set[GroupBuffer] = set()
        self._answers = RecentAnswers(0)
        self._runs: OrderedDict[int, int] = OrderedDict()
        self._receivers = trio.lowlevel.ParkingLot()

    def open(self, limits: RequestLimits) -> None:
        """From now on there is an application. Raises ProtocolError where there was one."""
        if self.is_open:
            raise ProtocolError(
                f"the requests of track {self.label} are being received already: "
                "close that channel first"
            )
        self.is_open = True
        self._limits = limits
        self._budget.limit = limits.total_bytes
        self._answers = RecentAnswers(limits.cache_bytes)

    def close(self) -> None:
        """There is none any more: who waits or asks later is told that it failed."""
        self.is_open = False
        for entry in self._entries.values():
            entry.answered.set()
        self._entries.clear()
        self._unanswered.clear()
        for buffer in tuple(self._writing):
            buffer.fail(self._closed(buffer.sequence))
        self._answers.clear()
        self._runs.clear()
        self._receivers.unpark_all()

    @property
    def edge(self) -> int:
        """One more than the highest sequence of the track, so far."""
        return self._log.edge

    def statistics(self) -> RequestStatistics:
        """A snapshot of the counters."""
        return RequestStatistics(
            waiting=sum(not entry.asked for entry in self._entries.values()),
            unanswered=len(self._unanswered),
            writing=len(self._writing),
            writing_bytes=sum(buffer.size for buffer in self._writing),
            cached_bytes=self._answers.bytes,
            total_bytes=self._budget.bytes,
        )

    # For those who want groups.

    def bounds(self) -> Bounds:
        """What the application has said there is."""
        known = self.known
        if not known:
            return Bounds(None, 0, self._epoch)
        return Bounds(known.start, known.stop, self._epoch, known.stop - 1)

    def poll_group(
        self, sequence: int, *, priority: int = 0
    ) -> Ready[BufferReader] | Pending | Missing:
        """Look for one group; see :class:`~moqtrio.replay.ReplaySource`."""
        found = self._find(sequence, priority)
        if isinstance(found, GroupBuffer):
            return Ready(BufferReader(found, partial(self._find, sequence, priority)))
        return found

    def _find(self, sequence: int, priority: int) -> GroupBuffer | Pending | Missing:
        if not self.is_open:
            raise self._closed(sequence)
        found = self._joinable.get(sequence) or self._answers.find(sequence)
        return Pending(partial(self._wait, sequence, priority)) if found is None else found

    async def _wait(self, sequence: int, priority: int) -> None:
        if self._is_answered(sequence):
            await trio.lowlevel.checkpoint()
            return
        entry = self._entries.get(sequence)
        if entry is None:
            entry = self._entries[sequence] = Entry(sequence)
            self._receivers.unpark_all()
        try:
            await entry.wait(priority)
        finally:
            if not entry.asked and not entry.demand.count:
                self._remove(entry)

    def _is_answered(self, sequence: int) -> bool:
        """Whether there is an answer now that there may not have been when it was polled."""
        try:
            return not isinstance(self._find(sequence, 0), Pending)
        except ReplayError:
            return True

    # For the application.

    def take(self) -> Entry | None:
        """The next one to ask the application for, if any: what is wanted most, of those
        what has waited longest."""
        if len(self._unanswered) >= self._limits.max_unanswered:
            return None
        now = trio.current_time()
        due = [e for e in self._entries.values() if not e.asked and e.not_before <= now]
        if not due:
            return None
        entry = max(due, key=lambda each: each.priority)
        entry.asked = True
        if entry.readahead is None:
            entry.readahead = self._follow_run(entry.sequence)
        self._unanswered.add(entry)
        return entry

    async def wait_due(self) -> None:
        """Wait until :meth:`take` may have one, or the queue was closed."""
        later = [e.not_before for e in self._entries.values() if not e.asked]
        now = trio.current_time()
        with trio.move_on_at(min((each for each in later if each > now), default=math.inf)):
            await self._receivers.park()

    def is_withdrawn(self, entry: Entry) -> bool:
        """Whether nobody wants the answer. If so, whoever wants the group later causes a new
        request: the application may have given this one up on hearing so."""
        if self._entries.get(entry.sequence) is not entry:
            return True
        if entry.demand.is_over:
            self._remove(entry)
            return True
        return False

    def accept(self, entry: Entry) -> GroupBuffer:
        """The application writes the group."""
        buffer = GroupBuffer(
            self._log,
            entry.sequence,
            max_bytes=self._limits.buffer_bytes,
            budget=self._budget,
            on_change=self._changed,
        )
        if self.is_withdrawn(entry):
            buffer.fail(self._closed(entry.sequence))
        else:
            self._writing.add(buffer)
            self._joinable[entry.sequence] = buffer
        self._answer(entry)
        return buffer

    def miss(self, entry: Entry, next_available: int) -> None:
        """There is no such group, nor any below ``next_available``."""
        if self._is_current(entry):
            self._answers.keep_missing(entry.sequence, next_available)
        run = self._runs.pop(entry.sequence + 1, None)
        if run is not None:
            self._runs[next_available] = run
        self._answer(entry)

    def fail(self, entry: Entry, error: ReplayError) -> None:
        """It cannot be had."""
        if self._is_current(entry):
            self._answers.keep_failure(entry.sequence, error)
        self._answer(entry)

    def forget(self, entry: Entry) -> None:
        """The application has lost a request without answering it."""
        if self._is_current(entry):
            logger.warning(
                "%s: the request for group %d was not answered", self.label, entry.sequence
            )
        self.fail(entry, forgotten(entry.sequence))

    def retry(self, entry: Entry, after: float) -> None:
        """Ask again after so many seconds, if somebody still waits then."""
        self._unanswered.discard(entry)
        if self._is_current(entry):
            self._remove(entry)
            if entry.demand.count:
                entry.asked = False
                entry.not_before = trio.current_time() + after
                self._entries[entry.sequence] = entry  # behind those that wait already
        self._receivers.unpark_all()

    def _is_current(self, entry: Entry) -> bool:
        return self._entries.get(entry.sequence) is entry

    def _answer(self, entry: Entry) -> None:
        self._unanswered.discard(entry)
        self._remove(entry)
        entry.answered.set()
        self._receivers.unpark_all()

    def _remove(self, entry: Entry) -> None:
        if self._is_current(entry):
            del self._entries[entry.sequence]

    def _changed(self, buffer: GroupBuffer) -> None:
        """A group that is written has ended, or cannot be joined any more."""
        if self._joinable.get(buffer.sequence) is buffer:
            del self._joinable[buffer.sequence]
            if isinstance(buffer.end, Whole):
                self._answers.keep(buffer)
            elif buffer.end is not None and not buffer.end.retryable:
                self._answers.keep_failure(buffer.sequence, buffer.end)
        if buffer.end is not None:
            self._writing.discard(buffer)

    def _follow_run(self, sequence: int) -> int:
        """How many groups in a row were asked for before this one, at most as many as there
        are before what is in memory."""
        run = self._runs.pop(sequence, 0)
        self._runs[sequence + 1] = run + 1
        if len(self._runs) > _RUNS_KEPT:
            self._runs.popitem(last=False)
        in_memory = self._log.first_from(sequence)
        end = self._log.edge if in_memory is None else in_memory
        return max(min(run, _LARGEST_READAHEAD, end - sequence - 1), 0)

    def _closed(self, sequence: int) -> ReplayError:
        return ReplayError(
            f"nobody answers for group {sequence} of track {self.label} any more",
            code=StreamCode.CANCEL,
            retryable=False,
        )
