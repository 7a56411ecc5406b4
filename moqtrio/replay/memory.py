"""A store that keeps everything in memory: for tests, and for programs whose history is small.

It forgets nothing by itself. Its tracks can be made to stall, to fail and to forget, which
is how what is built on a :class:`~moqtrio.replay.ReplaySource` shows that it copes.
"""

from __future__ import annotations

import secrets
from bisect import bisect_left, insort
from collections.abc import Sequence

import attrs
import trio

from ..errors import ReplayError, StreamCode
from ..model.clock import MediaClock
from ..model.frame import Frame
from ..model.group import Aborted, GroupEnd
from ..model.source import END, Bounds, End, Missing, Pending, Ready
from .batch import merge_writes, refused
from .gaps import Gaps
from .target import GapWrite, GroupWrite


class MemoryStore:
    """Any number of tracks, each recorded to and replayed from memory."""

    def __init__(self) -> None:
        self._tracks: dict[tuple[str, str], MemoryTrack] = {}

    def track(self, broadcast: str, name: str) -> MemoryTrack:
        """The track of that name, made if need be; always the same object."""
        key = (broadcast, name)
        track = self._tracks.get(key)
        if track is None:
            track = self._tracks[key] = MemoryTrack()
        return track

    def tracks(self) -> list[tuple[str, str]]:
        """The (broadcast, name) of every track, in the order they were made."""
        return list(self._tracks)


@attrs.define(slots=True, eq=False)
class _Group:
    sequence: int
    frames: list[Frame] = attrs.Factory(list)
    end: GroupEnd | None = None
    recorded: float = 0.0  # when it was last written to
    removed: bool = False


class MemoryTrack:
    """One track in memory: a :class:`~moqtrio.replay.ReplayTarget`.

    "Durable" means as durable as this process. The methods after :meth:`set_durable_end`
    are the controls a test turns.

    Args:
        epoch: identifies the numbering; random where none is given.
    """

    def __init__(self, *, epoch: int | None = None) -> None:
        self._epoch = secrets.randbits(62) if epoch is None else epoch
        self._groups: dict[int, _Group] = {}
        self._order: list[int] = []  # the sequences in _groups, sorted
        self._floor = 0  # what is below was trimmed
        self._cut_short: set[int] = set()  # removed while open: the rest is not wanted
        self._gaps = Gaps()
        self._reserved_end = 0
        self._next_sequence = 0
        self._durable_end = 0
        self._error: ReplayError | None = None
        self._stalled = False
        self._changed = trio.Event()
        self._clock = MediaClock()

    def bounds(self) -> Bounds:
        """What is held now."""
        oldest, latest = (self._order[0], self._order[-1]) if self._order else (None, None)
        return Bounds(oldest, self._durable_end, self._epoch, latest)

    def poll_group(
        self, sequence: int, *, priority: int = 0
    ) -> Ready[MemoryGroupReader] | Pending | Missing:
        """Look for one group. Raises the error set with :meth:`fail`, if any, and that of a
        recorded gap."""
        self._check()
        if self._stalled:
            return self._pending()
        group = self._groups.get(sequence)
        if group is not None:
            return Ready(MemoryGroupReader(self, group))
        index = bisect_left(self._order, sequence)
        missing = Missing(self._order[index] if index < len(self._order) else None)
        return self._gaps.check(sequence, missing)

    def now(self) -> float:
        """The time, in seconds since the Unix epoch. Needs a running Trio."""
        return self._clock.now_us() / 1e6

    async def find_time(self, when: float) -> int | None:
        """The smallest sequence of which anything was recorded at or after ``when``; see
        :class:`~moqtrio.replay.TimeIndex`. Raises the error set with :meth:`fail`, if any;
        waits while :meth:`stall` says so."""
        await trio.lowlevel.checkpoint()
        while self._stalled:
            await self._changed.wait()
        self._check()
        young = (each for each in self._order if self._groups[each].recorded >= when)
        return next(young, None)

    @property
    def reserved_end(self) -> int:
        """Every sequence below this may have been used."""
        return self._reserved_end

    @property
    def next_sequence(self) -> int:
        """One more than the highest sequence ever used."""
        return self._next_sequence

    async def reserve(self, end: int) -> None:
        """Move ``reserved_end`` up to ``end``. Raises the error set with :meth:`fail`."""
        await trio.lowlevel.checkpoint()
        self._check()
        self._reserved_end = max(self._reserved_end, end)

    async def write(self, writes: Sequence[GroupWrite]) -> None:
        """Record ``writes``, all or none.

        Raises ReplayError where they are not contiguous, where a group has ended already,
        and while :meth:`fail` says so.
        """
        await trio.lowlevel.checkpoint()
        self._check()
        deltas = merge_writes(writes, self._recorded_frames)
        for delta in deltas:
            group = self._groups.get(delta.sequence)
            if group is None:
                group = self._groups[delta.sequence] = _Group(delta.sequence)
                insort(self._order, delta.sequence)
            group.frames.extend(delta.frames)
            group.end = delta.end
            group.recorded = self.now()
            self._next_sequence = max(self._next_sequence, delta.sequence + 1)
        self._reserved_end = max(self._reserved_end, self._next_sequence)
        self._wake()

    async def write_gaps(self, gaps: Sequence[GapWrite]) -> None:
        """Record that groups are lost. Raises the error set with :meth:`fail`."""
        await trio.lowlevel.checkpoint()
        self._check()
        for gap in gaps:
            self._gaps.add(gap)
            self.mark_used(gap.end)
        self._reserved_end = max(self._reserved_end, self._next_sequence)
        self._wake()

    def mark_used(self, end: int) -> None:
        """Say that sequences below ``end`` were used, recorded or not."""
        self._next_sequence = max(self._next_sequence, end)

    def set_durable_end(self, end: int) -> None:
        """Move ``bounds().durable_end`` up to ``end``."""
        self._durable_end = max(self._durable_end, end)

    def trim(self, below: int) -> None:
        """Forget every group below ``below``; who reads one gets ReplayError(EVICTED)."""
        self._floor = max(self._floor, below)
        self._gaps.discard_below(below)
        for sequence in self._order[: bisect_left(self._order, below)]:
            self.remove(sequence)

    def remove(self, sequence: int) -> None:
        """Forget one group, leaving a hole. A no-op where there is no such group."""
        group = self._groups.pop(sequence, None)
        if group is None:
            return
        group.removed = True
        if group.end is None:
            self._cut_short.add(sequence)
        del self._order[bisect_left(self._order, sequence)]
        self._wake()

    def fail(self, error: ReplayError | None) -> None:
        """From now on every poll, reserve and write raises ``error``; None heals it."""
        self._error = error
        self._wake()

    def stall(self) -> None:
        """From now on every poll answers Pending, whose wait lasts until :meth:`resume`."""
        self._stalled = True

    def resume(self) -> None:
        """Undo :meth:`stall` and wake all who wait."""
        self._stalled = False
        self._wake()

    def _recorded_frames(self, sequence: int) -> int | None:
        if sequence < self._floor or sequence in self._cut_short:
            return None
        group = self._groups.get(sequence)
        if group is None:
            return 0
        if group.end is not None:
            raise refused(f"group {sequence} has ended already")
        return len(group.frames)

    def _check(self) -> None:
        if self._error is not None:
            raise self._error.again()

    def _pending(self) -> Pending:
        return Pending(self._changed.wait)

    def _wake(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()


class MemoryGroupReader:
    """Reads one group of a :class:`MemoryTrack`."""

    def __init__(self, track: MemoryTrack, group: _Group) -> None:
        self._track = track
        self._group = group
        self._position = 0

    @property
    def sequence(self) -> int:
        """The group's sequence."""
        return self._group.sequence

    def poll_frames(self, max_bytes: int) -> Ready[Sequence[Frame]] | Pending | End:
        """The next frames; see :class:`~moqtrio.replay.GroupReader`."""
        self._track._check()
        if self._track._stalled:
            return self._track._pending()
        group = self._group
        if group.removed:
            raise ReplayError(
                f"group {group.sequence} was evicted from the store while it was read",
                code=StreamCode.EVICTED,
                retryable=False,
            )
        if self._position < len(group.frames):
            return Ready(self._take(max_bytes))
        if group.end is None:
            return self._track._pending()
        if isinstance(group.end, Aborted):
            raise ReplayError(
                f"group {group.sequence} was aborted", code=group.end.code, retryable=False
            )
        return END

    def close(self) -> None:
        """Nothing is held."""

    def _take(self, max_bytes: int) -> Sequence[Frame]:
        frames = self._group.frames
        start = stop = self._position
        size = 0
        while stop < len(frames):
            size += len(frames[stop].payload)
            if size > max_bytes and stop > start:
                break
            stop += 1
        self._position = stop
        return frames[start:stop]
