"""What leaves first when not everything can be sent at once, measured: over a simulated link of
250 kB/s, in virtual time."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import combinations
from typing import Any, Literal

import attrs
import pytest
import trio
from trio.testing import MockClock

from moqtrio.model import GroupConsumer, Origin, Track, TrackInfo
from moqtrio.session import Gap, Session, Subscription
from moqtrio.session.session import open_session_over
from moqtrio.transport.settings import TransportSettings
from moqtrio.wire import LITE_05

from .network import Network, simulated_pair
from .pairs import plain_settings

RATE = 250_000
IN_FLIGHT = 0.25
"""Seconds until what is in the network, and in the queue before it, has come."""
GROUP = 12_500

SERVER = plain_settings(connection_send_high=RATE * 2, connection_send_low=RATE)


@attrs.define
class Scene:
    """A publisher behind a slow link, and its subscriber."""

    session: Session
    origin: Origin
    server: Session

    def track(self, name: str, priority: int = 127) -> Track:
        broadcast = self.origin.broadcasts.get(name) or self.origin.create_broadcast(name)
        info = TrackInfo(priority=priority)
        return broadcast.create_track("t", info=info, cache_age=1000)


@asynccontextmanager
async def scene(client: TransportSettings | None = None) -> AsyncIterator[Scene]:
    origin = Origin()
    network = Network(delay=0.01, rate=RATE, queue=RATE // 16)
    async with (
        simulated_pair(network, client=client, server=SERVER) as (near, far),
        open_session_over(far, LITE_05, publish=origin) as server,
        open_session_over(near, LITE_05) as session,
    ):
        with trio.fail_after(300):
            yield Scene(session, origin, server)


@attrs.define
class Arrivals:
    """The bytes that came of each subscription, and when."""

    log: list[tuple[float, str, int]] = attrs.Factory(list)
    completed: dict[str, dict[int, float]] = attrs.Factory(dict)

    async def follow(
        self,
        session: Session,
        name: str,
        *,
        task_status: trio.TaskStatus[Subscription],
        **options: Any,
    ) -> None:
        """Read every group, side by side."""
        completed = self.completed.setdefault(name, {})

        async def read(group: GroupConsumer) -> None:
            while batch := await group.receive_batch():
                size = sum(len(frame.payload) for frame in batch)
                self.log.append((trio.current_time(), name, size))
            completed[group.sequence] = trio.current_time()

        async with (
            # A group whose first packet is lost may be overtaken for as long as others go first.
            session.subscribe(name, "t", gap_timeout=60, **options) as subscription,
            trio.open_nursery() as nursery,
        ):
            task_status.started(subscription)
            async for group in subscription:
                assert not isinstance(group, Gap), "nothing is dropped here"
                nursery.start_soon(read, group)

    def shares(self, start: float, end: float) -> dict[str, float]:
        """Of what came in that time, how much was whose."""
        counts: Counter[str] = Counter()
        for at, name, size in self.log:
            if start <= at < end:
                counts[name] += size
        return {name: count / counts.total() for name, count in counts.items()}


def publish(track: Track, groups: int, size: int = GROUP) -> None:
    """Groups of five frames."""
    for _ in range(groups):
        with track.append_group() as group:
            for _ in range(5):
                group.write_frame(bytes(size // 5))


async def test_the_higher_priority_has_the_link_while_it_has_anything_to_send(
    autojump_clock: MockClock,
) -> None:
    arrivals = Arrivals()
    async with scene() as stage, trio.open_nursery() as nursery:
        low, high = stage.track("low"), stage.track("high")
        follow = partial(arrivals.follow, stage.session, start=0)
        subscription = await nursery.start(partial(follow, "low", priority=10))
        await nursery.start(partial(follow, "high", priority=200))
        publish(low, 200)  # 10 s
        await trio.sleep(3)
        assert stage.server.statistics().send_buffered > RATE, "a backlog"
        before = trio.current_time()
        publish(high, 80)  # 4 s, twice what the transport takes at once
        await trio.sleep(1)
        asked = trio.current_time()
        await stage.session.track_info("high", "t")
        answered = trio.current_time() - asked
        await trio.sleep(2)
        # What was in the network when the first high byte was ready cannot be overtaken.
        share = arrivals.shares(before + IN_FLIGHT, before + 3)
        assert share["high"] >= 0.95, share
        started = min(at for at, name, _ in arrivals.log if name == "high")
        assert started - before < IN_FLIGHT
        assert answered < IN_FLIGHT, "answers are not behind the data"

        await subscription.update(priority=201)
        changed = trio.current_time()
        await trio.sleep(1)
        share = arrivals.shares(changed + IN_FLIGHT, changed + 1)
        assert share["low"] >= 0.95, share
        low.finish()
        high.finish()
    assert arrivals.completed["low"].keys() == set(range(200))
    assert arrivals.completed["high"].keys() == set(range(80))


async def test_the_publishers_priority_decides_among_equals(autojump_clock: MockClock) -> None:
    arrivals = Arrivals()
    async with scene() as stage, trio.open_nursery() as nursery:
        low, high = stage.track("low", 1), stage.track("high", 2)
        for name in ("low", "high"):
            await nursery.start(partial(arrivals.follow, stage.session, name, start=0))
        publish(low, 60)
        publish(high, 60)
        before = trio.current_time()
        await trio.sleep(2.5)
        share = arrivals.shares(before + IN_FLIGHT, before + 2.5)
        assert share["high"] >= 0.95, share
        low.finish()
        high.finish()


@pytest.mark.parametrize("order", ["arrival", "sequence"])
async def test_the_newest_or_the_oldest_group_first(
    autojump_clock: MockClock, order: Literal["arrival", "sequence"]
) -> None:
    """ "arrival" asks for groups that are not ordered: the newest first."""
    arrivals = Arrivals()
    async with scene() as stage, trio.open_nursery() as nursery:
        track = stage.track("b")
        publish(track, 1)
        await nursery.start(partial(arrivals.follow, stage.session, "b", order=order))
        await trio.sleep(1)  # at the live edge
        for _ in range(20):
            publish(track, 1)
            await trio.sleep(0.01)  # five times what the link carries
        await trio.sleep(2)
        track.finish()
    completed = arrivals.completed["b"]
    assert completed.keys() == set(range(21))
    times = [completed[sequence] for sequence in range(21)]
    if order == "sequence":
        assert rising(times) >= 0.95, times
        return
    early = [time for time in times if time < times[-1]]
    assert len(early) <= 6, "what the link carried meanwhile"
    late = [time for time in times if time >= times[-1]]
    assert rising(late) <= 0.1, "then from the newest down"


def rising(times: list[float]) -> float:
    """How many of all pairs are in order. A packet that is lost delays one group or two."""
    pairs = list(combinations(times, 2))
    return sum(first < second for first, second in pairs) / len(pairs)


async def test_equal_subscriptions_share_the_link_whatever_their_order(
    autojump_clock: MockClock,
) -> None:
    arrivals = Arrivals()
    async with scene() as stage, trio.open_nursery() as nursery:
        tracks = [stage.track(name) for name in ("old", "new")]
        follow = partial(arrivals.follow, stage.session)
        await nursery.start(partial(follow, "old", order="sequence"))
        await nursery.start(partial(follow, "new", order="arrival"))
        await trio.sleep(1)
        before = trio.current_time()
        for _ in range(50):  # twice what the link carries
            for track in tracks:
                publish(track, 1, 5_000)
            await trio.sleep(0.02)
        share = arrivals.shares(before + IN_FLIGHT, before + 1)
        assert 0.4 <= share["old"] <= 0.6, share
        for track in tracks:
            track.finish()


async def test_newest_first_leaves_room_for_what_was_begun(autojump_clock: MockClock) -> None:
    """A reader takes one group at a time, as they come. What comes later must not fill the
    window that the one it reads needs."""
    client = plain_settings(connection_window=100_000, stream_window=50_000)
    seen = []
    async with scene(client) as stage, trio.open_nursery() as nursery:
        track = stage.track("b")

        async def read(task_status: trio.TaskStatus[None]) -> None:
            async with stage.session.subscribe("b", "t", order="arrival") as subscription:
                task_status.started()
                async for group in subscription:
                    assert not isinstance(group, Gap), "nothing is dropped here"
                    assert len(await group.read_all()) == 5
                    seen.append(group.sequence)

        await nursery.start(read)
        await trio.sleep(1)
        for _ in range(60):
            publish(track, 1, 37_500)
            await trio.sleep(0.05)
        track.finish()
    assert sorted(seen) == list(range(60))
