"""The subscribers' processes: one that follows live, or some that join late."""

from __future__ import annotations

import time
from contextlib import AbstractAsyncContextManager

import attrs
import trio

import moqtrio

from ..contestants._moqtrio import line_from_runner
from ..job import cpu_seconds, emit
from .history import BROADCAST, TRACK
from .jobs import Subscriber

CHECKED_EVERY = 8
"""Of this many groups one is compared byte for byte: all of them would cost a tenth of what
receiving them does."""


def follow(job: Subscriber) -> None:
    """Follow live; tell how late the frames were, between any two lines from the runner."""
    trio.run(_follow, job)


def join(job: Subscriber) -> None:
    """Join late, as often and for as long as the job says."""
    trio.run(_join, job)


def first(job: Subscriber) -> None:
    """Ask for one group after the other, and tell how long each took."""
    trio.run(_first, job)


def _connect(job: Subscriber) -> AbstractAsyncContextManager[moqtrio.Session]:
    tls = moqtrio.ClientTls(fingerprint=job.fingerprint)
    return moqtrio.open_session(job.url, tls=tls)


# Live


async def _follow(job: Subscriber) -> None:
    delays: list[int] = []
    async with _connect(job) as session, trio.open_nursery() as nursery:
        subscription = await nursery.start(_subscribe_live, session)
        nursery.start_soon(_take_delays, subscription, job.history.end, delays)
        emit("ready")
        while await line_from_runner():
            emit("delays", microseconds=delays)
            delays.clear()
        nursery.cancel_scope.cancel()


async def _subscribe_live(
    session: moqtrio.Session, *, task_status: trio.TaskStatus[moqtrio.Subscription]
) -> None:
    async with session.subscribe(BROADCAST, TRACK) as subscription:
        task_status.started(subscription)
        await trio.sleep_forever()


async def _take_delays(
    subscription: moqtrio.Subscription, history_end: int, delays: list[int]
) -> None:
    async for item in subscription:
        if not isinstance(item, moqtrio.GroupConsumer):
            raise AssertionError(f"a live subscriber was told of {item}")
        if item.sequence < history_end:
            continue  # the latest there was when it came
        while batch := await item.receive_batch():
            now = time.monotonic_ns() // 1000
            delays += [now - frame.timestamp_us for frame in batch]


# Joining late


@attrs.define
class Taken:
    """What all joiners of a process took."""

    groups: int = 0
    frames: int = 0
    bytes: int = 0


async def _join(job: Subscriber) -> None:
    taken = Taken()
    connected = [trio.Event() for _ in job.starts]
    go = trio.Event()
    async with trio.open_nursery() as nursery:
        for start, event in zip(job.starts, connected, strict=True):
            nursery.start_soon(_joiner, job, start, taken, event, go)
        for event in connected:
            await event.wait()
        emit("ready")
        await line_from_runner()
        began, used = time.perf_counter(), cpu_seconds()
        go.set()
        if job.seconds:
            await trio.sleep(job.seconds)
            nursery.cancel_scope.cancel()
    emit(
        "result",
        **attrs.asdict(taken),
        seconds=time.perf_counter() - began,
        cpu_seconds=cpu_seconds() - used,
    )
    await line_from_runner()


async def _joiner(
    job: Subscriber, start: int, taken: Taken, connected: trio.Event, go: trio.Event
) -> None:
    async with _connect(job) as session:
        connected.set()
        await go.wait()
        while True:
            await _replay(session, job, start, taken)
            start = 0
            if not job.seconds:
                return


async def _replay(session: moqtrio.Session, job: Subscriber, start: int, taken: Taken) -> None:
    history = job.history
    expected = start
    async with session.subscribe(BROADCAST, TRACK, start=start, end=history.end) as subscription:
        async for item in subscription:
            if not isinstance(item, moqtrio.GroupConsumer) or item.sequence != expected:
                raise AssertionError(f"group {expected} was due, not {item}")
            expected += 1
            frames = []
            while batch := await item.receive_batch():
                frames += batch
                taken.frames += len(batch)
                taken.bytes += sum([len(frame.payload) for frame in batch])
            taken.groups += 1
            if item.sequence % CHECKED_EVERY == 0:
                history.check(item.sequence, frames)
    if expected != history.end:
        raise AssertionError(f"the replay ended at group {expected}, not {history.end}")


# The first group


async def _first(job: Subscriber) -> None:
    waits: list[tuple[float, float]] = []
    async with _connect(job) as session:
        emit("ready")
        await line_from_runner()
        for sequence in job.firsts:
            waits.append(await _ask(session, job, sequence))
    emit("result", milliseconds=waits)
    await line_from_runner()


async def _ask(session: moqtrio.Session, job: Subscriber, sequence: int) -> tuple[float, float]:
    """Milliseconds to the first frame of a group, and to the whole of it."""
    asked = time.perf_counter()
    async with session.subscribe(
        BROADCAST, TRACK, start=sequence, end=sequence + 1
    ) as subscription:
        group = await subscription.receive()
        assert isinstance(group, moqtrio.GroupConsumer)
        frames = await group.receive_batch()
        first_frame = time.perf_counter()
        frames += await group.read_all()
        last_frame = time.perf_counter()
    job.history.check(sequence, frames)
    return (first_frame - asked) * 1e3, (last_frame - asked) * 1e3
