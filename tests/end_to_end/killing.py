"""What the tests that kill a recording server share: the process, and what is known of it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from e2e_tools import BROADCAST, TRACK, end_process, start_python, until
from recording_server import is_aborted, payload, shape_of

import moqtrio
from moqtrio import Gap


@attrs.define(eq=False)
class RecordingServer:
    """The server's process, and what it has said."""

    process: subprocess.Popen[str]
    listening: dict[str, Any] = attrs.Factory(dict)
    durable: dict[str, Any] = attrs.Factory(dict)
    over: bool = False

    async def read_output(self) -> None:
        """Take in what it says, until it is gone."""
        assert self.process.stdout is not None
        while line := await trio.to_thread.run_sync(self.process.stdout.readline):
            if not line.endswith("\n"):
                break  # torn by the kill
            said = json.loads(line)
            if "url" in said:
                self.listening = said
            else:
                self.durable = said
        self.over = True

    async def open(self) -> None:
        """Have it open its store, and wait until it listens."""
        self.tell("open")
        await until(lambda: self.listening or self.over)
        assert self.listening, "it did not start"

    def connect(self, **options: Any) -> Any:
        """A client's session, as a context manager."""
        tls = moqtrio.ClientTls(fingerprint=self.listening["fingerprint"])
        return moqtrio.open_session(self.listening["url"], tls=tls, **options)

    async def kill(self) -> None:
        """SIGKILL, and take in the rest of what it had said."""
        self.process.send_signal(signal.SIGKILL)
        await until(lambda: self.over)
        assert self.process.wait() == -signal.SIGKILL

    async def stop(self) -> None:
        """Have it go, in good order."""
        self.tell("")
        await until(lambda: self.over)
        assert self.process.wait() == 0

    def tell(self, word: str) -> None:
        """Say something to it; nothing to make it go."""
        assert self.process.stdin is not None
        if word:
            print(word, file=self.process.stdin, flush=True)
        else:
            self.process.stdin.close()


@asynccontextmanager
async def recording_servers(directory: Path) -> AsyncIterator[Callable[[str], RecordingServer]]:
    """Starts server processes of one store, given a name for each; within the block."""
    script = Path(__file__).with_name("recording_server.py").read_text()
    servers: list[RecordingServer] = []
    try:
        async with trio.open_nursery() as nursery:

            def start(run: str) -> RecordingServer:
                server = RecordingServer(start_python(script, [directory, run]))
                servers.append(server)
                nursery.start_soon(server.read_output)
                return server

            try:
                yield start
            finally:  # Else whoever reads their output waits for ever.
                for server in servers:
                    server.process.kill()
    finally:
        complaints = [end_process(server.process) for server in servers]
    assert not any("Traceback" in each or "lost" in each for each in complaints), complaints


@attrs.define(eq=False)
class Known:
    """What has been seen of one sequence, by whoever looked, whenever."""

    run: str
    frames: int = 0
    finished: bool = False


@attrs.define(eq=False)
class Delivered:
    """What one subscription was given."""

    start: int | None = None
    finished: set[int] = attrs.Factory(set)
    reset: dict[int, int] = attrs.Factory(dict)
    frames: dict[int, int] = attrs.Factory(dict)
    gaps: list[Gap] = attrs.Factory(list)
    ended: bool = False

    def accounted(self) -> list[int]:
        """Every sequence that came, was reset or is in a gap, in order."""
        return sorted([*self.finished, *self.reset, *self.dropped()])

    def dropped(self) -> dict[int, int]:
        """The code of every sequence that is in a gap."""
        return {each: gap.code for gap in self.gaps for each in range(gap.start, gap.end)}


@attrs.define(eq=False)
class Witness:
    """Follows one broadcast's track over all lives of its server, and remembers what every
    sequence meant. That it never means anything else is checked as frames come."""

    known: dict[int, Known] = attrs.Factory(dict)

    async def follow(
        self, session: moqtrio.Session, delivered: Delivered, start: int, end: int | None = None
    ) -> None:
        """Subscribe and read all groups side by side, until the end or the server's."""
        try:
            async with (
                session.subscribe(
                    BROADCAST, TRACK, start=start, end=end, order="arrival"
                ) as subscription,
                trio.open_nursery() as nursery,
            ):
                async for item in subscription:
                    if isinstance(item, Gap):
                        delivered.gaps.append(item)
                    else:
                        nursery.start_soon(self._read, item, delivered)
                delivered.start = subscription.start
            delivered.ended = True
        except* moqtrio.SessionClosed:
            pass

    async def _read(self, group: moqtrio.GroupConsumer, delivered: Delivered) -> None:
        sequence = group.sequence
        assert sequence not in delivered.frames, f"group {sequence} came twice"
        delivered.frames[sequence] = 0
        try:
            while batch := await group.receive_batch():
                self._check(sequence, delivered.frames[sequence], batch)
                delivered.frames[sequence] += len(batch)
        except moqtrio.StreamReset as error:
            delivered.reset[sequence] = error.code
        else:
            frames, _ = shape_of(sequence)
            assert not is_aborted(sequence), f"group {sequence} was aborted"
            assert delivered.frames[sequence] == frames, f"group {sequence} lacks its end"
            delivered.finished.add(sequence)
            self.known[sequence].finished = True

    def _check(self, sequence: int, first: int, frames: list[moqtrio.Frame]) -> None:
        run = frames[0].payload.split(b"/")[0].decode()
        known = self.known.setdefault(sequence, Known(run))
        assert known.run == run, f"group {sequence} had two contents, of {known.run} and {run}"
        for index, frame in enumerate(frames, first):
            assert frame.payload == payload(run, sequence, index), f"group {sequence}"
        known.frames = max(known.frames, first + len(frames))
