"""What the end-to-end tests share: a server on loopback, tracks with known bytes, followers."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import attrs
import trio

import moqtrio
from moqtrio import Frame, Gap, SessionSettings, Track, TransportSettings

TLS = moqtrio.generate_certificate()
CLIENT_TLS = moqtrio.ClientTls(fingerprint=TLS.fingerprint)

BROADCAST = "events"
TRACK = "all"

# Small enough to be full soon: what a subscriber that does not read can hold.
SMALL_WINDOWS = TransportSettings(
    stream_window=32 * 1024, connection_window=128 * 1024, max_streams_uni=64
)


@attrs.frozen
class Shape:
    """How many frames a group has, and of how many bytes."""

    frames: int
    size: int


def frame_of(sequence: int, index: int, size: int) -> Frame:
    """Bytes and a timestamp that nobody could mistake for another frame's."""
    head = f"{sequence}/{index}|".encode()
    return Frame(head.ljust(size, b".")[: max(size, len(head))], sequence * 1000 + index)


def frames_of(sequence: int, shape: Shape) -> list[Frame]:
    """Every frame of a group."""
    return [frame_of(sequence, index, shape.size) for index in range(shape.frames)]


def publish_group(track: Track, shape: Shape, sequence: int | None = None) -> int:
    """Publish one whole group; returns its sequence."""
    with track.append_group() if sequence is None else track.create_group(sequence) as group:
        for frame in frames_of(group.sequence, shape):
            group.write_frame(frame.payload, frame.timestamp_us)
    return group.sequence


async def publish_history(track: Track, shape: Shape, count: int) -> None:
    """Publish groups, and wait until memory has forgotten all but the last."""
    for _ in range(count):
        publish_group(track, shape)
        await track.wait_durable(8 * 2**20)
    await track.wait_durable()
    track.log.evict()
    statistics = track.statistics()
    assert (statistics.groups, statistics.lost) == (1, 0), statistics
    assert statistics.oldest == statistics.next_sequence - 1


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait for what other tasks, threads and packets bring about."""
    with trio.move_on_after(seconds):
        while not condition():  # noqa: ASYNC110  # it is counters that change
            await trio.sleep(0.002)
        return
    raise AssertionError(f"it did not come about within {seconds} s")


@attrs.define(eq=False)
class Server:
    """A running server, and the sessions it has had."""

    origin: moqtrio.Origin
    listener: moqtrio.Listener
    sessions: list[moqtrio.Session]
    scope: trio.CancelScope
    stopped: trio.Event = attrs.Factory(trio.Event)

    def connect(self, **options: Any) -> Any:
        """A client's session, as a context manager."""
        return moqtrio.open_session(self.listener.url, tls=CLIENT_TLS, **options)


@asynccontextmanager
async def serving(
    origin: moqtrio.Origin,
    *,
    settings: SessionSettings | None = None,
    transport: TransportSettings | None = None,
) -> AsyncIterator[Server]:
    """Serve ``origin`` on loopback within the block."""
    sessions: list[moqtrio.Session] = []
    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        stopped = trio.Event()

        async def run(*, task_status: trio.TaskStatus[moqtrio.Listener]) -> None:
            with scope:
                await moqtrio.serve(
                    origin,
                    "moqt://127.0.0.1:0",
                    tls=TLS,
                    on_session=sessions.append,
                    settings=settings,
                    transport=transport,
                    task_status=task_status,
                )
            stopped.set()

        listener = await nursery.start(run)
        yield Server(origin, listener, sessions, scope, stopped)
        scope.cancel()


@attrs.define(eq=False)
class Follower:
    """Takes everything a subscription has to give, and remembers it."""

    groups: dict[int, list[Frame]] = attrs.Factory(dict)
    """What came, by sequence; grows as frames come."""
    complete: list[int] = attrs.Factory(list)
    """The sequences that came to their end, in that order."""
    reset: dict[int, int] = attrs.Factory(dict)
    """The codes of groups that ended early."""
    gaps: list[Gap] = attrs.Factory(list)
    start: int | None = None
    final: int | None = None
    ended: bool = False
    error: Exception | None = None

    async def follow(
        self,
        session: moqtrio.Session,
        *,
        start: int | None = 0,
        end: int | None = None,
        order: Literal["sequence", "arrival"] = "sequence",
        track: str = TRACK,
        broadcast: str = BROADCAST,
        stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Subscribe, and read to the end, or until ``stop`` says so between two items."""
        async with session.subscribe(
            broadcast, track, start=start, end=end, order=order
        ) as subscription:
            await self.read(subscription, stop)

    async def connect_and_follow(self, server: Server, **options: Any) -> None:
        """The same on a connection of its own."""
        async with server.connect() as session:
            await self.follow(session, **options)

    async def read(
        self, subscription: moqtrio.Subscription, stop: Callable[[], bool] = lambda: False
    ) -> None:
        """Read a subscription to its end, or until ``stop`` says so between two items."""
        try:
            async for item in subscription:
                self.start = subscription.start
                await self.take(item)
                if stop():
                    return
            self.ended = True
        except moqtrio.MoqError as error:
            self.error = error
        finally:
            self.start = subscription.start
            self.final = subscription.final

    async def take(self, item: moqtrio.GroupConsumer | Gap) -> None:
        """Read one item to its end."""
        if isinstance(item, Gap):
            self.gaps.append(item)
            return
        sequence = item.sequence
        assert sequence not in self.groups, f"group {sequence} came twice"
        frames = self.groups[sequence] = []
        try:
            while batch := await item.receive_batch():
                frames += batch
        except moqtrio.StreamReset as error:
            self.reset[sequence] = error.code
        else:
            self.complete.append(sequence)

    def accounted(self) -> list[int]:
        """Every sequence that came, was reset or is in a gap, in order; twice where it was
        accounted for twice."""
        gaps = [sequence for gap in self.gaps for sequence in range(gap.start, gap.end)]
        return sorted([*self.complete, *self.reset, *gaps])

    def check_frames(self, shape: Shape) -> None:
        """Every group that came to its end is, byte for byte, what was published."""
        for sequence in self.complete:
            assert self.groups[sequence] == frames_of(sequence, shape), f"group {sequence}"
        for sequence in self.reset:
            frames = self.groups[sequence]
            assert frames == frames_of(sequence, shape)[: len(frames)], f"group {sequence}"

    def check_whole(self, shape: Shape, first: int, end: int) -> None:
        """Every sequence in [first, end) came, once, in order, byte for byte, and nothing else."""
        assert self.error is None
        assert self.gaps == []
        assert self.reset == {}
        assert self.start == first
        assert sorted(self.complete) == list(range(first, end))
        self.check_frames(shape)


def start_python(script: str, arguments: Iterable[object]) -> subprocess.Popen[str]:
    """Run a script in a process of its own, its input and output in pipes."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
    )


def end_process(process: subprocess.Popen[str]) -> str:
    """Wait for a process that is ending, close its pipes, and return what it complained of."""
    process.wait(timeout=20)
    assert process.stderr is not None
    errors = process.stderr.read()
    for pipe in (process.stdin, process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()
    return errors
