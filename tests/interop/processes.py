"""Runs the peers, and reads what they say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from .payloads import described

# The directory the package of these tests is importable from, and its name there.
IMPORT_ROOT = Path(__file__).resolve().parents[len(__package__.split("."))]
TIMEOUT_SECONDS = 20.0

Message = dict[str, Any]


class Program:
    """A process that speaks JSON lines.

    Lines that are not waited for are kept, so messages of different ids may be waited for
    in any order.
    """

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._buffer = b""
        self._unclaimed: list[Message] = []

    async def expect(self, type_: str, /, **fields: Any) -> Message:
        """The first message of this type with these fields that nobody waited for yet."""

        wanted = {"type": type_, **fields}
        for index, unclaimed in enumerate(self._unclaimed):
            if _matches(unclaimed, wanted):
                return self._unclaimed.pop(index)
        with trio.move_on_after(TIMEOUT_SECONDS):
            while (message := await self._next_message()) is not None:
                if _matches(message, wanted):
                    return message
                self._unclaimed.append(message)
        raise AssertionError(f"no {type_!r} with {fields}; instead: {self._unclaimed}")

    def unclaimed(self, type_: str, /, **fields: Any) -> list[Message]:
        """What came so far and nobody waited for."""
        wanted = {"type": type_, **fields}
        return [message for message in self._unclaimed if _matches(message, wanted)]

    async def groups(self, id: str, count: int) -> list[Message]:
        """The next groups of one subscription."""
        return [await self.expect("group", id=id) for _ in range(count)]

    async def send_line(self, line: str) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(line.encode() + b"\n")

    async def close_input(self) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.aclose()

    async def interrupt(self) -> int:
        """Press Ctrl-C; the status the program leaves with."""
        self._process.send_signal(signal.SIGINT)
        with trio.fail_after(TIMEOUT_SECONDS):
            return await self._process.wait()

    async def _next_message(self) -> Message | None:
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            data = await self._process.stdout.receive_some()
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: Message = json.loads(line)
        return message


def _matches(message: Message, wanted: Message) -> bool:
    return all(message.get(name) == value for name, value in wanted.items())


class MoqRs(Program):
    """A moq-rs endpoint (``peers/moq_rs.py``)."""

    url: str
    fingerprint: str

    async def do(self, name: str, **arguments: Any) -> None:
        """Give a command and wait until it is carried out."""
        await self.send_line(json.dumps({"do": name, **arguments}))
        await self.expect("done", do=name)


def import_path() -> str:
    """Where a child process finds these tests, before all else."""
    return os.pathsep.join(filter(None, [str(IMPORT_ROOT), os.environ.get("PYTHONPATH")]))


@asynccontextmanager
async def running(program: type[Program], command: Sequence[str]) -> AsyncIterator[Any]:
    """A process that is asked to end after the block, and does not outlive it."""
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": import_path()},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield program(process)
        await process.stdin.aclose()
        with trio.move_on_after(5):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            await trio.aclose_forcefully(process.stdin)
            await trio.aclose_forcefully(process.stdout)


@asynccontextmanager
async def moq_rs_server() -> AsyncIterator[MoqRs]:
    """A moq-rs server that relays what its clients publish."""
    command = [sys.executable, "-m", f"{__package__}.peers.moq_rs", "listen"]
    async with running(MoqRs, command) as server:
        listening = await server.expect("listening")
        server.url, server.fingerprint = listening["url"], listening["fingerprint"]
        yield server


@asynccontextmanager
async def moq_rs_client(
    url: str, fingerprint: str, *certificate_and_key: str
) -> AsyncIterator[MoqRs]:
    """A moq-rs client of whatever listens at ``url``."""
    peer = f"{__package__}.peers.moq_rs"
    command = [sys.executable, "-m", peer, "connect", url, fingerprint, *certificate_and_key]
    async with running(MoqRs, command) as client:
        await client.expect("connected")
        yield client


def assert_groups(groups: Sequence[Message], start: int, end: int, frames: int, size: int) -> None:
    """Every group of [start, end) came, once, with the bytes and timestamps it was given."""
    assert sorted(group["sequence"] for group in groups) == list(range(start, end))
    for group in groups:
        assert group["frames"] == described(group["sequence"], frames, size)
