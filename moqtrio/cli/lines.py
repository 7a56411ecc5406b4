"""Reading lines from a file, a pipe or a terminal, a batch at a time."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from .failures import Failure

_CHUNK = 256 * 1024
STANDARD_INPUT = "-"


class LineReader:
    """Splits what a file descriptor delivers at ``b"\\n"``, and at nothing else.

    Args:
        descriptor: what to read; it is not closed.
        name: what to call it in errors.
        max_line: bytes one line may have.
    """

    def __init__(self, descriptor: int, *, name: str, max_line: int) -> None:
        self._descriptor = descriptor
        self._name = name
        self._max_line = max_line
        self._pollable = _is_pollable(descriptor)
        self._rest: list[bytes] = []
        self._rest_size = 0
        self._count = 0

    async def receive_batch(self) -> list[bytes]:
        """The next lines, without their ``b"\\n"``; ``[]`` at the end of the input.

        A last line that lacks its ``b"\\n"`` is a line like the others. Raises Failure for
        a line above ``max_line``. Cancelling it may lose what was being read.
        """
        while chunk := await self._read():
            if lines := self._split(chunk):
                self._count += len(lines)
                return lines
        last = b"".join(self._rest)
        self._rest.clear()
        return [last] if last else []

    def _split(self, chunk: bytes) -> list[bytes]:
        *lines, rest = chunk.split(b"\n")
        if lines:
            lines[0] = b"".join((*self._rest, lines[0]))
            self._rest.clear()
            self._rest_size = 0
        if rest:
            self._rest.append(rest)
            self._rest_size += len(rest)
        for index, line in enumerate(lines):
            self._check(len(line), self._count + index + 1)
        self._check(self._rest_size, self._count + len(lines) + 1)
        return lines

    def _check(self, size: int, number: int) -> None:
        if size > self._max_line:
            raise Failure(
                f"line {number} of {self._name} has more than {self._max_line} bytes, "
                "the most one frame may have",
                "is it really lines of text?",
            )

    async def _read(self) -> bytes:
        if not self._pollable:
            # A regular file: always ready, but a disk may take its time.
            return await trio.to_thread.run_sync(
                os.read, self._descriptor, _CHUNK, abandon_on_cancel=True
            )
        # Readable, so that read() does not block: O_NONBLOCK is not set, because it would
        # be set for everyone who shares the pipe or terminal.
        await trio.lowlevel.wait_readable(self._descriptor)
        return os.read(self._descriptor, _CHUNK)


def _is_pollable(descriptor: int) -> bool:
    if os.name == "nt":
        return False
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or os.isatty(descriptor)


@asynccontextmanager
async def open_lines(path: str, *, max_line: int) -> AsyncIterator[LineReader]:
    """Read the lines of the file at ``path``, or of standard input for ``-``.

    Raises OSError where there is no such file.
    """
    if path == STANDARD_INPUT:
        yield LineReader(0, name="the standard input", max_line=max_line)
        return
    # In a thread: opening a named pipe waits for its writer.
    descriptor = await trio.to_thread.run_sync(os.open, path, os.O_RDONLY, abandon_on_cancel=True)
    try:
        yield LineReader(descriptor, name=path, max_line=max_line)
    finally:
        os.close(descriptor)
