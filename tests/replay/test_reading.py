"""Reading a group out of a store, as a program does that wants to know how far it had come."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from store_tools import frames_of, whole
from trio.testing import wait_all_tasks_blocked

from moqtrio.errors import ReplayError, RequestError
from moqtrio.model.group import FINISHED, Aborted
from moqtrio.replay import read_group
from moqtrio.replay.memory import MemoryStore
from moqtrio.replay.sqlite import SqliteStore
from moqtrio.replay.target import GroupWrite


async def test_a_whole_group_whatever_its_size(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path / "store") as store:
        track = store.track("live/a", "all")
        await track.write([whole(0, 3, 10), whole(1, 40, 50_000)])
        assert await read_group(track, 0) == frames_of(0, 3, 10)
        assert await read_group(track, 1) == frames_of(1, 40, 50_000)
        assert store.statistics().readers == 0


async def test_what_is_not_there_and_what_is_not_whole(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path / "store") as store:
        track = store.track("live/a", "all")
        await track.write([whole(0), whole(2, end=Aborted(7))])
        await track.write([GroupWrite(3, 0, frames_of(3, 5, 100), None)])
        for missing in (1, 4):
            with pytest.raises(RequestError, match=f"no group {missing}"):
                await read_group(track, missing)
    async with SqliteStore.open(tmp_path / "store") as store:
        track = store.track("live/a", "all")
        for broken in (2, 3):  # aborted; cut short by the end of the first run
            with pytest.raises(ReplayError) as raised:
                await read_group(track, broken)
            assert not raised.value.retryable
        assert store.statistics().readers == 0


async def test_a_group_that_is_still_recorded_is_waited_for() -> None:
    track = MemoryStore().track("live/a", "all")
    await track.write([GroupWrite(0, 0, frames_of(0, 1, 10), None)])
    read = []

    async def read_it() -> None:
        read.append(await read_group(track, 0))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_it)
        await wait_all_tasks_blocked()
        assert read == []
        await track.write([GroupWrite(0, 1, frames_of(0, 1, 10, first=1), FINISHED)])
    assert read == [frames_of(0, 2, 10)]


async def test_a_reader_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path / "store") as store:
        track = store.track("live/a", "all")
        await track.write([GroupWrite(0, 0, frames_of(0, 1, 10), None)])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_group, track, 0)
            while not store.statistics().readers:  # noqa: ASYNC110  # a thread brings it about
                await trio.sleep(0.001)
            nursery.cancel_scope.cancel()
        assert store.statistics().readers == 0
