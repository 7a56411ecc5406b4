"""P12 over the SQLite store, whose loads are read by worker threads: a chunk is loaded once
at a time, and every joiner gets every group all the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from moqtrio.model import Origin
from moqtrio.replay import SqliteStore
from moqtrio.replay.sqlite.loads import LoadKey, TrackLoads
from moqtrio.session.session import open_session_over
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.wire import LITE_05

from .mutants import Mutant
from .properties import Broken

GROUPS, JOINERS = 40, 12

NOT_SHARED = Mutant(
    "P12 nobody looks whether a chunk is being loaded",
    ("P12",),
    TrackLoads._join,
    "load = self._find(key)",
    "load = None",
)


@attrs.define
class LoadsSeen:
    """The loads under way, and the first that was begun beside another of the same chunk."""

    under_way: list[LoadKey] = attrs.Factory(list)
    started: int = 0
    broken: Broken | None = None


@contextmanager
def watched_loads() -> Iterator[LoadsSeen]:
    """Sees every load of every store."""
    seen = LoadsSeen()
    run = TrackLoads._run

    async def watched_run(self: TrackLoads, load: Any) -> None:
        seen.started += 1
        if load.key in seen.under_way and seen.broken is None:
            seen.broken = Broken("P12", f"{load.key} is loaded while it is being loaded")
        seen.under_way.append(load.key)
        try:
            await run(self, load)
        finally:
            seen.under_way.remove(load.key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrackLoads, "_run", watched_run)
        yield seen


async def record(path: Path) -> None:
    """A history on disk."""
    async with SqliteStore.open(path) as store:
        track = Origin().create_broadcast("b").create_track("t", store=store)
        for sequence in range(GROUPS):
            with track.append_group() as group:
                for index in range(3):
                    group.write_frame(b"%d.%d:" % (sequence, index) + bytes(30_000))
        await track.wait_durable()


async def join_all(path: Path) -> LoadsSeen:
    """All at once, from the start of a history that nobody has read yet."""
    with watched_loads() as seen:
        async with SqliteStore.open(path) as store, trio.open_nursery() as nursery:
            origin = Origin()
            origin.create_broadcast("b").create_track("t", store=store)
            for _ in range(JOINERS):
                nursery.start_soon(join, origin)
    assert not seen.under_way
    return seen


async def join(origin: Origin) -> None:
    there, here = memory_connection_pair()
    async with (
        open_session_over(here, LITE_05, publish=origin),
        open_session_over(there, LITE_05) as session,
        session.subscribe("b", "t", start=0, end=GROUPS) as subscription,
    ):
        for sequence in range(GROUPS):
            group = await subscription.receive()
            assert not hasattr(group, "code"), group
            frames = await group.read_all()
            assert [frame.payload[:4] for frame in frames] == [
                (b"%d.%d:" % (sequence, index) + bytes(4))[:4] for index in range(3)
            ]


async def test_joiners_share_loads(tmp_path: Path) -> None:
    with trio.fail_after(60):
        await record(tmp_path)
        seen = await join_all(tmp_path)
    if seen.broken is not None:
        raise seen.broken
    assert 0 < seen.started < GROUPS * JOINERS


async def test_loads_that_are_not_shared_are_seen(tmp_path: Path) -> None:
    with trio.fail_after(60):
        await record(tmp_path)
        with NOT_SHARED.planted():
            seen = await join_all(tmp_path)
    assert seen.broken is not None
    assert seen.broken.name in NOT_SHARED.breaks
