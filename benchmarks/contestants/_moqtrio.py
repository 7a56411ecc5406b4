"""What the runs of moqtrio share: a server, a subscriber, a publisher that keeps step."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import trio

import moqtrio
from moqtrio.wire import OFFERED, Version

from ..job import Job, Meter, Pacer, emit, frame_payload, timestamp_us


async def line_from_runner() -> str:
    """The next line of standard input, without blocking the event loop."""
    line: str = await trio.to_thread.run_sync(sys.stdin.readline, abandon_on_cancel=True)
    return line.strip()


@asynccontextmanager
async def serving(origin: moqtrio.Origin) -> AsyncIterator[None]:
    """Serve ``origin`` over the block, and tell the runner where."""
    tls = moqtrio.generate_certificate()
    async with trio.open_nursery() as nursery:
        listener = await nursery.start(
            functools.partial(moqtrio.serve, origin, "moqt://127.0.0.1:0", tls=tls)
        )
        emit("listening", url=listener.url, fingerprint=listener.fingerprint)
        yield
        nursery.cancel_scope.cancel()


def group_publisher(track: moqtrio.Track, job: Job) -> Callable[[int], None]:
    """A function that publishes one group, given its number."""
    payload = frame_payload(job.shape)
    frames = range(job.shape.frames)

    def publish_group(sequence: int) -> None:
        with track.append_group() as group:
            for index in frames:
                group.write_frame(payload, timestamp_us(sequence, index))

    return publish_group


async def publish(job: Job, meter: Meter, track: moqtrio.Track) -> None:
    """Publish as fast as the subscriber takes, until the job is done."""
    pacer = Pacer(job)
    publish_group = group_publisher(track, job)
    async with trio.lowlevel.FdStream(job.credit_fd) as reports:
        while not pacer.finished:
            for _ in range(pacer.room()):
                publish_group(pacer.published)
                pacer.published += 1
                meter.groups += 1
                meter.sample()
            if pacer.room() > 0:
                await trio.lowlevel.checkpoint()
            else:
                pacer.acknowledge(await reports.receive_some(65536))


def subscribe(job: Job) -> None:
    trio.run(_subscribe, job)


async def _subscribe(job: Job) -> None:
    meter = Meter(job)
    tls = moqtrio.ClientTls(fingerprint=job.fingerprint)
    url = f"{job.scheme}:{job.url.partition(':')[2]}"
    async with moqtrio.open_session(url, tls=tls, versions=_versions(job)) as session:
        meter.start()
        async with session.subscribe("bench", "track", start=0) as subscription:
            emit("subscribed")
            async for item in subscription:
                await _take(item, meter)
                # What is there already costs no checkpoint.
                with suppress(trio.WouldBlock, trio.EndOfChannel):
                    while True:
                        await _take(subscription.receive_nowait(), meter)
            meter.report()


def _versions(job: Job) -> Sequence[Version]:
    return [version for version in OFFERED if job.version in ("", version.name)]


async def _take(item: moqtrio.GroupConsumer | moqtrio.Gap, meter: Meter) -> None:
    if isinstance(item, moqtrio.Gap):
        return  # The runner sees how many groups there were.
    while batch := await item.receive_batch():
        for frame in batch:
            meter.frame(frame.payload)
    meter.group()
