"""A server that publishes for as long as it lives, to be killed and started again. Run as a script.

Arguments: the port (0 for a free one), the files of its certificate and key, a word that goes
into every frame, and the directory of its store, or nothing.

Prints a JSON line when it listens. It publishes a group every few milliseconds: mostly small,
every tenth large and written bit by bit. SIGTERM makes it finish the open groups and leave in
good order.
"""

from __future__ import annotations

import json
import signal
import sys
from contextlib import AsyncExitStack
from functools import partial

import trio

import moqtrio

LARGE_FRAMES = 40
LARGE_BYTES = 3000


def frames_of(sequence: int) -> int:
    return LARGE_FRAMES if sequence % 10 == 0 else 1 + sequence % 3


def payload(run: str, sequence: int, index: int) -> bytes:
    size = LARGE_BYTES if sequence % 10 == 0 else 50
    return f"{run}/{sequence}/{index}|".encode().ljust(size, b".")


async def publish(track: moqtrio.Track, run: str, stop: trio.Event) -> None:
    while not stop.is_set():
        with track.append_group() as group:
            for index in range(frames_of(group.sequence)):
                group.write_frame(payload(run, group.sequence, index))
                if index % 4 == 3:
                    await trio.sleep(0.002)
        await trio.sleep(0.003)


async def main(*arguments: str) -> None:
    port, certificate, key, run, *directory = arguments
    origin = moqtrio.Origin()
    async with AsyncExitStack() as stack:
        store = None
        if directory:
            store = await stack.enter_async_context(moqtrio.SqliteStore.open(directory[0]))
        track = origin.create_broadcast("events").create_track("all", store=store)
        nursery = await stack.enter_async_context(trio.open_nursery())
        tls = moqtrio.ServerTls.from_files(certificate, key)
        url = f"moqt://127.0.0.1:{port}"
        listener = await nursery.start(partial(moqtrio.serve, origin, url, tls=tls, tcp=False))
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            line = {"port": listener.port, "first": track.log.next_sequence, "epoch": track.epoch}
            print(json.dumps(line), flush=True)
            stop = trio.Event()
            async with trio.open_nursery() as publishing:
                publishing.start_soon(publish, track, run, stop)
                async for _ in signals:
                    break
                stop.set()
        await listener.go_away(grace=3)
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
