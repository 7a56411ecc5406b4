"""A server that subscribes to what its clients publish, and prints the frames that come.

``python receiver.py BROADCAST TRACK`` prints one line when it listens, and one per frame.
"""

from __future__ import annotations

import json
import sys
from functools import partial

import trio

import moqtrio


async def main() -> None:
    broadcast, track = sys.argv[1:]
    async with trio.open_nursery() as nursery:

        def follow(session: moqtrio.Session) -> None:
            nursery.start_soon(receive, session, broadcast, track)

        listener = await nursery.start(
            partial(
                moqtrio.serve,
                moqtrio.Origin(),
                "moqt://127.0.0.1:0",
                tls=moqtrio.generate_certificate(),
                on_session=follow,
            )
        )
        emit(port=listener.port, fingerprint=listener.fingerprint)


async def receive(session: moqtrio.Session, broadcast: str, track: str) -> None:
    await session.wait_announced(broadcast)
    async with session.subscribe(broadcast, track) as subscription:
        async for item in subscription:
            assert not isinstance(item, moqtrio.Gap), item
            async for frame in item:
                text = frame.payload.decode()
                emit(group=item.sequence, timestamp_us=frame.timestamp_us, text=text)


def emit(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    trio.run(main)
