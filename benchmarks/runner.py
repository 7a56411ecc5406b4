"""Runs one server and one subscriber in processes of their own and collects the results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from .contestants import CONTESTANTS
from .job import Job
from .shapes import Shape

ROOT = Path(__file__).resolve().parent.parent
SLACK_SECONDS = 60.0


class RunFailed(Exception):
    """A child process ended, or said something else than what was due."""


@attrs.frozen
class Side:
    """What one process measured, from the first group to the last."""

    groups: int
    frames: int
    bytes: int
    seconds: float
    cpu_seconds: float
    peak_resident_bytes: int
    samples: list[tuple[int, int]] = attrs.field(factory=list)
    profile: str = ""


@attrs.frozen
class Run:
    """One contestant, one shape, once."""

    contestant: str
    shape: Shape
    server: Side
    subscriber: Side

    @property
    def lost_groups(self) -> int:
        return self.server.groups - self.subscriber.groups


class Child:
    """A process that speaks JSON lines."""

    def __init__(self, process: trio.Process, side: str) -> None:
        self._process = process
        self._side = side
        self._buffer = b""
        self.samples: list[tuple[int, int]] = []
        self.profile = ""

    async def expect(self, kind: str) -> dict[str, Any]:
        """The next message of this kind; memory samples before it are kept."""
        while (message := await self._next_message()) is not None:
            if message["type"] == kind:
                return message
            if message["type"] != "sample":
                raise RunFailed(f"the {self._side} sent {message['type']!r}, not {kind!r}")
            self.samples.append((message["groups"], message["resident_bytes"]))
        raise RunFailed(f"the {self._side} ended without {kind!r}")

    async def end(self) -> None:
        """Wait until it has ended. Raises RunFailed where it failed."""
        if await self._process.wait():
            raise RunFailed(f"the {self._side} ended with {self._process.returncode}")

    async def say(self, text: str) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send_all(text.encode() + b"\n")

    async def _next_message(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            data = await self._process.stdout.receive_some()
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message


@attrs.frozen
class Plan:
    """How much to do in one run."""

    seconds: float
    groups: int = 0
    sample_every: int = 0
    profile: str = ""
    deadline: float | None = None
    version: str = ""


async def run_once(contestant: str, shape: Shape, plan: Plan) -> Run:
    """One run; :exc:`RunFailed` or :exc:`trio.TooSlowError` where it does not come off."""
    credit_read, credit_write = os.pipe()
    deadline = plan.seconds + SLACK_SECONDS if plan.deadline is None else plan.deadline
    cores = sorted(os.sched_getaffinity(0))
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as directory, trio.fail_after(deadline):
            job = Job(
                contestant=contestant,
                shape=shape,
                seconds=plan.seconds,
                groups=plan.groups,
                window=CONTESTANTS[contestant].window(shape),
                credit_fd=credit_read,
                core=cores[0],
                directory=directory,
                sample_every=plan.sample_every,
                profile=plan.profile == "serve",
                scheme=CONTESTANTS[contestant].scheme,
                version=plan.version,
            )
            async with child("serve", job) as server:
                listening = await server.expect("listening")
                subscriber_job = attrs.evolve(
                    job,
                    credit_fd=credit_write,
                    core=cores[-1],
                    url=listening["url"],
                    fingerprint=listening["fingerprint"],
                    profile=plan.profile == "subscribe",
                )
                async with child("subscribe", subscriber_job) as subscriber:
                    return await measure(server, subscriber, job, plan.profile)
    finally:
        os.close(credit_read)
        os.close(credit_write)


async def measure(server: Child, subscriber: Child, job: Job, profile: str) -> Run:
    await subscriber.expect("subscribed")
    await server.say("go")
    async with trio.open_nursery() as nursery:
        # A server's samples have to be read while it runs, or its output pipe fills up.
        server_result = Result(server, job.profile)
        nursery.start_soon(server_result.collect)
        subscriber_result = Result(subscriber, profile == "subscribe")
        await subscriber_result.collect()
        await server.say("stop")
    return Run(job.contestant, job.shape, server_result.side(), subscriber_result.side())


class Result:
    """Waits for what one side measured."""

    def __init__(self, child: Child, profiled: bool) -> None:
        self._child = child
        self._profiled = profiled
        self._fields: dict[str, Any] = {}
        self._profile = ""

    async def collect(self) -> None:
        self._fields = await self._child.expect("result")
        if self._profiled:
            self._profile = (await self._child.expect("profile"))["text"]

    def side(self) -> Side:
        fields = {name: value for name, value in self._fields.items() if name != "type"}
        return Side(**fields, samples=self._child.samples, profile=self._profile)


def child(side: str, job: Job) -> AbstractAsyncContextManager[Child]:
    """One side of a run."""
    return spawn(side, "benchmarks.child", side, job.dump(), pass_fds=[job.credit_fd])


@asynccontextmanager
async def spawn(name: str, *arguments: str, pass_fds: Sequence[int] = ()) -> AsyncIterator[Child]:
    """A child process (of ``python -m arguments``) that does not outlive the block."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=pass_fds,
        cwd=ROOT,
    )
    try:
        yield Child(process, name)
        with trio.move_on_after(5):
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                await pipe.aclose()
