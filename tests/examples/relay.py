"""A relay of events on loopback, over TLS, that sends a made-up firehose; and the example
that follows it, in a process of its own."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import attrs
import trio
import trio_websocket
import trustme

import moqtrio
from benchmarks.firehose import FIRST_SEQUENCE, Firehose
from moqtrio import Gap

EXAMPLE = Path(__file__).parents[2] / "examples" / "atproto_firehose.py"
FIREHOSE = Firehose(seed=3)
OVERLAP = 7
"""A relay may send again what comes before the cursor: so many messages."""


@attrs.define(eq=False)
class Relay:
    """Sends the messages below ``available``, and waits for more of them."""

    firehose: Firehose
    port: int = 0
    available: int = FIRST_SEQUENCE
    cursors: list[int | None] = attrs.Factory(list)
    """What was asked for, one entry per connection."""
    sent: int = FIRST_SEQUENCE
    """One more than the last message that was sent."""
    first_words: list[bytes | str] = attrs.Factory(list)
    """Sent at the start of each connection."""
    _more: trio.Event = attrs.Factory(trio.Event)
    _streams: set[trio.abc.Stream] = attrs.Factory(set)

    @property
    def url(self) -> str:
        return f"wss://localhost:{self.port}/xrpc/com.atproto.sync.subscribeRepos"

    def publish(self, count: int) -> None:
        """So many more messages have happened."""
        self.available += count
        more, self._more = self._more, trio.Event()
        more.set()

    async def cut(self) -> None:
        """Break every connection, without a word."""
        for stream in tuple(self._streams):
            await trio.aclose_forcefully(stream)

    async def serve(self, tls: ssl.SSLContext, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            self.port = listener.socket.getsockname()[1]
            task_status.started()
            await trio.serve_listeners(
                partial(self._connection, tls), [listener], handler_nursery=nursery
            )

    async def _connection(self, tls: ssl.SSLContext, tcp: trio.SocketStream) -> None:
        stream = trio.SSLStream(tcp, tls, server_side=True)
        self._streams.add(stream)
        try:
            async with trio.open_nursery() as nursery:
                request = await trio_websocket.wrap_server_stream(nursery, stream)
                await self._send_all(await request.accept(), request.path)
        except* (trio_websocket.ConnectionClosed, trio.BrokenResourceError, OSError):
            pass
        except* trio.ClosedResourceError:
            pass
        finally:
            self._streams.discard(stream)

    async def _send_all(self, socket: trio_websocket.WebSocketConnection, path: str) -> None:
        cursor = parse_qs(urlsplit(path).query).get("cursor")
        self.cursors.append(None if cursor is None else int(cursor[0]))
        for message in self.first_words:
            await socket.send_message(message)
        start = FIRST_SEQUENCE if cursor is None else int(cursor[0]) + 1 - OVERLAP
        sequence = max(start, FIRST_SEQUENCE)
        while True:
            while sequence >= self.available:
                await self._more.wait()
            await socket.send_message(self.firehose.message(sequence))
            sequence += 1
            self.sent = max(self.sent, sequence)


@asynccontextmanager
async def open_relay(directory: Path) -> AsyncIterator[Relay]:
    """Serve a relay within the block; its authority is in ``directory``."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "authority.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(tls)
    relay = Relay(FIREHOSE)
    async with trio.open_nursery() as nursery:
        await nursery.start(relay.serve, tls)
        yield relay
        nursery.cancel_scope.cancel()


@attrs.define(eq=False)
class Example:
    """The example's process, ready."""

    process: trio.Process
    log: Path
    listening: str = ""
    fingerprint: str = ""

    async def read_listening(self) -> None:
        assert self.process.stdout is not None
        said = b""
        while not said.endswith(b"\n"):
            chunk = await self.process.stdout.receive_some()
            assert chunk, f"it ended: {self.log.read_text()}"
            said += chunk
        self.listening, self.fingerprint = said.decode().split()

    async def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return await self.process.wait()

    async def replay(self, until: bytes) -> Replayed:
        """Follow it from the oldest group until message ``until`` has come."""
        replayed = Replayed()
        await self.follow(replayed, lambda: until in replayed.messages[-1:])
        return replayed

    async def follow(self, replayed: Replayed, enough: Callable[[], bool]) -> None:
        """Follow it from the group after the last one, until there is enough or it is gone."""
        tls = moqtrio.ClientTls(fingerprint=self.fingerprint)
        with suppress(moqtrio.SessionClosed):
            async with (
                moqtrio.open_session(self.listening, tls=tls) as session,
                session.subscribe("atproto", "firehose", start=replayed.next_group) as subscription,
            ):
                async for item in subscription:
                    await replayed.take(item)
                    if enough():
                        return
                raise AssertionError("the track ended")


@attrs.define
class Replayed:
    """What a subscriber got: the frames of whole groups, in order, and the rest."""

    messages: list[bytes] = attrs.Factory(list)
    group_sizes: list[int] = attrs.Factory(list)
    gaps: list[Gap] = attrs.Factory(list)
    cut_short: list[int] = attrs.Factory(list)
    next_group: int = 0

    async def take(self, item: moqtrio.GroupConsumer | Gap) -> None:
        if isinstance(item, Gap):
            self.gaps.append(item)
            self.next_group = item.end
            return
        try:
            frames = await item.read_all()
        except moqtrio.StreamReset:
            self.cut_short.append(item.sequence)
        else:
            self.group_sizes.append(len(frames))
            self.messages += [frame.payload for frame in frames]
        self.next_group = item.sequence + 1


@asynccontextmanager
async def run_example(
    relay_url: str, directory: Path, *arguments: str, store: str = "store"
) -> AsyncIterator[Example]:
    """Run the example within the block."""
    log = directory / "log"
    # trio-websocket leaves the socket of a connection that broke to the garbage collector.
    command = [sys.executable, "-W", "error", "-W", "ignore::ResourceWarning"]
    command += [str(EXAMPLE), relay_url]
    command += ["--store", str(directory / store), "--listen", "moqt://127.0.0.1:0", *arguments]
    with log.open("ab") as errors:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, "SSL_CERT_FILE": str(directory / "authority.pem")},
        )
    assert process.stdout is not None
    try:
        example = Example(process, log)
        await example.read_listening()
        yield example
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await process.stdout.aclose()
    assert "Traceback" not in log.read_text(), log.read_text()
