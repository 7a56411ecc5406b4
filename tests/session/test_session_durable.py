"""A track that shows only what is durable, as its subscribers see it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
from session_pairs import (
    groups,
    payload_of,
    publish,
    see,
    see_all,
    session_pair,
)
from trio.testing import MockClock

from moqtrio.errors import ReplayError, RequestError, StreamCode
from moqtrio.model import Origin, Track
from moqtrio.replay import GroupWrite, Recorder
from moqtrio.replay.memory import MemoryTrack
from moqtrio.session import Gap


class HangingDisk(MemoryTrack):
    """Commits when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = trio.Event()

    async def write(self, writes: Sequence[GroupWrite]) -> None:
        await self.gate.wait()
        await super().write(writes)


class Recorded:
    def __init__(self, nursery: trio.Nursery, target: MemoryTrack) -> None:
        self.nursery, self.target = nursery, target

    def attach(self, track: Track) -> MemoryTrack:
        self.nursery.start_soon(Recorder(track.log, self.target, name="b/t").run)
        return self.target


@asynccontextmanager
async def durable_track(**limits: int) -> AsyncIterator[tuple[Origin, Track, HangingDisk]]:
    origin, disk = Origin(), HangingDisk()
    async with trio.open_nursery() as nursery:
        yield (
            origin,
            origin.create_broadcast("b").create_track(
                "t",
                store=Recorded(nursery, disk),
                recording="durable",
                **limits,  # type: ignore[arg-type]  # numbers by name
            ),
            disk,
        )
        disk.gate.set()
        nursery.cancel_scope.cancel()


async def test_a_subscriber_gets_what_is_durable_and_then_the_end(
    autojump_clock: MockClock,
) -> None:
    async with durable_track() as (origin, track, disk), session_pair(origin) as pair:
        async with pair.client.subscribe("b", "t", start=0) as subscription:
            publish(track, 3, frames=2)
            track.finish()
            with trio.move_on_after(60) as scope:
                await subscription.receive()
            assert scope.cancelled_caught, "none of it is durable"
            disk.gate.set()
            assert await see_all(subscription) == groups(0, 1, 2, frames=2)
        assert len(track.log.watchers) <= 1  # the recorder's


async def test_a_group_comes_frame_by_frame_as_it_becomes_durable(
    autojump_clock: MockClock,
) -> None:
    async with durable_track() as (origin, track, disk), session_pair(origin) as pair:
        disk.gate.set()
        group = track.append_group()
        group.write_frame(b"one")
        async with pair.client.subscribe("b", "t", start=0) as subscription:
            consumer = await subscription.receive()
            assert not isinstance(consumer, Gap)
            assert (await consumer.receive()).payload == b"one"
            disk.gate = trio.Event()
            group.write_frame(b"two")
            group.finish()
            with trio.move_on_after(60) as scope:
                await consumer.receive()
            assert scope.cancelled_caught
            disk.gate.set()
            assert [frame.payload for frame in await consumer.read_all()] == [b"two"]


async def test_what_was_never_durable_is_dropped_and_never_shown(
    autojump_clock: MockClock,
) -> None:
    limits = {"cache_bytes": 0, "max_bytes": 100}
    async with (
        durable_track(**limits) as (origin, track, disk),
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=0) as subscription,
    ):
        disk.gate.set()
        await trio.sleep(1)
        disk.fail(ReplayError("disk full"))
        publish(track, 4, size=60)
        assert await see(subscription) == Gap(0, 3, StreamCode.EVICTED)
        with trio.move_on_after(60) as scope:
            await subscription.receive()
        assert scope.cancelled_caught
        disk.fail(None)
        assert await see(subscription) == groups(3, size=60)[0]


async def test_latest_and_fetch_know_only_what_is_durable(autojump_clock: MockClock) -> None:
    async with durable_track() as (origin, track, disk), session_pair(origin) as pair:
        disk.gate.set()
        publish(track)
        await track.wait_durable()
        disk.gate = trio.Event()
        publish(track)
        await trio.sleep(1)
        async with pair.client.subscribe("b", "t") as subscription:
            assert await see(subscription) == groups(0)[0]
        with pytest.raises(RequestError) as raised:
            await pair.client.fetch("b", "t", 1)
        assert raised.value.code == StreamCode.NOT_FOUND
        disk.gate.set()
        await track.wait_durable()
        fetched = await pair.client.fetch("b", "t", 1)
        assert [frame.payload for frame in await fetched.read_all()] == [payload_of(1)]


async def test_the_latest_may_be_in_the_store_alone(autojump_clock: MockClock) -> None:
    """Group 0 is open and 2 is hidden, so memory knows of nothing later than 0."""
    async with durable_track(cache_age=0) as (origin, track, disk), session_pair(origin) as pair:
        disk.gate.set()
        track.append_group().write_frame(b"open")
        publish(track)
        await trio.sleep(1)
        disk.gate = trio.Event()
        publish(track)
        await trio.sleep(1)
        async with pair.client.subscribe("b", "t") as subscription:
            assert await see(subscription) == groups(1)[0]
        disk.gate.set()
