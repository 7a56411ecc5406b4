"""Servers that come and go, in memory, for a session that reconnects."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from moqtrio import Backoff, Gap, ReconnectingSession, ResumingSubscription, Track
from moqtrio.errors import ConnectError, StreamReset
from moqtrio.model import GroupConsumer, Origin
from moqtrio.session.reconnect import open_reconnecting
from moqtrio.session.session import Session, open_session_over
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.transport.settings import TransportSettings
from moqtrio.wire import LITE_05, Version

HOME = "moqt://home:4443"
QUICK = Backoff(initial=1.0, factor=2.0, maximum=8.0, jitter=0.0, seconds=60.0)


@attrs.define(eq=False)
class World:
    """Who serves what under which URL; one that is not there refuses connections."""

    servers: dict[str, Origin | ConnectError] = attrs.Factory(dict)
    publish: Origin | None = None
    version: Version = LITE_05
    transport: TransportSettings | None = None
    #: When each attempt to connect was made, and where to.
    dials: list[tuple[float, str]] = attrs.Factory(list)
    clients: list[Session] = attrs.Factory(list)
    sessions: list[Session] = attrs.Factory(list)

    @asynccontextmanager
    async def connect(self, url: str) -> AsyncIterator[Session]:
        self.dials.append((trio.current_time(), url))
        await trio.lowlevel.checkpoint()
        origin = self.servers.get(url, ConnectError(f"nobody listens at {url}"))
        if isinstance(origin, ConnectError):
            raise ConnectError(str(origin), retryable=origin.retryable)
        there, here = memory_connection_pair(settings=self.transport)
        async with (
            open_session_over(here, self.version, publish=origin) as server,
            open_session_over(there, self.version, publish=self.publish) as client,
        ):
            self.clients.append(client)
            self.sessions.append(server)
            yield client

    @asynccontextmanager
    async def session(
        self, backoff: Backoff = QUICK, **options: Any
    ) -> AsyncIterator[ReconnectingSession]:
        with trio.fail_after(1000):  # what is tried for ever must not take the test that long
            async with open_reconnecting(HOME, self.connect, backoff, **options) as session:
                yield session

    async def cut(self, code: int = 0) -> None:
        """The latest connection is lost."""
        self.sessions[-1].close(code, "cut")
        await wait_all_tasks_blocked()


@attrs.define(eq=False)
class Reader:
    """Reads a subscription, and sees to it that nothing comes twice."""

    groups: dict[int, list[bytes]] = attrs.Factory(dict)
    order: list[int] = attrs.Factory(list)
    complete: set[int] = attrs.Factory(set)
    reset: dict[int, int] = attrs.Factory(dict)
    gaps: list[Gap] = attrs.Factory(list)
    ended: bool = False

    async def read(self, subscription: ResumingSubscription) -> None:
        """Groups side by side, to the end."""
        async with trio.open_nursery() as nursery:
            async for item in subscription:
                if isinstance(item, Gap):
                    self.gaps.append(item)
                else:
                    nursery.start_soon(self.read_group, item)
        self.ended = True

    async def read_one_by_one(self, subscription: ResumingSubscription) -> None:
        async for item in subscription:
            if isinstance(item, Gap):
                self.gaps.append(item)
            else:
                await self.read_group(item)
        self.ended = True

    async def read_group(self, group: GroupConsumer) -> None:
        assert group.sequence not in self.groups, f"group {group.sequence} came twice"
        frames = self.groups[group.sequence] = []
        self.order.append(group.sequence)
        try:
            while batch := await group.receive_batch():
                frames += [frame.payload for frame in batch]
        except StreamReset as error:
            self.reset[group.sequence] = error.code
        else:
            self.complete.add(group.sequence)

    def accounted(self) -> list[int]:
        """Every sequence that came or is in a gap."""
        missing = [each for gap in self.gaps for each in range(gap.start, gap.end)]
        return sorted([*self.groups, *missing])


def payload(sequence: int, index: int = 0, run: str = "") -> bytes:
    return f"{run}{sequence}.{index}".encode()


def publish(track: Track, count: int = 1, *, frames: int = 1, run: str = "") -> None:
    """Publish whole groups."""
    for _ in range(count):
        with track.append_group() as group:
            for index in range(frames):
                group.write_frame(payload(group.sequence, index, run))
