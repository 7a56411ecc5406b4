"""Nothing is lost in silence, at any version: random tracks, wishes, delays and losses against
a model of what must come."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from random import Random

import attrs
import pytest
import trio
from reconnect_tools import HOME, World
from session_model import Owed, Reader, RecordedMemory, Writer, until
from trio.testing import MockClock

from moqtrio.errors import SessionCode
from moqtrio.model import Origin, TrackInfo
from moqtrio.session import ResumingSubscription, Subscription
from moqtrio.session.session import open_session_over
from moqtrio.transport.connection import Connection, ReceiveStream
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.transport.settings import TransportSettings
from moqtrio.wire import VERSIONS, Version
from moqtrio.wire.lite import Datagram

AWAY = "moqt://home:5555/elsewhere"


@attrs.define(eq=False)
class Story:
    """One subscription, and what happens meanwhile."""

    version: Version
    random: Random
    nursery: trio.Nursery
    origin: Origin = attrs.Factory(Origin)
    writer: Writer = attrs.field(init=False)
    reader: Reader = attrs.field(init=False)
    owed: Owed = attrs.field(init=False)
    order: str = attrs.field(init=False)

    async def begin(self, max_latency: float = math.inf) -> None:
        """There is a track with a past."""
        random = self.random
        cache_age = random.choice([0.5, 5.0, math.inf])
        options = {}
        recording = random.choice([None, None, "live", "durable"])
        if recording is not None:
            options = {"store": RecordedMemory(self.nursery), "recording": recording}
        track = self.origin.create_broadcast("b").create_track(
            "t",
            cache_age=cache_age,
            datagrams=random.random() < 0.3,
            info=TrackInfo(ordered=random.random() < 0.5),
            **options,  # type: ignore[arg-type]  # by name
        )
        self.writer = Writer(track, random)
        self.reader = Reader(Random(random.random()))
        for _ in range(random.randint(0, 12)):
            self.writer.step()
            await self._pause()
        if random.random() < 0.15:
            self.writer.finish()
        start = random.choice([None, None, 0, 0, random.randint(0, 20)])
        end = random.choice([None, None, (start or 0) + random.randint(1, 20)])
        self.order = random.choice(["sequence", "arrival"])
        forgets = recording is None and cache_age < math.inf
        self.owed = Owed(start, end, forgets, track.log.latest, max_latency)

    async def go_on(self, subscription: Subscription | ResumingSubscription) -> None:
        """Something happens."""
        if self.random.random() < 0.07:
            await self._update(subscription)
        else:
            self.writer.step()
        await self._pause()

    async def _update(self, subscription: Subscription | ResumingSubscription) -> None:
        random, owed = self.random, self.owed
        end = random.choice([owed.end, None, random.randint(1, 40)])
        start = (owed.start or 0) + random.randint(0, 20) if random.random() < 0.3 else None
        was_over = self.reader.ended
        try:
            await subscription.update(end=end, start=start, priority=random.randint(0, 255))
        except ValueError:
            return  # a range the wrong way round
        owed.skipped_to = max(owed.skipped_to, start or 0)
        if not was_over:
            owed.set_end(end)

    async def _pause(self) -> None:
        if self.random.random() < 0.5:
            await trio.sleep(self.random.random() * self.random.choice([0.01, 1.0, 2.0]))

    async def finish(self, subscription: Subscription | ResumingSubscription) -> None:
        """The track ends, and everything must have come."""
        self.writer.finish()
        reader = self.reader
        await until(lambda: reader.ended and len(reader.codes) == len(reader.frames))
        self.owed.check(self.writer, reader, subscription.start, ordered=self.order == "sequence")


def connection_pair(story: Story) -> tuple[Connection, Connection]:
    """Streams may overtake each other, and datagrams get lost."""
    random, lost = story.random, story.owed.lost
    settings = TransportSettings(max_streams_uni=random.choice([2, 4, 100]))
    client, server = memory_connection_pair(settings=settings)
    deliver = client._incoming_uni  # type: ignore[attr-defined]  # the binding's own
    send = server.send_datagram_nowait
    delay, loss = random.choice([0.0, 0.9]), random.choice([0.0, 0.3])

    async def deliver_later(stream: ReceiveStream) -> None:
        await trio.sleep(delay * random.random())
        deliver(stream)

    def send_or_lose(data: bytes) -> None:
        if random.random() < loss:
            lost.add(Datagram.decode(data).sequence)
        else:
            send(data)

    if delay:
        client._incoming_uni = lambda stream: story.nursery.start_soon(  # type: ignore[attr-defined]
            deliver_later, stream
        )
    server.send_datagram_nowait = send_or_lose  # type: ignore[method-assign]  # what a network does
    return client, server


async def one_connection(story: Story) -> None:
    await story.begin(story.random.choice([math.inf, math.inf, 0.0, 1.0, 3.0]))
    owed, version = story.owed, story.version
    client, server = connection_pair(story)
    async with (
        open_session_over(server, version, publish=story.origin),
        open_session_over(client, version) as session,
        session.subscribe(
            "b",
            "t",
            start=owed.start,
            end=owed.end,
            order=story.order,  # type: ignore[arg-type]  # one of the two
            max_latency=owed.max_latency,
        ) as subscription,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(story.reader.read, subscription)
        for _ in range(story.random.randint(0, 30)):
            await story.go_on(subscription)
        await story.finish(subscription)


async def many_connections(story: Story) -> None:
    """The server goes away, or the connection is cut, again and again."""
    await story.begin()
    owed, random = story.owed, story.random
    world = World({HOME: story.origin, AWAY: story.origin}, version=story.version)
    async with (
        world.session() as session,
        session.subscribe(
            "b",
            "t",
            start=owed.start,
            end=owed.end,
            order=story.order,  # type: ignore[arg-type]  # one of the two
        ) as subscription,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(story.reader.read, subscription)
        for _ in range(random.randint(0, 30)):
            what = random.random()
            if what < 0.1:
                random.choice([world.sessions, world.clients])[-1].close(
                    SessionCode.NO_ERROR, "cut"
                )
            elif what < 0.2:
                nursery.start_soon(world.sessions[-1].go_away, random.choice(["", HOME, AWAY]))
            await story.go_on(subscription)
        await story.finish(subscription)


@pytest.mark.parametrize("version", VERSIONS, ids=str)
@pytest.mark.parametrize(("tell", "stories"), [(one_connection, 100), (many_connections, 50)])
def test_nothing_is_lost_in_silence(
    version: Version,
    tell: Callable[[Story], Awaitable[None]],
    stories: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)

    async def run(seed: int) -> None:
        async with trio.open_nursery() as nursery:
            await tell(Story(version, Random(seed), nursery))
            nursery.cancel_scope.cancel()

    for seed in range(stories):
        trio._core._run._r.seed(seed)
        try:
            trio.run(run, seed, clock=MockClock(autojump_threshold=0))
        except BaseException as error:
            error.add_note(f"seed {seed} of {version}")
            raise
