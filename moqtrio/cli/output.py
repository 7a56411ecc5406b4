"""Standard output: written by a task of its own, so that a slow pipe delays only its reader."""

from __future__ import annotations

import json
import math
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio

from ..model import Wakeup
from .failures import Failure, OutputClosed

_STANDARD_OUTPUT = 1
_HIGH_WATER = 1 << 20
# Each write is a hop to a thread and back, which costs as much as receiving some groups.
_WORTH_A_WRITE = 64 * 1024
_GATHER = 0.005
# What was received should reach a file also when the command is interrupted; a pipe
# nobody reads must not keep it from ending.
_GRACE = 1.0


def encode_json(message: dict[str, Any]) -> bytes:
    """One object as one line."""
    return json.dumps(message, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


class Output:
    """Bytes on their way to a file descriptor, in order, gathered while a write is under way.

    Made by :func:`open_output`.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()
        self._writing = False
        self._failed = False
        self._written_at = -math.inf
        self._wakeup = Wakeup()
        self._progress = trio.Event()

    async def write(self, data: bytes) -> None:
        """Take ``data``; waits only while more than 1 MiB is still to be written."""
        self._buffer += data
        self._wakeup.set()
        while len(self._buffer) > _HIGH_WATER and not self._failed:
            await self._progress.wait()

    async def write_json(self, message: dict[str, Any]) -> None:
        """Take one JSON object, as a line."""
        await self.write(encode_json(message))

    async def drain(self) -> None:
        """Wait until everything taken so far is written (or nothing can be any more)."""
        while (self._buffer or self._writing) and not self._failed:
            await self._progress.wait()

    async def _run(
        self, *, task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.CancelScope(shield=True) as scope:
            task_status.started(scope)
            while True:
                await self._wakeup.wait()
                while self._buffer:
                    if len(self._buffer) < _WORTH_A_WRITE:
                        # At once after a silence; in a stream of small pieces, together.
                        await trio.sleep_until(self._written_at + _GATHER)
                    await self._write_out()

    async def _write_out(self) -> None:
        data, self._buffer = self._buffer, bytearray()
        self._writing = True
        try:
            await trio.to_thread.run_sync(
                _write_all, self._descriptor, data, abandon_on_cancel=True
            )
        except BrokenPipeError:
            self._failed = True
            raise OutputClosed from None
        except OSError as error:
            self._failed = True
            raise Failure(f"cannot write the output: {error.strerror}") from error
        finally:
            self._writing = False
            self._written_at = trio.current_time()
            self._progress.set()
            self._progress = trio.Event()


def _write_all(descriptor: int, data: bytearray) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


@asynccontextmanager
async def open_output(descriptor: int = _STANDARD_OUTPUT) -> AsyncIterator[Output]:
    """Write to ``descriptor`` while inside.

    Leaving waits until all is written; leaving because of an error or a cancellation waits
    a second at most. Raises OutputClosed as soon as the reader of a pipe has closed it.
    """
    output = Output(descriptor)
    async with trio.open_nursery() as nursery:
        writer = await nursery.start(output._run)
        try:
            yield output
            await output.drain()
        finally:
            with trio.move_on_after(_GRACE, shield=True):
                await output.drain()
            writer.cancel()
