"""What a subscriber is owed: somebody who publishes at random, somebody who reads at random, and
what one must have got of the other whatever happened between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

import attrs
import trio

from moqtrio.errors import StreamCode, StreamReset
from moqtrio.model import GroupConsumer, Track
from moqtrio.model.group import GroupProducer
from moqtrio.replay import Recorder
from moqtrio.replay.memory import MemoryStore, MemoryTrack
from moqtrio.session import Gap

ABORTED = 77


def payload(sequence: int, index: int) -> bytes:
    return b"%d.%d:" % (sequence, index) + bytes((sequence * 7 + index) % 50)


@attrs.define(eq=False)
class RecordedMemory:
    """A store that records what is published."""

    nursery: trio.Nursery
    store: MemoryStore = attrs.Factory(MemoryStore)

    def attach(self, track: Track) -> MemoryTrack:
        target = self.store.track(track.broadcast, track.name)
        self.nursery.start_soon(Recorder(track.log, target).run)
        return target


@attrs.define(eq=False)
class Writer:
    """Publishes groups that overlap, are empty, are aborted or never made, and remembers them."""

    track: Track
    random: Random
    frames: dict[int, int] = attrs.Factory(dict)
    codes: dict[int, int] = attrs.Factory(dict)  # how each has ended; 0 is whole
    final: int | None = None
    _open: dict[int, GroupProducer] = attrs.Factory(dict)

    def step(self) -> None:
        if self.final is not None:
            return
        what = self.random.random()
        if what < 0.5:
            sequence = self._begin()
            self._write(sequence)
            self._end(sequence, whole=True)
        elif what < 0.65:
            self._begin()
        elif self._open:
            sequence = self.random.choice(list(self._open))
            if self.random.random() < 0.5:
                self._write(sequence)
            else:
                self._end(sequence, whole=self.random.random() < 0.88)

    def finish(self) -> None:
        if self.final is None:
            for sequence in list(self._open):
                self._end(sequence, whole=True)
            self.track.finish()
            self.final = self.track.log.final_sequence

    def _begin(self) -> int:
        skipped = self.random.randint(1, 3) if self.random.random() < 0.15 else 0
        group = self.track.create_group(self.track.log.next_sequence + skipped)
        self._open[group.sequence] = group
        self.frames[group.sequence] = 0
        for _ in range(self.random.choice([0, 0, 1, 2])):
            self._write(group.sequence)
        return group.sequence

    def _write(self, sequence: int) -> None:
        self._open[sequence].write_frame(payload(sequence, self.frames[sequence]))
        self.frames[sequence] += 1

    def _end(self, sequence: int, *, whole: bool) -> None:
        group = self._open.pop(sequence)
        if whole:
            group.finish()
        else:
            group.abort(ABORTED)
        self.codes[sequence] = 0 if whole else ABORTED


@attrs.define(eq=False)
class Reader:
    """Reads groups side by side, now and then after a while, and notes what it gets."""

    random: Random
    items: list[GroupConsumer | Gap] = attrs.Factory(list)
    frames: dict[int, list[bytes]] = attrs.Factory(dict)
    codes: dict[int, int] = attrs.Factory(dict)
    ended: bool = False

    async def read(self, channel: trio.abc.ReceiveChannel[GroupConsumer | Gap]) -> None:
        async with trio.open_nursery() as nursery:
            async for item in channel:
                self.items.append(item)
                if not isinstance(item, Gap):
                    assert item.sequence not in self.frames, f"group {item.sequence} came twice"
                    self.frames[item.sequence] = []
                    nursery.start_soon(self._read_group, item)
                await self._pause()
            self.ended = True

    async def _read_group(self, group: GroupConsumer) -> None:
        code = 0
        try:
            await self._pause()
            while batch := await group.receive_batch():
                self.frames[group.sequence] += [frame.payload for frame in batch]
                await self._pause()
        except StreamReset as error:
            code = error.code
        self.codes[group.sequence] = code

    async def _pause(self) -> None:
        if self.random.random() < 0.3:
            await trio.sleep(2 * self.random.random())


@attrs.define(eq=False)
class Owed:
    """What was asked for, what could get lost on the way, and what must have come of it.

    Attributes:
        start: as asked for at first.
        end: as asked for at last.
        forgets: whether groups may leave memory and be gone.
        latest: the latest group when it was asked for.
        max_latency: as asked for.
        skipped_to: the highest start of an update.
        lowest_end: the lowest end there was.
        lost: groups that went as datagrams and were lost.
    """

    start: int | None
    end: int | None
    forgets: bool
    latest: int | None = None
    max_latency: float = math.inf
    skipped_to: int = 0
    lowest_end: float = math.inf
    lost: set[int] = attrs.Factory(set)

    def __attrs_post_init__(self) -> None:
        self.set_end(self.end)

    def set_end(self, end: int | None) -> None:
        self.end = end
        if end is not None:
            self.lowest_end = min(self.lowest_end, end)

    def check(self, writer: Writer, reader: Reader, start: int | None, *, ordered: bool) -> None:
        """Every sequence once: whole, or with the reason why not.

        ``start`` is where the subscription says that it begins.
        """
        assert writer.final is not None
        for sequence, frames in reader.frames.items():
            self._check_group(writer, sequence, frames, reader.codes[sequence])
        missing = self._missing(reader)
        assert not missing.keys() & reader.frames.keys(), "a group and a gap"
        for sequence, code in missing.items():
            assert self._is_reason(writer, sequence, code), f"{sequence} is a gap of {code}"
        if ordered:
            first = [
                each.start if isinstance(each, Gap) else each.sequence for each in reader.items
            ]
            assert first == sorted(first)
        stop = writer.final if self.end is None else min(self.end, writer.final)
        wanted = range(max(stop if start is None else start, self.skipped_to), stop)
        assert set(wanted) <= missing.keys() | reader.frames.keys(), "something is missing"
        self._check_start(writer, start, stop)

    def _check_group(self, writer: Writer, sequence: int, frames: list[bytes], code: int) -> None:
        whole = [payload(sequence, index) for index in range(writer.frames[sequence])]
        if code:
            assert frames == whole[: len(frames)]
            assert self._is_reason(writer, sequence, code), f"{sequence} was reset with {code}"
        else:
            assert frames == whole
            assert writer.codes[sequence] == 0, f"{sequence} was aborted, and looks whole"

    def _is_reason(self, writer: Writer, sequence: int, code: int) -> bool:
        """Whether that can be why a group has not come, or not as a whole."""
        if sequence not in writer.frames:
            return code in (0, StreamCode.DELIVERY_TIMEOUT) or code == StreamCode.OLD
        reasons: dict[int, bool] = {
            ABORTED: writer.codes[sequence] == ABORTED,
            StreamCode.OLD: self.max_latency < math.inf,
            StreamCode.DELIVERY_TIMEOUT: sequence in self.lost,
            StreamCode.CANCEL: sequence >= self.lowest_end,
            StreamCode.EVICTED: self.forgets,
            StreamCode.NOT_FOUND: self.forgets,
            0: self.forgets,
        }
        return reasons.get(code, False)

    def _missing(self, reader: Reader) -> dict[int, int]:
        missing: dict[int, int] = {}
        for gap in reader.items:
            if isinstance(gap, Gap):
                for sequence in range(gap.start, gap.end):
                    assert sequence not in missing, f"{sequence} is missing twice"
                    missing[sequence] = gap.code
        return missing

    def _check_start(self, writer: Writer, start: int | None, stop: int) -> None:
        """It must not begin later than it may, where that is what it is for."""
        assert writer.final is not None
        if self.skipped_to or self.lowest_end < writer.final or not writer.frames:
            return
        if self.start is None:
            if self.latest is not None:
                assert start is not None
                assert self.latest <= start <= max(writer.frames)
        elif not self.forgets and self.start < stop:
            first = min((each for each in writer.frames if each >= self.start), default=stop)
            assert start is not None
            assert self.start <= start <= first


async def until(condition: Callable[[], bool], seconds: float = 200.0) -> None:
    """Wait until something is so; on a mock clock."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  # what it waits for has no event
            await trio.sleep(0.5)
