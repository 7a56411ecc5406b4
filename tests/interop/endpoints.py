"""moqtrio's side of these tests: publish known bytes, serve, and describe what came."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

import moqtrio
from moqtrio.wire import LITE_06, Version

from .payloads import described, digest, payload, timestamp_us

if TYPE_CHECKING:
    from .processes import MoqRs


@asynccontextmanager
async def moqtrio_server(origin: moqtrio.Origin) -> AsyncIterator[moqtrio.Listener]:
    """Serve ``origin`` on loopback over the block."""
    tls = moqtrio.generate_certificate()
    async with trio.open_nursery() as nursery:
        yield await nursery.start(partial(moqtrio.serve, origin, "moqt://127.0.0.1:0", tls=tls))
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def session_with(
    server: MoqRs,
    *,
    publish: moqtrio.Origin | None = None,
    version: Version = LITE_06,
    settings: moqtrio.SessionSettings | None = None,
) -> AsyncIterator[moqtrio.Session]:
    """A moqtrio session with a moq-rs server."""
    async with moqtrio.open_session(
        server.url,
        publish=publish,
        tls=moqtrio.ClientTls(fingerprint=server.fingerprint),
        versions=[version],
        settings=settings,
    ) as session:
        assert session.version == version.name
        yield session


def append_groups(track: moqtrio.Track, start: int, end: int, frames: int, size: int) -> None:
    """Publish the groups [start, end)."""
    for sequence in range(start, end):
        with track.create_group(sequence) as group:
            for index in range(frames):
                group.write_frame(payload(sequence, index, size), timestamp_us(sequence, index))


async def assert_frames(
    group: moqtrio.GroupConsumer, frames: int, size: int, *, timed: bool = True
) -> None:
    """The group has the bytes its publisher gave it, and, if ``timed``, its timestamps."""
    came = [
        [frame.timestamp_us, len(frame.payload), digest(frame.payload)]
        for frame in await group.read_all()
    ]
    expected = described(group.sequence, frames, size)
    if not timed:
        came, expected = ([frame[1:] for frame in each] for each in (came, expected))
    assert came == expected


async def assert_next_groups(
    subscription: moqtrio.Subscription,
    start: int,
    end: int,
    frames: int,
    size: int,
    *,
    timed: bool = True,
) -> None:
    """The next items are the groups [start, end): all, in order, intact."""
    for sequence in range(start, end):
        item = await subscription.receive()
        assert not isinstance(item, moqtrio.Gap), f"{item} instead of group {sequence}"
        assert item.sequence == sequence
        await assert_frames(item, frames, size, timed=timed)
