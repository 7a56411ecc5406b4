"""A server that records as fast as it can, to be killed. Run as a script.

Arguments: the store's directory, and a word that goes into every frame of this run. Prints
JSON lines: where it listens, then, time and again, how far it is durable. A line on standard
input makes it finish the track; the end of standard input makes it go.
"""

from __future__ import annotations

import json
import sys
from functools import partial

import trio

import moqtrio

FRAMES, SIZE = 10, 1200


def payload(run: str, sequence: int, index: int) -> bytes:
    """Says which run wrote it, and where."""
    return f"{run}/{sequence}/{index}|".encode().ljust(SIZE, b".")


def say(**message: object) -> None:
    print(json.dumps(message), flush=True)


async def record(track: moqtrio.Track, run: str, finish: trio.Event) -> None:
    said = -1
    while not finish.is_set():
        with track.append_group() as group:
            for index in range(FRAMES):
                group.write_frame(payload(run, group.sequence, index))
        await track.wait_durable(2**20)
        statistics = track.statistics()
        if statistics.durable_end != said:
            said = statistics.durable_end
            say(durable_end=said, lost=statistics.lost)
    track.finish()
    await track.wait_durable()
    say(durable_end=track.log.next_sequence, lost=track.statistics().lost)


async def main(directory: str, run: str) -> None:
    origin = moqtrio.Origin()
    async with (
        moqtrio.SqliteStore.open(directory, slice_bytes=2_000_000) as store,
        trio.open_nursery() as nursery,
    ):
        track = origin.create_broadcast("events").create_track("all", store=store, cache_age=0.0)
        listener = await nursery.start(
            partial(moqtrio.serve, origin, "moqt://127.0.0.1:0", tls=moqtrio.generate_certificate())
        )
        say(
            url=listener.url,
            fingerprint=listener.fingerprint,
            first=track.log.next_sequence,
        )
        finish = trio.Event()
        nursery.start_soon(record, track, run, finish)
        while await trio.to_thread.run_sync(sys.stdin.readline):
            finish.set()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
