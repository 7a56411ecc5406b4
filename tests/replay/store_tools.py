"""What the tests of the stores share."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import trio

from moqtrio.errors import ReplayError
from moqtrio.model.frame import Frame
from moqtrio.model.group import FINISHED, Aborted, GroupEnd
from moqtrio.model.source import END, GroupReader, Missing, Pending, Ready, ReplaySource
from moqtrio.replay.target import GroupWrite


def frames_of(sequence: int, count: int, size: int, *, first: int = 0) -> list[Frame]:
    """Frames whose bytes and timestamps nobody could mistake for another's."""
    return [
        Frame(f"{sequence}/{index}|".encode().ljust(size, b"."), sequence * 1000 + index)
        for index in range(first, first + count)
    ]


def whole(sequence: int, count: int = 1, size: int = 100, end: GroupEnd = FINISHED) -> GroupWrite:
    """A group in one write."""
    return GroupWrite(sequence, 0, frames_of(sequence, count, size), end)


async def find_group(source: ReplaySource, sequence: int) -> GroupReader | Missing:
    """Poll until the source knows."""
    while True:
        answer = source.poll_group(sequence)
        if isinstance(answer, Ready):
            return answer.value
        if isinstance(answer, Missing):
            return answer
        await answer.wait()


async def read_some(reader: GroupReader, max_bytes: int = 65536) -> Sequence[Frame]:
    """Poll until there are frames; none at the end."""
    while True:
        answer = reader.poll_frames(max_bytes)
        if answer is END:
            return []
        if isinstance(answer, Ready):
            assert answer.value, "an answer has at least one frame"
            return answer.value
        assert isinstance(answer, Pending)
        await answer.wait()


async def read_rest(reader: GroupReader, max_bytes: int = 65536) -> list[Frame]:
    """Every further frame of a group that is complete."""
    frames: list[Frame] = []
    while some := await read_some(reader, max_bytes):
        frames += some
    return frames


async def read_group(
    source: ReplaySource, sequence: int, max_bytes: int = 65536
) -> tuple[list[Frame], GroupEnd | None] | Missing:
    """A group's frames and how it ended, None where an error with code 0 ended it."""
    reader = await find_group(source, sequence)
    if isinstance(reader, Missing):
        return reader
    frames: list[Frame] = []
    try:
        while some := await read_some(reader, max_bytes):
            frames += some
        return frames, FINISHED
    except ReplayError as error:
        if error.retryable:
            raise
        return frames, Aborted(error.code) if error.code else None
    finally:
        reader.close()


async def read_sequences(source: ReplaySource, end: int) -> list[int]:
    """The sequences below ``end`` that the source has, by going where Missing points."""
    found: list[int] = []
    sequence: int | None = 0
    while sequence is not None and sequence < end:
        answer = await find_group(source, sequence)
        if isinstance(answer, Missing):
            assert answer.next_available is None or answer.next_available > sequence
            sequence = answer.next_available
        else:
            answer.close()
            found.append(sequence)
            sequence += 1
    return found


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what worker threads bring about, whatever Trio's clock does meanwhile."""
    for _ in range(5000):
        if condition():
            return
        await trio.to_thread.run_sync(time.sleep, 0.002)
    raise AssertionError("it did not come about within about ten seconds")


def files(directory: Path, pattern: str) -> list[Path]:
    """The files that match, in order of their names."""
    return sorted(directory.glob(pattern))


def start_python(script: str, arguments: Iterable[object]) -> subprocess.Popen[str]:
    """Run a script in a process of its own, its output in a pipe."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
    )
