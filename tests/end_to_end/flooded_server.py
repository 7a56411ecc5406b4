"""A server that looks at its own memory. Run as a script.

Told to "look" on standard input, it prints how much memory it has, and the most it has had since
it was last asked. At the end of its input it goes.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from functools import partial

import trio
from slow_readers_server import Observer, say

import moqtrio

FRAME = bytes(60_000)


async def answer(requests: moqtrio.ReplayRequests) -> None:
    """Old groups of a megabyte, for whoever asks."""

    async def write(request: moqtrio.ReplayRequest) -> None:
        with suppress(trio.BrokenResourceError), request, request.accept() as group:
            for _ in range(16):
                await group.send_frame(FRAME)

    async with trio.open_nursery() as nursery:
        async for request in requests:
            nursery.start_soon(write, request)


async def main() -> None:
    origin, observer = moqtrio.Origin(), Observer()
    broadcast = origin.create_broadcast("b")
    track = broadcast.create_track("t")
    for _ in range(50):
        with track.append_group() as group:
            for _ in range(16):
                group.write_frame(FRAME)
    on_demand = broadcast.create_track("on-demand", first_sequence=100_000)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer, on_demand.requests())
        listener = await nursery.start(
            partial(moqtrio.serve, origin, "moqt://127.0.0.1:0", tls=moqtrio.generate_certificate())
        )
        nursery.start_soon(observer.watch)
        say(url=listener.url, port=listener.port, fingerprint=listener.fingerprint)
        while await trio.to_thread.run_sync(sys.stdin.readline):
            now = observer.look()
            say(rss=now, most=observer.most)
            observer.most = now
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main)
