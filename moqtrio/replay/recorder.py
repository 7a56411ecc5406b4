"""Copies a track's log into a store as it is written.

The recorder is one more reader of the log. It has no queue of its own: the log keeps what
is not yet durable, and its bound is the queue's bound. What leaves the log before it could
be recorded is lost, and is said to be (see :meth:`moqtrio.model.TrackLog.evict`): by the log
at first, and by the store as soon as it can take note of it.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterable

import attrs
import trio

from ..errors import ReplayError, StreamCode
from ..model.group import Aborted, Group
from ..model.log import TrackLog
from ..model.notify import Wakeup
from ..model.recording import RecordingStatistics
from .target import GapWrite, GroupWrite, ReplayTarget

logger: logging.Logger = logging.getLogger("moqtrio.recorder")

_MIN_RESERVE = 1024
_MAX_RESERVE = 65536
_MOST_GROUPS = 2**20  # in one commit

Batch = list[tuple[Group, GroupWrite]]


@attrs.frozen
class RecorderSettings:
    """How a recorder works.

    Attributes:
        interval: seconds to gather writes before a commit. What is published is durable
            after about this and one commit.
        batch_bytes: payload bytes in one commit, roughly.
        max_retry_delay: the longest pause in seconds before a failed commit is repeated.
        drain_timeout: seconds to go on recording what is in memory when cancelled.
    """

    interval: float = 0.02
    batch_bytes: int = 8 * 2**20
    max_retry_delay: float = 5.0
    drain_timeout: float = 5.0


class Recorder:
    """Records one track's log into one target.

    Must be made before the track's first group: from then on no group is forgotten, and
    no sequence shown to subscribers, before the store is ready for it.
    """

    def __init__(
        self,
        log: TrackLog,
        target: ReplayTarget,
        *,
        name: str = "",
        settings: RecorderSettings | None = None,
    ) -> None:
        self._log = log
        self._target = target
        self._name = name
        self._settings = RecorderSettings() if settings is None else settings
        self._wakeup = Wakeup()
        self._stopping = trio.Event()
        self._done = trio.Event()
        # A commit cannot be stopped half-way, and whether it happened must be known.
        self._scope = trio.CancelScope(shield=True)
        self._reserve_block = _MIN_RESERVE
        self._most_groups = _MOST_GROUPS
        self._frames = self._bytes = self._commits = 0
        self._failed_in_a_row = 0
        self._last_error: str | None = None
        self._idle_until = -math.inf  # at this time everything was durable
        log.begin_recording(target.next_sequence, target.reserved_end, self.statistics)

    def statistics(self) -> RecordingStatistics:
        """A snapshot of the counters."""
        log, behind = self._log, self._log.unrecorded()
        return RecordingStatistics(
            frames=self._frames,
            bytes=self._bytes,
            commits=self._commits,
            behind_groups=len(behind),
            behind_bytes=log.behind_bytes,
            lag=self._lag(behind),
            lost=log.lost,
            failures=log.recording_failures,
            failing=self._failed_in_a_row > 0,
            last_error=self._last_error,
            trouble=log.trouble,
        )

    async def run(self) -> None:
        """Record until the track has ended and all of it is durable, or until cancelled;
        then record what is still in memory, for at most ``drain_timeout`` seconds. Store
        trouble is logged and retried, never raised."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._work)
            try:
                await self._done.wait()
            finally:
                self._stopping.set()
                self._wakeup.set()
                self._scope.deadline = trio.current_time() + self._settings.drain_timeout

    async def _work(self) -> None:
        remove = self._log.watchers.add(self._wakeup.set)
        try:
            with self._scope:
                while not self._stopping.is_set() and not self._is_finished():
                    await self._record()
                await self._drain()
        finally:
            remove()
            self._target.mark_used(self._log.next_sequence)
            self._done.set()
        if self._scope.cancelled_caught:
            logger.error(
                "%s: the end of the track was not recorded: the store took longer than %.1f s",
                self._name,
                self._settings.drain_timeout,
            )

    def _is_finished(self) -> bool:
        """Whether the track has ended and there is nothing left to do for it."""
        log = self._log
        return (
            log.ended
            and not log.is_behind(0)
            and not log.lost_ranges()
            and log.next_eviction is None
        )

    async def _record(self) -> None:
        """Record what there is, then wait until there is more, or it is worth trying again."""
        pause = self._settings.interval
        if self._log.evict():
            self._log.watchers.notify()  # who still sends one of them may have to let go of it
        try:
            while not self._stopping.is_set() and await self._step():
                await trio.lowlevel.checkpoint()
        except ReplayError as error:
            pause = self._note_failure(error)
        else:
            self._failed_in_a_row = 0
            await self._wait_for_work()
        with trio.move_on_after(pause):
            await self._stopping.wait()

    async def _wait_for_work(self) -> None:
        """Wait until the log changes, or until something in it is too old: a track that is
        idle must let go of it, too."""
        deadline = self._log.next_eviction
        with trio.move_on_at(math.inf if deadline is None else deadline):
            await self._wakeup.wait()
        self._idle_until = trio.current_time()  # there was nothing to record until just now

    async def _drain(self) -> None:
        try:
            while await self._step():
                await trio.lowlevel.checkpoint()
        except ReplayError as error:
            logger.error("%s: the end of the track was not recorded: %s", self._name, error)

    async def _step(self) -> bool:
        """Reserve ahead, commit one batch, report what is lost. False where there was
        nothing to do."""
        worked = await self._reserve()
        batch = self._collect()
        if batch:
            await self._write(batch)
            worked = True
        # After the batch: what was lost while it was being written may turn out to be in it.
        lost = self._log.lost_ranges()
        if lost:
            await self._target.write_gaps(
                [GapWrite(start, end, StreamCode.EVICTED) for start, end in lost]
            )
            self._log.forget_lost(lost)
            worked = True
        return worked

    async def _write(self, batch: Batch) -> None:
        """Commit a batch. What the store refuses for good is looked for in smaller and
        smaller ones, and given up when it is alone."""
        collected_at = trio.current_time()
        try:
            await self._target.write([write for _, write in batch])
        except ReplayError as error:
            if error.retryable:
                raise
            if len(batch) == 1:
                self._give_up(batch[0][0], error)
            else:
                self._most_groups = len(batch) // 2
        else:
            self._most_groups = min(self._most_groups * 2, _MOST_GROUPS)
            self._committed(batch, collected_at)

    def _committed(self, batch: Batch, collected_at: float) -> None:
        log = self._log
        for group, write in batch:
            self._frames += len(write.frames)
            self._bytes += sum(len(frame.payload) for frame in write.frames)
            group.recorded_at = collected_at
            log.mark_recorded(group, len(write.frames), write.end)
        self._commits += 1
        self._failed_in_a_row = 0
        self._target.set_durable_end(log.durable_end)
        log.evict()
        log.watchers.notify()

    def _give_up(self, group: Group, error: ReplayError) -> None:
        """The store will never take this: go on without it."""
        self._log.recording_failures += 1
        self._last_error = str(error)
        logger.error(
            "%s: group %d cannot be recorded and is given up: %s",
            self._name,
            group.sequence,
            error,
        )
        self._log.give_up(group)
        self._target.set_durable_end(self._log.durable_end)
        self._log.watchers.notify()

    async def _reserve(self) -> bool:
        """Keep at least half a block of sequences reserved ahead of the publisher."""
        log = self._log
        ahead = self._target.reserved_end - log.next_sequence
        if ahead >= self._reserve_block // 2:
            return False
        if ahead <= 0 and self._commits:
            self._reserve_block = min(self._reserve_block * 4, _MAX_RESERVE)
        await self._target.reserve(log.next_sequence + self._reserve_block)
        log.set_reserved_end(self._target.reserved_end)
        return True

    def _collect(self) -> Batch:
        batch: Batch = []
        size = 0
        now = trio.current_time()
        for group in self._log.unrecorded():
            write = _next_write(group)
            if write is None:
                group.recorded_at = now  # there is nothing of it yet, or nothing more
                continue
            batch.append((group, write))
            size += sum(len(frame.payload) for frame in write.frames)
            if size >= self._settings.batch_bytes or len(batch) >= self._most_groups:
                break
        return batch

    def _lag(self, behind: Iterable[Group]) -> float:
        oldest = math.inf
        for group in behind:
            if group.lost or _next_write(group) is None:
                continue
            oldest = min(oldest, group.recorded_at)
            if group.recorded_at == group.created_at:
                break  # those behind it were created, and so written to, after it
        if oldest == math.inf:
            return 0.0
        return trio.current_time() - max(oldest, self._idle_until)

    def _note_failure(self, error: ReplayError) -> float:
        """Count and report a failed step; returns how many seconds to wait before the next."""
        self._log.recording_failures += 1
        self._last_error = str(error)
        delay: float = min(
            0.1 * 2 ** min(self._failed_in_a_row, 10), self._settings.max_retry_delay
        )
        self._failed_in_a_row += 1
        self._log.watchers.notify()
        logger.error(
            "%s: recording failed, live goes on; trying again in about %.1f s: %s",
            self._name,
            delay,
            error,
        )
        return delay * random.uniform(0.5, 1.0)


def _next_write(group: Group) -> GroupWrite | None:
    """What there is to record of a group."""
    frames = group.frames[group.recorded :]
    if group.lost and frames:  # what is stored is a part, and stays one
        return GroupWrite(group.sequence, group.recorded, (), Aborted(StreamCode.EVICTED))
    if not frames and group.end is None:
        return None
    return GroupWrite(group.sequence, group.recorded, frames, group.end)
