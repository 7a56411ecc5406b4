"""What the tests of the recorder share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio
from trio.testing import wait_all_tasks_blocked

from moqtrio.model.frame import Frame
from moqtrio.model.group import FINISHED, Group, GroupEnd
from moqtrio.model.log import TrackLog
from moqtrio.replay import GroupWrite, Recorder, RecorderSettings
from moqtrio.replay.memory import MemoryTrack

SETTINGS = RecorderSettings(interval=0.02, drain_timeout=5.0)


class GatedTrack(MemoryTrack):
    """A store whose writes and reservations take as long as a test wants."""

    def __init__(self) -> None:
        super().__init__(epoch=1)
        self.write_gate: trio.Event | None = None
        self.reserve_gate: trio.Event | None = None
        self.writes: list[list[GroupWrite]] = []
        self.written_at: list[float] = []

    async def write(self, writes: Sequence[GroupWrite]) -> None:
        self.writes.append(list(writes))
        self.written_at.append(trio.current_time())
        if self.write_gate is not None:
            await self.write_gate.wait()
        await super().write(writes)

    async def reserve(self, end: int) -> None:
        if self.reserve_gate is not None:
            await self.reserve_gate.wait()
        await super().reserve(end)


@asynccontextmanager
async def recording(
    log: TrackLog, target: MemoryTrack, settings: RecorderSettings = SETTINGS
) -> AsyncIterator[Recorder]:
    recorder = Recorder(log, target, name="b/t", settings=settings)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(recorder.run)
        await wait_all_tasks_blocked()
        yield recorder
        nursery.cancel_scope.cancel()


def publish(log: TrackLog, *payloads: bytes, end: GroupEnd | None = FINISHED) -> Group:
    group = log.create_group()
    for payload in payloads:
        log.write_frame(group, payload, len(payload))
    if end is not None:
        log.end_group(group, end)
    return group


def stored(target: MemoryTrack) -> dict[int, tuple[list[Frame], GroupEnd | None]]:
    return {sequence: (group.frames, group.end) for sequence, group in target._groups.items()}


def content(*groups: Group) -> dict[int, tuple[list[Frame], GroupEnd | None]]:
    return {group.sequence: (group.frames, group.end) for group in groups}
