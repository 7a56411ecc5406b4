"""A server that records a busy track, to be killed. Run as a script.

Arguments: the store's directory, and a word that goes into every frame of this run. It does
what it is told on standard input, a line each: "open" the store and listen, "record" until
told otherwise, "finish" the track. At the end of its input it goes.

Prints JSON lines: where it listens; what the store holds before anything is recorded; then,
after commits, what is durable: of the groups this run has begun, all but those "open", and of
those as many frames as it says.
"""

from __future__ import annotations

import json
import sys
from functools import partial

import attrs
import trio

import moqtrio

SLICE_BYTES = 128 * 1024
RETENTION_BYTES = 2 * 2**20

LONG, ABORTED = 32, 7
ABORT_CODE = 9
# Frames and bytes of each: packs of many, rows of their own, several chunks, many frames.
SHAPES = [(1, 80), (10, 1200), (3, 20_000), (2, 100), (40, 500), (1, 70_000), (1, 300)]
# Open for as many groups: several slices.
LONG_SHAPE = (40, 1500)


def is_long(sequence: int) -> bool:
    """Whether a group stays open while others come and go."""
    return sequence % LONG == 0


def is_aborted(sequence: int) -> bool:
    """Whether a group ends with an error after its frames."""
    return sequence % LONG == ABORTED


def shape_of(sequence: int) -> tuple[int, int]:
    """How many frames a group has, and of how many bytes."""
    return LONG_SHAPE if is_long(sequence) else SHAPES[sequence % len(SHAPES)]


def payload(run: str, sequence: int, index: int) -> bytes:
    """Says which run wrote it, and where."""
    return f"{run}/{sequence}/{index}|".encode().ljust(shape_of(sequence)[1], b".")


def say(**message: object) -> None:
    print(json.dumps(message), flush=True)


@attrs.define(eq=False)
class Publisher:
    """Publishes groups of all kinds, as fast as they are recorded."""

    track: moqtrio.Track
    run: str
    finish: trio.Event
    open: list[tuple[moqtrio.GroupProducer, int]] = attrs.Factory(list)

    async def publish(self) -> None:
        while not self.finish.is_set():
            group = self.track.append_group()
            self.open.append((group, 0))
            self.open = [each for each in map(self.write_some, self.open) if each is not None]
            await self.track.wait_durable(2 * SLICE_BYTES)
        for group, _ in self.open:
            group.abort(ABORT_CODE)
        self.track.finish()

    def write_some(
        self, entry: tuple[moqtrio.GroupProducer, int]
    ) -> tuple[moqtrio.GroupProducer, int] | None:
        """One frame of a long group, all of another; None when that was its end."""
        group, written = entry
        sequence = group.sequence
        frames, _ = shape_of(sequence)
        more = 1 if is_long(sequence) else frames
        for index in range(written, written + more):
            group.write_frame(payload(self.run, sequence, index))
        if written + more < frames:
            return group, written + more
        if is_aborted(sequence):
            group.abort(ABORT_CODE)
        else:
            group.finish()
        return None


async def report(track: moqtrio.Track, store: moqtrio.SqliteStore) -> None:
    """Say what is durable whenever more is."""
    commits = 0
    while True:
        statistics = store.statistics()
        if statistics.commits != commits:
            commits = statistics.commits
            log = track.log
            say(
                end=log.next_sequence,
                open={group.sequence: group.recorded for group in log.unrecorded()},
                lost=log.statistics().lost,
                evicted_slices=statistics.evicted_slices,
                failures=statistics.failures,
            )
        await trio.sleep(0.005)


async def main(directory: str, run: str) -> None:
    origin = moqtrio.Origin()
    certificate = moqtrio.generate_certificate()
    if sys.stdin.readline() != "open\n":
        return
    async with (
        moqtrio.SqliteStore.open(
            directory, slice_bytes=SLICE_BYTES, retention_bytes=RETENTION_BYTES
        ) as store,
        trio.open_nursery() as nursery,
    ):
        # A store that was full may have something to remove at once.
        await store.apply_retention()
        track = origin.create_broadcast("events").create_track("all", store=store, cache_age=0.0)
        source = store.track("events", "all")
        listener = await nursery.start(
            partial(moqtrio.serve, origin, "moqt://127.0.0.1:0", tls=certificate)
        )
        bounds = source.bounds()
        say(
            url=listener.url,
            fingerprint=listener.fingerprint,
            first=track.log.next_sequence,
            oldest=bounds.oldest,
            epoch=bounds.epoch,
        )
        finish = trio.Event()
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            if line == "record\n":
                nursery.start_soon(Publisher(track, run, finish).publish)
                nursery.start_soon(report, track, store)
            elif line == "finish\n":
                finish.set()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
