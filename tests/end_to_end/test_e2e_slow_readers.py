"""Many subscribers stop reading, for longer than the server's memory lasts, and go on later:
they are caught up from the store, the server's memory stays what was promised, and nobody
else notices."""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from e2e_tools import BROADCAST, SMALL_WINDOWS, TRACK, end_process, start_python, until
from slow_readers_server import (
    LOG_BYTES,
    SERVING,
    STORE_CACHE_BYTES,
    TRANSPORT,
    microseconds,
    payload,
)

import moqtrio

READERS = 50
MIB = 2**20
# What a reader may take up: see ServingLimits and TransportSettings. What has been sent is kept
# until it is acknowledged, and what may be on its way is the reader's window.
GROUP_HOLDS = 128 * 1024
PER_READER = (
    SERVING.groups_blocked * GROUP_HOLDS
    + TRANSPORT.connection_send_high
    + SMALL_WINDOWS.connection_window
)
# What is there once, whoever reads; and what the interpreter and its allocator add.
SHARED = LOG_BYTES + STORE_CACHE_BYTES
SLACK = 16 * MIB
BOUND = READERS * PER_READER + SHARED + SLACK


@attrs.define(eq=False)
class Process:
    """A process that is told what to do, a line at a time, and answers in JSON lines."""

    process: subprocess.Popen[str]

    async def ask(self, word: str) -> dict[str, Any]:
        """Say a word, and take in the next line."""
        self.tell(word)
        return await self.line()

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        print(word, file=self.process.stdin, flush=True)

    async def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = await trio.to_thread.run_sync(self.process.stdout.readline, abandon_on_cancel=True)
        assert line.endswith("\n"), "it has ended"
        said: dict[str, Any] = json.loads(line)
        return said


@asynccontextmanager
async def running(script: str, *arguments: object) -> AsyncIterator[Process]:
    """A script of this directory, as a process, within the block."""
    process = start_python(Path(__file__).with_name(script).read_text(), arguments)
    try:
        yield Process(process)
        assert process.stdin is not None
        process.stdin.close()
        await until(lambda: process.poll() is not None)
    finally:
        process.kill()
        errors = end_process(process)
        assert "Traceback" not in errors, errors


@attrs.define(eq=False)
class Live:
    """A subscriber that keeps up."""

    delays: list[float] = attrs.Factory(list)
    sequences: list[int] = attrs.Factory(list)
    digest: hashlib._Hash = attrs.Factory(hashlib.sha256)

    async def follow(self, listening: dict[str, Any], frames: int, size: int) -> None:
        tls = moqtrio.ClientTls(fingerprint=listening["fingerprint"])
        async with (
            moqtrio.open_session(listening["url"], tls=tls) as session,
            session.subscribe(BROADCAST, TRACK, start=0) as subscription,
        ):
            async for group in subscription:
                assert not isinstance(group, moqtrio.Gap)
                index = 0
                while batch := await group.receive_batch():
                    now = microseconds()
                    for frame in batch:
                        self.delays.append((now - frame.timestamp_us) / 1e6)
                        assert frame.payload == payload(group.sequence, index, size)
                        self.digest.update(b"%d %d " % (frame.timestamp_us, len(frame.payload)))
                        self.digest.update(frame.payload)
                        index += 1
                assert index == frames
                self.sequences.append(group.sequence)


def p99(delays: Iterable[float]) -> float:
    return statistics.quantiles(delays, n=100)[98]


async def all_gone(server: Process) -> dict[str, Any]:
    """What a server holds when but the live subscriber and the recorder follow its track."""
    with trio.fail_after(20):
        while (held := await server.ask("look"))["followers"] > 2:  # noqa: ASYNC110  # not ours
            await trio.sleep(0.05)
    return held


async def test_fifty_readers_that_stop_and_go_on(tmp_path: Path) -> None:
    frames, size = 10, 1200
    live = Live()
    async with running("slow_readers_server.py", tmp_path / "s", frames, size) as server:
        listening = await server.line()
        where = (listening["url"], listening["fingerprint"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(live.follow, listening, frames, size)
            await until(lambda: live.sequences)
            before = await server.ask("look")
            async with running("slow_readers.py", *where, READERS, 0, "first") as readers:
                assert await readers.line() == {"stopped": READERS}
                server.tell("pace 0.01")
                # Several times what the server, the windows and the pins last.
                await until(lambda: len(live.sequences) > 250)
                stopped, quiet = await server.ask("look"), len(live.delays)
                server.tell("pace 0.05")
                readers.tell("read")
                with trio.fail_after(60):
                    await until(lambda: len(live.sequences) > 300)
                    server.tell("finish")
                    got = [await readers.line() for _ in range(READERS)]
                ended = await server.ask("look")
    end = ended["edge"]
    assert live.sequences == list(range(end))
    for each in got:
        assert (each["gaps"], each["resets"]) == ([], [])
        assert each["sequences"] == list(range(end))
        assert each["digest"] == live.digest.hexdigest(), "other bytes"
    assert ended["lost"] == 0
    assert ended["loads"] > before["loads"]
    growth = max(stopped["most"], ended["most"]) - before["rss"]
    delays = p99(live.delays[:quiet]), p99(live.delays[quiet:])
    print(f"RSS +{growth / MIB:.1f} of {BOUND / MIB:.1f} MiB, p99 {delays} s")
    assert growth <= BOUND
    assert delays[0] < 1.0, "those that have stopped are in the way"
    assert delays[1] < 3.0, "those that are caught up are in the way"


async def test_fifty_readers_that_stop_for_ever(tmp_path: Path) -> None:
    """Each within another group: none of these stays in memory for them."""
    frames, size = 10, 100_000
    live = Live()
    async with running("slow_readers_server.py", tmp_path / "s", frames, size) as server:
        listening = await server.line()
        where = (listening["url"], listening["fingerprint"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(live.follow, listening, frames, size)
            server.tell("pace 0.2")
            await until(lambda: len(live.sequences) > 5)
            before = await server.ask("look")
            async with running("slow_readers.py", *where, READERS, 0.2, "latest") as readers:
                with trio.fail_after(60):
                    assert await readers.line() == {"stopped": READERS}
                await trio.sleep(2 * SERVING.pin_seconds)
                stopped = await server.ask("look")
                assert stopped["followers"] == READERS + 2
            left = await all_gone(server)
            server.tell("finish")
    assert stopped["edge"] - before["edge"] > READERS // 2, "they share few groups"
    assert left["lost"] == 0
    growth = stopped["rss"] - before["rss"]
    print(
        f"RSS +{growth / MIB:.1f} of {BOUND / MIB:.1f} MiB, p99 {p99(live.delays):.3f} s", stopped
    )
    assert growth <= BOUND


async def test_readers_that_are_gone_hold_nothing(tmp_path: Path) -> None:
    """P13, for those that had gone over to the store."""
    live = Live()
    async with running("slow_readers_server.py", tmp_path / "s", 10, 20_000) as server:
        listening = await server.line()
        where = (listening["url"], listening["fingerprint"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(live.follow, listening, 10, 20_000)
            server.tell("pace 0.05")
            await until(lambda: len(live.sequences) > 30)
            server.tell("pace 1000")
            async with running("slow_readers.py", *where, 10, 0, "first") as readers:
                await readers.line()
                stopped = await server.ask("look")
                assert stopped["store_readers"] > 0
            left = await all_gone(server)
            assert left["store_readers"] == 0
            server.tell("finish")
