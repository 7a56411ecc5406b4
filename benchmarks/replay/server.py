"""The server's process: serves a store, and publishes live when it is told to."""

from __future__ import annotations

import gc
import time

import trio

import moqtrio

from ..contestants._moqtrio import line_from_runner, serving
from ..firehose import arrivals
from ..job import cpu_seconds, emit, peak_resident_bytes, resident_bytes
from .history import BROADCAST, TRACK, History
from .jobs import Server

LIVE_SEED = 5


def serve(job: Server) -> None:
    trio.run(_serve, job)


async def _serve(job: Server) -> None:
    origin = moqtrio.Origin()
    async with moqtrio.SqliteStore.open(job.directory) as store:
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store)
        async with serving(origin):
            await _obey(track, job.history)


async def _obey(track: moqtrio.Track, history: History) -> None:
    """``publish`` begins to publish live, ``quiet`` ends it; each line is answered with what
    the process has used so far."""
    async with trio.open_nursery() as nursery:
        publishing = trio.CancelScope()
        while line := await line_from_runner():
            publishing.cancel()
            if line == "publish":
                history.frames(history.end)  # making up the firehose takes half a second
                gc.collect()
                gc.freeze()  # as moqtrio serve does
                publishing = trio.CancelScope()
                nursery.start_soon(_publish, track, history, publishing)
            emit(
                "usage",
                cpu_seconds=cpu_seconds(),
                resident_bytes=resident_bytes(),
                peak_resident_bytes=peak_resident_bytes(),
            )
        nursery.cancel_scope.cancel()


async def _publish(track: moqtrio.Track, history: History, scope: trio.CancelScope) -> None:
    """Publish at the firehose's pace. A frame's timestamp is when it was due, on the clock
    that all processes share: a server that is late is late for its subscribers."""
    began, epoch = trio.current_time(), time.monotonic()
    times = arrivals(LIVE_SEED)
    with scope:
        while True:
            group = track.append_group()
            try:
                for payload in history.frames(group.sequence):
                    due = next(times)
                    if began + due > trio.current_time():  # what is late goes together
                        await trio.sleep_until(began + due)
                    group.write_frame(payload, int((epoch + due) * 1e6))
            finally:
                group.finish()
