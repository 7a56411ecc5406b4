"""A moq-rs endpoint that does what it is told, one JSON object per line.

``python -m PACKAGE.peers.moq_rs listen`` is a server whose clients share one origin, so it
is a relay as well; ``... connect URL FINGERPRINT [CERTIFICATE KEY]`` is a client. Both
publish, subscribe, fetch and list announcements. A command is ``{"do": NAME, ...}``, where
NAME is a method of :class:`Peer` and the rest its arguments; it is answered by
``{"type": "done", "do": NAME}`` or ``{"type": "refused", ...}``. The end of standard input
ends the program.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import moq

from ..payloads import digest, payload, timestamp_us

LIFETIME_SECONDS = 110


def emit(type_: str, /, **fields: Any) -> None:
    print(json.dumps({"type": type_, **fields}), flush=True)


def error_fields(error: BaseException) -> dict[str, Any]:
    """What moq-rs says of an error: scope, code and kind where the peer gave one."""
    details = moq.protocol_error(error)
    if details is None:
        return {"error": repr(error)}
    return {
        "scope": details.scope.name.lower(),
        "code": details.code,
        "kind": details.kind.name.lower(),
        "error": details.message,
    }


class Peer:
    """The commands. ``id`` names a subscription, fetch or listing in what is emitted."""

    def __init__(
        self,
        producer: moq.OriginProducer,
        consumer: moq.OriginConsumer,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._producer = producer
        self._consumer = consumer
        self._broadcasts: dict[str, moq.BroadcastProducer] = {}
        self._tracks: dict[tuple[str, str], moq.TrackProducer] = {}
        self._task_group = tasks
        self._tasks: set[asyncio.Task[None]] = set()

    async def publish(self, broadcast: str, track: str, max_age: float = 3600.0) -> None:
        """Create a track, and announce its broadcast where that is new."""
        is_new = broadcast not in self._broadcasts
        if is_new:
            self._broadcasts[broadcast] = self._producer.create_broadcast(broadcast)
        info = moq.TrackInfo(max_age_us=int(max_age * 1_000_000), timescale=1_000_000)
        self._tracks[broadcast, track] = self._broadcasts[broadcast].publish_track(track, info)
        if is_new:
            self._broadcasts[broadcast].announce()

    async def append(
        self, broadcast: str, track: str, start: int, end: int, frames: int, size: int
    ) -> None:
        """Publish the groups [start, end)."""
        for sequence in range(start, end):
            group = self._tracks[broadcast, track].create_group(sequence)
            for index in range(frames):
                group.write_frame(payload(sequence, index, size), timestamp_us(sequence, index))
            group.finish()

    async def datagrams(self, broadcast: str, track: str, count: int, size: int) -> None:
        """Publish so many datagrams."""
        for _ in range(count):
            number = self._tracks[broadcast, track].append_datagram(bytes(size), 5_000)
            emit("datagram sent", sequence=number)

    async def finish(self, broadcast: str, track: str) -> None:
        self._tracks[broadcast, track].finish()

    async def close(self, broadcast: str) -> None:
        """Withdraw a broadcast for good."""
        self._broadcasts.pop(broadcast).close()

    async def announced(self, id: str, prefix: str = "") -> None:
        self._start(id, self._list(id, prefix))

    async def subscribe(
        self,
        id: str,
        broadcast: str,
        track: str,
        start: int | None = None,
        end: int | None = None,
        max_age: float = 3600.0,
    ) -> None:
        """Receive the groups [start, end) as they arrive, and describe each."""
        wanted = moq.Subscription(
            group_start=start, group_end=end, max_age_us=int(max_age * 1_000_000)
        )
        self._start(id, self._receive(id, broadcast, track, wanted))

    async def receive_datagrams(self, id: str, broadcast: str, track: str) -> None:
        self._start(id, self._receive_datagrams(id, broadcast, track))

    async def fetch(self, id: str, broadcast: str, track: str, sequence: int) -> None:
        self._start(id, self._fetch(id, broadcast, track, sequence))

    async def _list(self, id: str, prefix: str) -> None:
        async for update in self._consumer.announced(prefix):
            emit("announcement", id=id, path=update.prefix, active=update.active)

    async def _receive(self, id: str, broadcast: str, track: str, wanted: moq.Subscription) -> None:
        source = await self._consumer.request_broadcast(broadcast)
        consumer = await source.subscribe_track(track, wanted)
        emit("subscribed", id=id, max_age_us=consumer.info().max_age_us)
        # recv_group, because iteration skips groups where it falls behind.
        while (group := await consumer.recv_group()) is not None:
            await self._describe(id, group)

    async def _receive_datagrams(self, id: str, broadcast: str, track: str) -> None:
        source = await self._consumer.request_broadcast(broadcast)
        consumer = await source.subscribe_track(track)
        emit("subscribed", id=id)
        while (datagram := await consumer.recv_datagram()) is not None:
            fields = (datagram.sequence, datagram.timestamp_us, len(datagram.payload))
            emit("datagram", id=id, fields=fields)

    async def _fetch(self, id: str, broadcast: str, track: str, sequence: int) -> None:
        source = await self._consumer.request_broadcast(broadcast)
        await self._describe(id, await source.fetch_group(track, sequence))

    async def _describe(self, id: str, group: moq.GroupConsumer) -> None:
        frames = [[f.timestamp_us, len(f.payload), digest(f.payload)] async for f in group]
        emit("group", id=id, sequence=group.sequence, frames=frames)

    def _start(self, id: str, work: Coroutine[None, None, None]) -> None:
        async def run() -> None:
            try:
                await work
            except moq.Error as error:
                emit("error", id=id, **error_fields(error))
            else:
                emit("end", id=id)

        task = self._task_group.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def stop(self) -> None:
        """Cancel everything that still runs."""
        for task in self._tasks:
            task.cancel()


async def obey(peer: Peer) -> None:
    """Carry out the commands on standard input until it ends."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        arguments = json.loads(line)
        name = arguments.pop("do")
        command: Callable[..., Awaitable[None]] = getattr(peer, name)
        try:
            await command(**arguments)
        except moq.Error as error:
            emit("refused", do=name, **error_fields(error))
        else:
            emit("done", do=name)
    peer.stop()


@asynccontextmanager
async def listening(tasks: asyncio.TaskGroup) -> AsyncIterator[Peer]:
    origin = moq.OriginProducer()
    async with moq.Server(
        "127.0.0.1:0", tls_generate=["localhost"], publish=origin, subscribe=origin
    ) as server:
        emit(
            "listening",
            url=f"moqt://{server.local_addr}",
            fingerprint=server.cert_fingerprints()[0],
        )
        accepting = tasks.create_task(accept(server))
        yield Peer(origin, origin.consume(), tasks)
        accepting.cancel()


async def accept(server: moq.Server) -> None:
    """Hold every session until it ends."""
    async with asyncio.TaskGroup() as sessions:
        async for request in server:
            sessions.create_task(hold(request))


async def hold(request: moq.Request) -> None:
    with suppress(moq.Error):
        session = await request.accept()
        await session.closed()


@asynccontextmanager
async def connected(
    tasks: asyncio.TaskGroup,
    url: str,
    fingerprint: str,
    certificate: str | None = None,
    key: str | None = None,
) -> AsyncIterator[Peer]:
    published, received = moq.OriginProducer(), moq.OriginProducer()
    async with moq.connect(
        url,
        tls_fingerprints=[fingerprint],
        tls_cert=certificate,
        tls_key=key,
        websocket_enabled=url.startswith("ws"),
        reconnect=False,
        publish=published,
        subscribe=received,
    ):
        emit("connected")
        yield Peer(published, received.consume(), tasks)


async def main() -> None:
    role, *arguments = sys.argv[1:]
    async with asyncio.timeout(LIFETIME_SECONDS), asyncio.TaskGroup() as tasks:
        endpoint = listening(tasks) if role == "listen" else connected(tasks, *arguments)
        async with endpoint as peer:
            await obey(peer)


if __name__ == "__main__":
    asyncio.run(main())
