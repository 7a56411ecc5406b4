"""moq-rs from PyPI: its own server and client, through its own Python interface."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import moq

from ..job import Job, Meter, emit, frame_payload, timestamp_us
from ._asyncio import line_from_runner, publish

# Nothing is too old: a benchmark that loses groups measures something else.
MAX_AGE_US = 24 * 3600 * 1_000_000
CACHE_BYTES = 256 * 1024 * 1024


def serve(job: Job) -> None:
    asyncio.run(_serve(job))


def subscribe(job: Job) -> None:
    asyncio.run(_subscribe(job))


async def _serve(job: Job) -> None:
    payload = frame_payload(job.shape)
    frames = range(job.shape.frames)
    origin = moq.OriginProducer(cache_capacity_bytes=CACHE_BYTES)
    async with moq.Server("127.0.0.1:0", tls_generate=["localhost"], publish=origin) as server:
        broadcast = server.create_broadcast("bench")
        track = broadcast.publish_track("track", moq.TrackInfo(max_age_us=MAX_AGE_US))
        broadcast.announce()
        emit(
            "listening",
            url=f"moqt://{server.local_addr}",
            fingerprint=server.cert_fingerprints()[0],
        )
        accepting = asyncio.create_task(_accept(server))
        await line_from_runner()
        meter = Meter(job)

        def publish_frame(sequence: int) -> None:
            track.write_frame(payload, timestamp_us(sequence, 0))

        def publish_group(sequence: int) -> None:
            group = track.append_group()
            for index in frames:
                group.write_frame(payload, timestamp_us(sequence, index))
            group.finish()

        await publish(job, meter, publish_frame if job.shape.frames == 1 else publish_group)
        track.finish()
        await line_from_runner()
        meter.report()
        accepting.cancel()


async def _accept(server: moq.Server) -> None:
    """Hold the one session of a run, as ``Server.serve`` would."""
    async for request in server:
        session = await request.accept()
        with suppress(moq.Error):
            await session.closed()


async def _subscribe(job: Job) -> None:
    meter = Meter(job)
    async with moq.connect(
        job.url, tls_fingerprints=[job.fingerprint], websocket_enabled=False, reconnect=False
    ) as client:
        broadcast = await client.announced_broadcast("bench")
        everything = moq.Subscription(group_start=0, max_age_us=MAX_AGE_US)
        track = await broadcast.subscribe_track("track", everything)
        emit("subscribed")
        meter.start()
        # read_frame() is a quarter faster for groups of one frame, but skips groups.
        while (group := await track.recv_group()) is not None:
            while (frame := await group.read_frame()) is not None:
                meter.frame(frame.payload)
            meter.group()
        meter.report()
