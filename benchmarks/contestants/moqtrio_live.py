"""moqtrio: a live track, from memory."""

from __future__ import annotations

import trio

import moqtrio

from ..job import Job, Meter
from ._moqtrio import line_from_runner, publish, serving, subscribe

__all__ = ["serve", "subscribe"]


def serve(job: Job) -> None:
    trio.run(_serve, job)


async def _serve(job: Job) -> None:
    origin = moqtrio.Origin()
    track = origin.create_broadcast("bench").create_track("track")
    async with serving(origin):
        await line_from_runner()
        meter = Meter(job)
        await publish(job, meter, track)
        track.finish()
        await line_from_runner()
        meter.report()
