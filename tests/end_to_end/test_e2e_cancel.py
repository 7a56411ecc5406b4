"""Whatever is cancelled in the middle of a replay leaves nothing behind."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import pytest
import trio
from e2e_tools import (
    BROADCAST,
    SMALL_WINDOWS,
    TRACK,
    Follower,
    Server,
    Shape,
    frame_of,
    publish_group,
    publish_history,
    serving,
    until,
)

import moqtrio
from moqtrio import SqliteStore, Track

SHAPE = Shape(10, 6000)
GROUPS = 150


def task_counts() -> Counter[str]:
    """Every task there is, by name."""
    counts: Counter[str] = Counter()
    waiting = [trio.lowlevel.current_root_task()]
    while waiting:
        task = waiting.pop()
        assert task is not None
        counts[task.name.split(" 127.")[0]] += 1  # without a client's address
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return counts


async def settled_tasks(session: moqtrio.Session) -> Counter[str]:
    """The tasks of a session in which nothing is under way any more."""
    await session.track_info(BROADCAST, TRACK)
    await until(lambda: not any("_route" in name or "handle" in name for name in task_counts()))
    return task_counts()


async def tasks_are(expected: Counter[str]) -> None:
    """Wait until there are these tasks and no others."""
    with suppress(AssertionError):
        await until(lambda: task_counts() == expected, 5)
    assert task_counts() == expected


def open_files(needle: str) -> int:
    """How many of this process's descriptors are for something with this in its name."""
    found = 0
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            found += needle in os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:
            continue
    return found


@attrs.define(eq=False)
class Stage:
    """A server with history to replay, and how things were before anybody asked for it."""

    server: Server
    store: SqliteStore
    track: Track
    sockets_before: int  # there was a server
    tasks: Counter[str] = attrs.Factory(task_counts)
    sockets: int = attrs.Factory(lambda: open_files("socket:"))

    def is_quiet(self) -> bool:
        """Whether nothing of a subscription is left on the server's side."""
        store = self.store.statistics()
        return (
            len(self.track.log.watchers) == 1  # the recorder
            and store.readers == 0
            and store.loads_in_flight == 0
        )

    async def check_nothing_left(self) -> None:
        await until(self.is_quiet)
        await tasks_are(self.tasks)
        with suppress(AssertionError):
            await until(lambda: open_files("socket:") <= self.sockets, 5)
        assert open_files("socket:") == self.sockets

    async def check_it_still_works(self) -> None:
        follower = Follower()
        with trio.fail_after(20):
            await follower.connect_and_follow(self.server, end=GROUPS)
        follower.check_whole(SHAPE, 0, GROUPS)


@asynccontextmanager
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    origin = moqtrio.Origin()
    sockets = open_files("socket:")
    async with (
        SqliteStore.open(tmp_path / "store", cache_bytes=2**20) as store,
        serving(origin) as server,
    ):
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store, cache_age=0.0)
        await publish_history(track, SHAPE, GROUPS)
        with trio.fail_after(30):
            yield Stage(server, store, track, sockets)


def is_replaying(stage: Stage, follower: Follower) -> Callable[[], bool]:
    """A condition: groups are coming, and more is held up behind them."""

    def condition() -> bool:
        statistics = stage.server.sessions[-1].statistics()
        return bool(follower.complete) and statistics.send_buffered > 0

    return condition


@pytest.mark.parametrize("read", [0, 1, 40])
async def test_a_subscription_that_is_left(tmp_path: Path, read: int) -> None:
    """The session goes on: its other requests are not disturbed, its streams are given back."""
    async with stage(tmp_path) as scene:
        async with scene.server.connect(transport=SMALL_WINDOWS) as session:
            tasks = await settled_tasks(session)
            serving_session = scene.server.sessions[-1]
            await until(lambda: serving_session.statistics().streams_open == 0)
            for _ in range(3):
                follower = Follower()
                async with session.subscribe(BROADCAST, TRACK, start=0) as subscription:
                    if read:
                        await follower.read(
                            subscription, stop=lambda f=follower: len(f.complete) == read
                        )
                    await until(lambda: serving_session.statistics().send_buffered > 0)
                    assert not scene.is_quiet()
                await until(scene.is_quiet)
                await tasks_are(tasks)
                await until(lambda: serving_session.statistics().streams_open == 0)
                await until(lambda: session.statistics().streams_open == 0)
                assert serving_session.statistics().send_buffered == 0
                assert session.statistics().receive_buffered == 0
            follower = Follower()
            with trio.fail_after(20):
                await follower.follow(session, end=GROUPS)
            follower.check_whole(SHAPE, 0, GROUPS)
        await scene.check_nothing_left()


@pytest.mark.parametrize("read", [1, 40])
async def test_a_subscriber_that_is_cancelled(tmp_path: Path, read: int) -> None:
    """Session, subscription and reading task at once, wherever they are."""
    async with stage(tmp_path) as scene:
        for _ in range(3):
            follower = Follower()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follower.connect_and_follow, scene.server)
                await until(lambda have=follower.complete, count=read: len(have) >= count)
                nursery.cancel_scope.cancel()
            assert not follower.ended
        await scene.check_nothing_left()
        await scene.check_it_still_works()
        await scene.check_nothing_left()


async def test_a_session_that_either_side_closes(tmp_path: Path) -> None:
    """Groups that were not read to their end do not look as if they had been."""
    async with stage(tmp_path) as scene:
        for side in ("client", "server"):
            follower = Follower()
            async with (
                scene.server.connect(transport=SMALL_WINDOWS) as session,
                session.subscribe(BROADCAST, TRACK, start=0) as subscription,
            ):
                await follower.read(subscription, stop=lambda f=follower: len(f.complete) == 5)
                await until(is_replaying(scene, follower))
                if side == "client":
                    session.close(code=7, reason="enough")
                else:
                    scene.server.sessions[-1].close(code=7, reason="enough")
                await follower.read(subscription)
            assert not follower.ended
            assert isinstance(follower.error, moqtrio.SessionClosed)
            assert (follower.error.code, follower.error.reason) == (7, "enough")
            assert follower.error.remote == (side == "server")
            assert len(follower.complete) < GROUPS
            follower.check_frames(SHAPE)
            await scene.check_nothing_left()
        await scene.check_it_still_works()


async def test_a_server_that_is_cancelled(tmp_path: Path) -> None:
    """Its clients are told; its sockets, its tasks and what they held are gone."""
    async with stage(tmp_path) as scene:
        follower = Follower()
        sockets, path = scene.sockets_before, str(tmp_path)
        async with (
            scene.server.connect(transport=SMALL_WINDOWS) as session,
            session.subscribe(BROADCAST, TRACK, start=0) as subscription,
        ):
            await follower.read(subscription, stop=lambda: len(follower.complete) == 5)
            await until(is_replaying(scene, follower))
            scene.server.scope.cancel()
            await until(scene.server.stopped.is_set)
            await until(scene.is_quiet)
            await follower.read(subscription)
        assert not follower.ended
        assert isinstance(follower.error, moqtrio.SessionClosed)
        assert follower.error.remote
        assert len(follower.complete) < GROUPS
        await until(lambda: open_files("socket:") == sockets)
        assert not any("serve" in name or "quic" in name for name in task_counts() - scene.tasks)
    assert open_files(path) == 0, "every file of the store is closed"


async def test_a_store_that_closes_in_the_middle(tmp_path: Path) -> None:
    """Who replays gets an error for what can no longer be read, and no silence."""
    origin = moqtrio.Origin()
    async with serving(origin) as server:
        follower = Follower()
        async with trio.open_nursery() as nursery:
            async with SqliteStore.open(tmp_path / "store", cache_bytes=0) as store:
                broadcast = origin.create_broadcast(BROADCAST)
                track = broadcast.create_track(TRACK, store=store, cache_age=0.0)
                await publish_history(track, SHAPE, GROUPS)
                nursery.start_soon(follower.connect_and_follow, server)
                await until(lambda: len(follower.complete) >= 10)
            track.finish()
        assert open_files(str(tmp_path)) == 0
        assert follower.error is None
        assert follower.ended
        assert follower.accounted() == list(range(GROUPS))
        assert follower.gaps
        assert all(gap.code != 0 for gap in follower.gaps)
        follower.check_frames(SHAPE)
        assert len(track.log.watchers) == 0


async def test_a_fetch_that_is_given_up(tmp_path: Path) -> None:
    """Even of a group in which nothing happens any more."""
    async with stage(tmp_path) as scene:
        async with scene.server.connect() as session:
            tasks = await settled_tasks(session)
            with scene.track.append_group() as group:
                for give_up in ("close", "cancel"):
                    frame = frame_of(group.sequence, 0, 100)
                    group.write_frame(frame.payload, frame.timestamp_us)
                    fetched = await session.fetch(BROADCAST, TRACK, group.sequence)
                    assert await fetched.receive() == frame_of(group.sequence, 0, 100)
                    assert len(scene.track.log.watchers) == 2
                    if give_up == "close":
                        await fetched.aclose()
                    else:
                        with trio.move_on_after(0.01) as scope:
                            await fetched.read_all()
                        assert scope.cancelled_caught
                        await fetched.aclose()
                    await until(scene.is_quiet)
                    await tasks_are(tasks)
            empty = scene.track.append_group()
            with trio.move_on_after(0.05) as scope:
                await session.fetch(BROADCAST, TRACK, empty.sequence)
            assert scope.cancelled_caught, "there is nothing yet to return"
            await until(scene.is_quiet)
            await tasks_are(tasks)
            empty.finish()
        await scene.check_nothing_left()


async def test_announcements_that_are_no_longer_followed(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        async with scene.server.connect() as session:
            tasks = await settled_tasks(session)
            async with session.announced() as announcements:
                assert (await announcements.receive()).path == BROADCAST
                assert task_counts() != tasks
            await tasks_are(tasks)
            assert len(scene.server.origin._watchers) == 0
        publish_group(scene.track, SHAPE)
        await scene.check_nothing_left()
