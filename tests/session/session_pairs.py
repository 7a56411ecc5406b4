"""Two sessions joined in memory, and what tests do with them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from moqtrio.errors import StreamReset
from moqtrio.model import Origin, Track
from moqtrio.model.frame import Frame
from moqtrio.model.group import FINISHED
from moqtrio.replay import GroupWrite
from moqtrio.replay.memory import MemoryStore, MemoryTrack
from moqtrio.session import Gap, Session, SessionSettings, Subscription
from moqtrio.session.control import ControlStream
from moqtrio.session.session import open_session_over
from moqtrio.transport.connection import BidiStream, Connection, ReceiveStream, SendStream
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.transport.settings import TransportSettings
from moqtrio.wire import LITE_05, LITE_06, Version, lite

spoken: Version = LITE_06
"""What sessions speak that are joined here; see the fixture ``each_version``."""


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
        open_session_over(here, spoken, publish=origin, settings=settings) as server,
        open_session_over(there, spoken, publish=client_origin, settings=settings) as client,
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


@attrs.define
class RawPublisher:
    """A publisher whose bytes a test writes by hand, and the subscription it serves."""

    session: Session
    subscription: Subscription
    connection: Connection
    control: BidiStream
    request: lite.Subscribe

    async def respond(self, *responses: lite.SubscribeResponse | bytes) -> None:
        """Send responses, or bytes that look like them, and let them arrive."""
        for response in responses:
            data = response if isinstance(response, bytes) else response.encode(LITE_05)
            await self.control.send.send_all(data)
        await wait_all_tasks_blocked()

    async def group(self, sequence: int, *payloads: bytes, finish: bool = True) -> SendStream:
        """Open a group's stream."""
        stream = await self.connection.open_uni()
        frames, _ = lite.encode_frames([Frame(payload, 0) for payload in payloads])
        header = lite.encode_group_header(self.request.subscribe_id, sequence, LITE_05)
        await stream.send_all(header + frames)
        if finish:
            stream.finish()
        await wait_all_tasks_blocked()
        return stream

    async def uni(self, data: bytes, *, finish: bool = True) -> SendStream:
        """Open a stream with these bytes."""
        stream = await self.connection.open_uni()
        await stream.send_all(data)
        if finish:
            stream.finish()
        await wait_all_tasks_blocked()
        return stream


@asynccontextmanager
async def raw_publisher(
    *,
    transport: TransportSettings | None = None,
    settings: SessionSettings | None = None,
    **options: Any,
) -> AsyncIterator[RawPublisher]:
    """A session that subscribes to ``b/t`` with ``options``, from a peer without a mind."""
    client, connection = memory_connection_pair(settings=transport)
    accepted: list[tuple[BidiStream, lite.Subscribe]] = []

    async def accept() -> None:
        await answer_track(connection)
        stream = await connection.accept_bidi()
        control = ControlStream(stream, LITE_05)
        assert await control.read_varint() == lite.BidiStreamType.SUBSCRIBE
        accepted.append((stream, await control.require(lite.Subscribe)))

    async with (
        open_session_over(client, LITE_05, settings=settings) as session,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(accept)
        async with session.subscribe("b", "t", **options) as subscription:
            await wait_all_tasks_blocked()
            stream, request = accepted[0]
            yield RawPublisher(session, subscription, connection, stream, request)


async def answer_track(connection: Connection) -> None:
    """Answer one TRACK request by hand."""
    stream = await connection.accept_bidi()
    control = ControlStream(stream, LITE_05)
    assert await control.read_varint() == lite.BidiStreamType.TRACK
    await control.require(lite.Track)
    await control.send.send_all(lite.TrackInfo(127, True, 0.0, 1_000_000).encode(LITE_05))
    control.finish()


async def assert_session_works(raw: RawPublisher) -> None:
    """The session of a raw publisher has survived what was done to it."""
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer_track, raw.connection)
            raw.session.forget_track("b", "t")
            await raw.session.track_info("b", "t")


def stop_code(stream: SendStream) -> int | None:
    """The code the peer stopped ``stream`` with, if it did."""
    try:
        stream.send_nowait(b"")
    except StreamReset as error:
        return error.code
    except trio.ClosedResourceError:
        return stream._stop_code  # type: ignore[attr-defined]  # after our FIN
    return None


def reset_code(stream: ReceiveStream) -> int | None:
    """The code the peer reset ``stream`` with, if it did."""
    try:
        while stream.receive_nowait():
            pass
    except StreamReset as error:
        return error.code
    except trio.WouldBlock:
        pass
    return None
