"""moqtrio: a live track that is recorded at the same time."""

from __future__ import annotations

from pathlib import Path

import trio

import moqtrio

from ..job import Job, Meter
from ._moqtrio import line_from_runner, publish, serving, subscribe

__all__ = ["serve", "subscribe"]

RETENTION_SECONDS = 3600.0
# Small enough to bind before the cache's age does: memory must not depend on the rate.
CACHE_BYTES = 2**20


def serve(job: Job) -> None:
    trio.run(_serve, job)


async def _serve(job: Job) -> None:
    origin = moqtrio.Origin()
    store_directory = Path(job.directory) / "store"
    async with moqtrio.SqliteStore.open(store_directory, retention=RETENTION_SECONDS) as store:
        broadcast = origin.create_broadcast("bench")
        track = broadcast.create_track("track", store=store, cache_bytes=CACHE_BYTES)
        async with serving(origin):
            await line_from_runner()
            meter = Meter(job)
            await publish(job, meter, track)
            track.finish()
            await line_from_runner()
            meter.report()
