"""A server of a track whose groups, of one small frame each, go out as datagrams."""

from __future__ import annotations

import json
from functools import partial

import trio

import moqtrio


async def main() -> None:
    origin = moqtrio.Origin()
    track = origin.create_broadcast("b").create_track("t", datagrams=True)
    async with trio.open_nursery() as nursery:
        tls = moqtrio.generate_certificate()
        listener = await nursery.start(
            partial(moqtrio.serve, origin, "moqt://127.0.0.1:0", tls=tls)
        )
        print(json.dumps({"port": listener.port, "fingerprint": listener.fingerprint}), flush=True)
        while True:
            track.write_frame(b"as a datagram", timestamp_us=1_500_000)
            await trio.sleep(0.02)


if __name__ == "__main__":
    trio.run(main)
