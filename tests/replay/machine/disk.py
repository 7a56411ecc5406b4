"""A store whose content is known, that outlives its publisher and does what a test says."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from functools import partial
from typing import Protocol

import trio

from moqtrio.errors import ReplayError, StreamCode
from moqtrio.model.frame import Frame
from moqtrio.model.group import Aborted, Finished
from moqtrio.model.source import End, GroupReader, Missing, Pending, Ready
from moqtrio.replay import GroupWrite
from moqtrio.replay.memory import MemoryTrack
from moqtrio.replay.target import GapWrite

FAILURE = StreamCode.APPLICATION + 7
"""The code of what the store fails with."""


class Storage(Protocol):
    """What is known of a store's content, whatever the store says of it.

    Attributes:
        trimmed: groups that were removed.
        has_refused: whether it may have refused to record something for good.
    """

    trimmed: set[int]
    has_refused: bool

    @property
    def readers(self) -> Sized | int:
        """Those that were handed out and not closed."""
        ...

    @property
    def waiting(self) -> int:
        """How many tasks wait for an answer."""
        ...

    @property
    def failing(self) -> bool:
        """Whether reads fail."""
        ...

    @property
    def is_broken(self) -> bool:
        """Whether writes fail."""
        ...

    @property
    def is_disturbed(self) -> bool:
        """Whether there is anything to heal."""
        ...

    def has(self, sequence: int) -> bool: ...
    def is_whole(self, sequence: int) -> bool: ...
    def may_hide(self, sequence: int) -> bool: ...
    def has_dealt_with(self, sequence: int) -> bool: ...
    def knows_lost(self, sequence: int) -> bool: ...
    def sequences(self) -> list[int]: ...
    def heal(self) -> None: ...
    def reopened(self, *, clean: bool) -> Storage: ...


class Disk(MemoryTrack):
    """A :class:`MemoryTrack` that counts what is held of it, and can lose its process.

    Args:
        epoch: identifies the numbering.
        read_seconds: how long it takes to find a group, and to read each piece of it.

    Attributes:
        readers: group readers that were handed out and not closed.
        waiting: how many tasks wait for an answer.
        completed: every group that was ever recorded to its end.
        trimmed: groups that were removed.
        failing: whether reads fail.
        has_refused: whether it ever failed in a way that it said was for good.
    """

    def __init__(self, *, epoch: int, read_seconds: float = 0.0) -> None:
        super().__init__(epoch=epoch)
        self.read_seconds = read_seconds
        self.readers: set[HeldReader] = set()
        self.waiting = 0
        self.completed: set[int] = set()
        self.trimmed: set[int] = set()
        self.failing = False
        self.refuses_writes = False
        self.refuses_reservations = False
        self.has_refused = False
        self.stalled = False
        self.dead = False
        self._found_at: dict[int, float] = {}

    # What is known about it

    def has(self, sequence: int) -> bool:
        """Whether the group is stored, all of it or a part."""
        return sequence in self._groups

    def has_dealt_with(self, sequence: int) -> bool:
        """Whether the group was recorded to its end, or is not wanted (any more)."""
        trimmed = sequence < self._floor or sequence in self.trimmed
        return trimmed or sequence in self.completed

    def knows_lost(self, sequence: int) -> bool:
        """Whether it was told that the group is lost."""
        return any(gap.start <= sequence < gap.end for gap in self._gaps)

    def is_whole(self, sequence: int) -> bool:
        """Whether the group is stored to its end, and can be read."""
        return self.has(sequence) and isinstance(self._groups[sequence].end, Finished)

    def may_hide(self, sequence: int) -> bool:
        """Whether it cannot be told any more if there was such a group."""
        return False

    @property
    def is_broken(self) -> bool:
        """Whether writes fail."""
        return self.failing or self.refuses_writes

    @property
    def is_disturbed(self) -> bool:
        """Whether there is anything to heal."""
        return self.is_broken or self.stalled

    def sequences(self) -> list[int]:
        """What it has."""
        return sorted(self._groups)

    # What a test makes it do

    def break_down(self, *, retryable: bool) -> None:
        """Every operation fails from now on."""
        self.failing = True
        self.has_refused = self.has_refused or not retryable
        self.fail(ReplayError("the disk fails", code=FAILURE, retryable=retryable))

    def refuse_writes(self, *, also_reservations: bool) -> None:
        """Nothing can be written from now on; what is there can be read."""
        self.refuses_writes = True
        self.refuses_reservations = also_reservations

    def heal(self) -> None:
        """Nothing fails or stalls any more."""
        self.failing = self.stalled = False
        self.refuses_writes = self.refuses_reservations = False
        self.fail(None)
        self.resume()

    def stall(self) -> None:
        self.stalled = True
        super().stall()

    def resume(self) -> None:
        self.stalled = False
        super().resume()

    def remove(self, sequence: int) -> None:
        self.trimmed.add(sequence)
        super().remove(sequence)

    def reopened(self, *, clean: bool) -> Disk:
        """What the next process finds; this one can do nothing any more.

        A group that was open is a part of one, for ever. After a kill the sequences that
        were reserved count as used.
        """
        self.dead = True
        disk = Disk(epoch=self._epoch, read_seconds=self.read_seconds)
        disk._groups, disk._order = self._groups, self._order
        disk._floor, disk._cut_short = self._floor, self._cut_short
        disk._gaps = self._gaps
        disk._reserved_end = self._reserved_end
        disk._next_sequence = self._next_sequence if clean else self._reserved_end
        disk.has_refused = self.has_refused
        disk.completed, disk.trimmed = self.completed, self.trimmed
        for group in disk._groups.values():
            if group.end is None:
                group.end = Aborted(StreamCode.EVICTED)
        self._groups, self._order = {}, []
        return disk

    # The interface, watched

    def poll_group(  # type: ignore[override]  # its reader is another, of the same interface
        self, sequence: int, *, priority: int = 0
    ) -> Ready[GroupReader] | Pending | Missing:
        self._check()
        if self.read_seconds and not self.stalled:
            now = trio.current_time()
            found_at = self._found_at.setdefault(sequence, now + self.read_seconds)
            if now < found_at:
                return Pending(partial(self._wait_until, found_at))
            del self._found_at[sequence]
        answer = super().poll_group(sequence, priority=priority)
        if isinstance(answer, Ready):
            return Ready(HeldReader(self, answer.value))
        return answer

    async def _wait_until(self, time: float) -> None:
        self.waiting += 1
        try:
            await trio.sleep_until(time)
        finally:
            self.waiting -= 1

    async def reserve(self, end: int) -> None:
        self._check_writable(self.refuses_reservations)
        await super().reserve(end)

    async def write(self, writes: Sequence[GroupWrite]) -> None:
        self._check_writable(self.refuses_writes)
        await super().write(writes)
        for write in writes:
            if write.end is not None and self.has(write.sequence):
                self.completed.add(write.sequence)

    async def write_gaps(self, gaps: Sequence[GapWrite]) -> None:
        self._check_writable(self.refuses_writes)
        await super().write_gaps(gaps)

    def _check_writable(self, refuses: bool) -> None:
        if self.dead:
            raise ReplayError("this process is dead", retryable=False)
        if refuses:
            raise ReplayError("the disk is full", retryable=True)

    def _pending(self) -> Pending:
        return Pending(self._wait)

    async def _wait(self) -> None:
        self.waiting += 1
        try:
            await super()._pending().wait()
        finally:
            self.waiting -= 1


class HeldReader:
    """A reader that is known to be held until it is closed."""

    def __init__(self, disk: Disk, reader: GroupReader) -> None:
        self._disk = disk
        self._reader = reader
        self._read_at: float | None = None
        disk.readers.add(self)

    @property
    def sequence(self) -> int:
        return self._reader.sequence

    def poll_frames(self, max_bytes: int) -> Ready[Sequence[Frame]] | Pending | End:
        disk = self._disk
        if disk.read_seconds and not disk.is_disturbed:
            now = trio.current_time()
            if self._read_at is None:
                self._read_at = now + disk.read_seconds
            if now < self._read_at:
                return Pending(partial(disk._wait_until, self._read_at))
            self._read_at = None
        return self._reader.poll_frames(max_bytes)

    def close(self) -> None:
        self._disk.readers.discard(self)
        self._reader.close()

    def __repr__(self) -> str:
        return f"reader of {self.sequence}"
