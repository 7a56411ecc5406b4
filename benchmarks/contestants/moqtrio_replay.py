"""moqtrio: a track that is only on disk any more."""

from __future__ import annotations

from pathlib import Path

import trio

import moqtrio

from ..job import Job, Meter
from ._moqtrio import group_publisher, line_from_runner, serving, subscribe

__all__ = ["serve", "subscribe"]

RETENTION_SECONDS = 3600.0
AHEAD_OF_STORE_BYTES = 16 * 2**20
LEFT_IN_MEMORY = 1  # The latest group never leaves.


def serve(job: Job) -> None:
    trio.run(_serve, job)


async def _serve(job: Job) -> None:
    origin = moqtrio.Origin()
    store_directory = Path(job.directory) / "store"
    async with moqtrio.SqliteStore.open(store_directory, retention=RETENTION_SECONDS) as store:
        broadcast = origin.create_broadcast("bench")
        track = broadcast.create_track("track", store=store, cache_age=0.0, cache_bytes=0)
        await _record(job, track)
        async with serving(origin):
            # A subscriber does not wait for the runner's word to begin.
            meter = Meter(job)
            meter.groups = job.groups
            await line_from_runner()
            await line_from_runner()
            meter.report()


async def _record(job: Job, track: moqtrio.Track) -> None:
    """Publish everything before anybody listens, and have it forgotten."""
    publish_group = group_publisher(track, job)
    for sequence in range(job.groups):
        publish_group(sequence)
        await track.wait_durable(AHEAD_OF_STORE_BYTES)
    track.finish()
    await track.wait_durable()
    in_memory = track.statistics().groups
    if in_memory > LEFT_IN_MEMORY:
        raise AssertionError(f"{in_memory} groups are still in memory; a replay needs none")
