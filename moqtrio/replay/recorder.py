"""Copies a track's log into a store as it is written.

The recorder is one more reader of the log. It has no queue of its own: the log keeps what
is not yet durable, and its bound is the queue's bound. What leaves the log before it could
be recorded is lost, and is said to be (see :meth:`moqtrio.model.TrackLog.evict`).
"""

from __future__ import annotations

import logging
import random

import attrs
import trio

from ..errors import ReplayError, StreamCode
from ..model.group import Aborted, Group
from ..model.log import TrackLog
from ..model.notify import Wakeup
from .target import GroupWrite, ReplayTarget

logger: logging.Logger = logging.getLogger("moqtrio.recorder")

_MIN_RESERVE = 1024
_MAX_RESERVE = 65536


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


@attrs.frozen
class RecorderStatistics:
    """A snapshot of a recorder's counters since it started."""

    frames: int
    bytes: int
    commits: int
    failures: int
    last_error: str | None


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
        # A commit cannot be stopped half-way, and whether it happened must be known.
        self._scope = trio.CancelScope(shield=True)
        self._reserve_block = _MIN_RESERVE
        self._frames = self._bytes = self._commits = 0
        self._failures = 0
        self._failed_in_a_row = 0
        self._last_error: str | None = None
        log.begin_recording(target.next_sequence, target.reserved_end)

    def statistics(self) -> RecorderStatistics:
        """A snapshot of the counters."""
        return RecorderStatistics(
            self._frames, self._bytes, self._commits, self._failures, self._last_error
        )

    async def run(self) -> None:
        """Record until cancelled; then record what is still in memory, for at most
        ``drain_timeout`` seconds. Store trouble is logged and retried, never raised."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._work)
            try:
                await trio.sleep_forever()
            finally:
                self._stopping.set()
                self._wakeup.set()
                self._scope.deadline = trio.current_time() + self._settings.drain_timeout

    async def _work(self) -> None:
        remove = self._log.watchers.add(self._wakeup.set)
        try:
            with self._scope:
                while not self._stopping.is_set():
                    await self._record()
                await self._drain()
        finally:
            remove()
        if self._scope.cancelled_caught:
            logger.error(
                "%s: the end of the track was not recorded: the store took longer than %.1f s",
                self._name,
                self._settings.drain_timeout,
            )

    async def _record(self) -> None:
        """Record what there is, then wait until there is more, or it is worth trying again."""
        pause = self._settings.interval
        try:
            while not self._stopping.is_set() and await self._step():
                await trio.lowlevel.checkpoint()
        except ReplayError as error:
            pause = self._note_failure(error)
        else:
            await self._wakeup.wait()
        with trio.move_on_after(pause):
            await self._stopping.wait()

    async def _drain(self) -> None:
        try:
            while await self._step():
                await trio.lowlevel.checkpoint()
        except ReplayError as error:
            logger.error("%s: the end of the track was not recorded: %s", self._name, error)

    async def _step(self) -> bool:
        """Reserve ahead and commit one batch. False where there was nothing to do."""
        reserved = await self._reserve()
        batch = self._collect()
        if not batch:
            return reserved
        await self._target.write([write for _, write in batch])
        for group, write in batch:
            self._count(group, write)
        self._commits += 1
        self._failed_in_a_row = 0
        log = self._log
        self._target.set_durable_end(log.durable_end)
        log.evict()
        log.watchers.notify()
        return True

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

    def _collect(self) -> list[tuple[Group, GroupWrite]]:
        batch: list[tuple[Group, GroupWrite]] = []
        size = 0
        for group in self._log.unrecorded():
            write = self._next_write(group)
            if write is None:
                continue
            batch.append((group, write))
            size += sum(len(frame.payload) for frame in write.frames)
            if size >= self._settings.batch_bytes:
                break
        return batch

    def _next_write(self, group: Group) -> GroupWrite | None:
        frames = group.frames[group.recorded :]
        if group.lost and frames:  # gone from memory for everyone: what is stored is a part
            return GroupWrite(group.sequence, group.recorded, (), Aborted(StreamCode.EVICTED))
        if not frames and group.end is None:
            return None
        return GroupWrite(group.sequence, group.recorded, frames, group.end)

    def _count(self, group: Group, write: GroupWrite) -> None:
        self._frames += len(write.frames)
        self._bytes += sum(len(frame.payload) for frame in write.frames)
        self._log.mark_recorded(group, len(write.frames), write.end)

    def _note_failure(self, error: ReplayError) -> float:
        """Count and report a failed step; returns how many seconds to wait before the next."""
        self._failures += 1
        self._last_error = str(error)
        delay: float = min(
            0.1 * 2 ** min(self._failed_in_a_row, 10), self._settings.max_retry_delay
        )
        self._failed_in_a_row += 1
        logger.error(
            "%s: recording failed, live goes on; trying again in about %.1f s: %s",
            self._name,
            delay,
            error,
        )
        return delay * random.uniform(0.5, 1.0)
