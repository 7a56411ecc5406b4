"""Runs the real command in processes of its own, bounded in time."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio

TIME_LIMIT = 60.0
MOQTRIO = (sys.executable, "-W", "error", "-m", "moqtrio")
INTERRUPT = signal.SIGINT


@attrs.frozen
class Done:
    """How a command ended, and what it printed."""

    code: int
    out: bytes
    err: str

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


async def run_moqtrio(*arguments: str, stdin: bytes = b"") -> Done:
    """Run a command to its end."""
    with trio.fail_after(TIME_LIMIT):
        done = await trio.run_process(
            [*MOQTRIO, *arguments],
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    return Done(done.returncode, done.stdout, done.stderr.decode())


class Running:
    """A command that runs until it is told to end. Made by :func:`running_moqtrio`."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self._unread = b""

    async def read_line(self) -> bytes:
        """The next line of its output; ``b""`` at the end."""
        assert self.process.stdout is not None
        while b"\n" not in self._unread:
            chunk = await self.process.stdout.receive_some()
            if not chunk:
                return b""
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line + b"\n"

    async def read_message(self) -> dict[str, Any]:
        """The next JSON object it prints."""
        line = await self.read_line()
        assert line, "the command ended"
        message: dict[str, Any] = json.loads(line)
        return message

    async def interrupt(self) -> Done:
        """Press Ctrl-C, and wait for the end."""
        self.process.send_signal(INTERRUPT)
        return await self.wait()

    async def wait(self) -> Done:
        """Read the rest of its output and wait for its end."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        out = self._unread + b"".join([chunk async for chunk in self.process.stdout])
        err = b"".join([chunk async for chunk in self.process.stderr])
        return Done(await self.process.wait(), out, err.decode())


@asynccontextmanager
async def running_moqtrio(
    *arguments: str, stdin: int = subprocess.DEVNULL
) -> AsyncIterator[Running]:
    """Run a command while inside, for at most ``TIME_LIMIT``."""
    start = partial(
        trio.run_process,
        [*MOQTRIO, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
    )
    with trio.fail_after(TIME_LIMIT):
        async with trio.open_nursery() as nursery:
            process = await nursery.start(start)
            yield Running(process)
            nursery.cancel_scope.cancel()


@attrs.frozen
class Server:
    """A server that is ready, and how to reach it."""

    running: Running
    url: str
    fingerprint: str

    @property
    def pinned(self) -> tuple[str, ...]:
        return ("--tls-fingerprint", self.fingerprint)

    async def subscribe(self, *arguments: str) -> Done:
        """``moqtrio subscribe`` to the track ``b`` ``t`` of this server."""
        return await run_moqtrio("subscribe", self.url, "b", "t", *self.pinned, *arguments)


@asynccontextmanager
async def serving(*arguments: str, stdin: int = subprocess.DEVNULL) -> AsyncIterator[Server]:
    """``moqtrio serve`` the track ``b`` ``t`` on a free port of the loopback interface."""
    async with running_moqtrio(
        *("serve", "moqt://127.0.0.1:0", "--broadcast", "b", "--track", "t"),
        *("--tls-generate", "localhost"),
        *arguments,
        stdin=stdin,
    ) as running:
        ready = await running.read_message()
        assert ready["type"] == "listening"
        assert set(ready) == {"type", "url", "fingerprint"}
        yield Server(running, ready["url"], ready["fingerprint"])
