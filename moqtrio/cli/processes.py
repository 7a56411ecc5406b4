"""Other ``moqtrio`` commands as child processes, and the JSON lines they print."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio

from .failures import Failure

_LARGEST_LINE = 64 * 2**20


class Command:
    """One running ``moqtrio`` command. Made by :func:`open_command`."""

    def __init__(self, name: str, process: trio.Process) -> None:
        self._name = name
        self.process = process
        self._buffer = bytearray()

    async def receive_message(self) -> dict[str, Any] | None:
        """The next JSON object it prints; None at the end of its output."""
        while (end := self._buffer.find(b"\n")) < 0:
            assert self.process.stdout is not None
            chunk = await self.process.stdout.receive_some()
            if not chunk:
                return None
            self._buffer += chunk
            if len(self._buffer) > _LARGEST_LINE:
                raise Failure(f"moqtrio {self._name} printed a line without an end")
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        message: dict[str, Any] = json.loads(line)
        return message

    async def expect_message(self, kind: str) -> dict[str, Any]:
        """The next message of this type. Raises Failure where the output ends before it."""
        while (message := await self.receive_message()) is not None:
            if message["type"] == kind:
                return message
        code = await self.process.wait()
        raise Failure(f"moqtrio {self._name} ended (exit code {code}) without a {kind} message")


@asynccontextmanager
async def open_command(*arguments: str) -> AsyncIterator[Command]:
    """Run ``moqtrio ARGUMENTS --json`` while inside; leaving terminates it.

    Its standard error is this process's.
    """
    run = partial(
        trio.run_process,
        [sys.executable, "-m", "moqtrio", *arguments, "--json"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        check=False,
    )
    async with trio.open_nursery() as nursery:
        process = await nursery.start(run)
        try:
            yield Command(arguments[0], process)
        finally:
            nursery.cancel_scope.cancel()
