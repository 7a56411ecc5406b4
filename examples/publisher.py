"""Publish the time, a few times a second, with three days of history.

Run it, then ``python examples/follower.py URL FINGERPRINT`` with what it prints.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial

import trio

import moqtrio


async def main() -> None:
    origin = moqtrio.Origin()
    tls = moqtrio.generate_certificate()
    async with (
        moqtrio.SqliteStore.open("clock.store", retention=72 * 3600) as store,
        trio.open_nursery() as nursery,
    ):
        track = origin.create_broadcast("clock").create_track("utc", store=store, cache_age=5.0)
        listener = await nursery.start(partial(moqtrio.serve, origin, "https://[::]:4443", tls=tls))
        print(listener.url, listener.fingerprint)
        while True:
            with track.append_group() as group:
                group.write_frame(datetime.now(UTC).isoformat().encode())
            await trio.sleep(0.2)


if __name__ == "__main__":
    trio.run(main)
