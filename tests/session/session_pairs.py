"""Two sessions joined in memory, and what tests do with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import attrs
import trio

from moqtrio.errors import StreamReset
from moqtrio.model import Origin, Track
from moqtrio.model.frame import Frame
from moqtrio.model.group import FINISHED
from moqtrio.replay import GroupWrite
from moqtrio.replay.memory import MemoryStore, MemoryTrack
from moqtrio.session import Gap, Session, SessionSettings, Subscription
from moqtrio.session.session import open_session_over
from moqtrio.transport.connection import Connection
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.transport.settings import TransportSettings
from moqtrio.wire import LITE_05


@attrs.frozen
class Pair:
    """A client's session, the server's, and the connections beneath them."""

    client: Session
    server: Session
    client_connection: Connection
    server_connection: Connection


@asynccontextmanager
async def session_pair(
    origin: Origin | None = None,
    *,
    client_origin: Origin | None = None,
    transport: TransportSettings | None = None,
    settings: SessionSettings | None = None,
) -> AsyncIterator[Pair]:
    """Both ends of a session; the server publishes ``origin``."""
    there, here = memory_connection_pair(settings=transport)
    async with (
        open_session_over(here, LITE_05, publish=origin, settings=settings) as server,
        open_session_over(there, LITE_05, publish=client_origin, settings=settings) as client,
    ):
        yield Pair(client, server, there, here)


class Recorded:
    """A store for ``create_track(store=...)`` whose content a test has put there."""

    def __init__(self, target: MemoryTrack) -> None:
        self.target = target

    def attach(self, track: Track) -> MemoryTrack:
        track.log.begin_recording(self.target.next_sequence, 10**9)
        return self.target


def payload_of(sequence: int, index: int = 0, size: int = 0) -> bytes:
    """Bytes nobody else has."""
    return b"%d.%d:" % (sequence, index) + bytes(size)


def publish(track: Track, count: int = 1, *, frames: int = 1, size: int = 0) -> None:
    """Publish whole groups."""
    for _ in range(count):
        with track.append_group() as group:
            for index in range(frames):
                group.write_frame(payload_of(group.sequence, index, size))


async def stored_track(
    origin: Origin, stored: Iterable[int], *, frames: int = 1, size: int = 0, **options: float
) -> tuple[Track, MemoryTrack]:
    """The track ``b/t`` after a restart: history in its store, nothing in memory."""
    target = MemoryStore().track("b", "t")
    for sequence in stored:
        content = [
            Frame(payload_of(sequence, index, size), 1_000_000 + index) for index in range(frames)
        ]
        await target.write([GroupWrite(sequence, 0, content, FINISHED)])
    track = origin.create_broadcast("b").create_track("t", store=Recorded(target), **options)  # type: ignore[arg-type]  # numbers by name
    return track, target


Seen = tuple[int, list[bytes]] | tuple[int, int] | Gap


async def see(subscription: Subscription) -> Seen:
    """The next item: (sequence, payloads), (sequence, code of its reset), or a Gap."""
    item = await subscription.receive()
    if isinstance(item, Gap):
        return item
    try:
        return item.sequence, [frame.payload for frame in await item.read_all()]
    except StreamReset as error:
        return item.sequence, error.code


async def see_all(subscription: Subscription) -> list[Seen]:
    """Every item to the end."""
    seen = []
    while True:
        try:
            seen.append(await see(subscription))
        except trio.EndOfChannel:
            return seen


def groups(*sequences: int, frames: int = 1, size: int = 0) -> list[Seen]:
    """What :func:`see` makes of groups that :func:`publish` published."""
    return [(s, [payload_of(s, index, size) for index in range(frames)]) for s in sequences]


def assert_nothing_left(track: Track, *connections: Connection) -> None:
    """No watcher of the log, no callback, no stream but the two SETUPs, if those."""
    assert len(track.log.watchers) == 0
    for connection in connections:
        assert connection._on_writable == {}  # type: ignore[attr-defined]  # the binding's own
        assert connection._starved_streams == {}  # type: ignore[attr-defined]
        assert connection.statistics().streams_open == 0
