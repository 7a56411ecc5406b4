"""Follow the clock of ``publisher.py`` from the oldest group there is."""

from __future__ import annotations

import sys

import trio

import moqtrio


async def main(url: str, fingerprint: str) -> None:
    tls = moqtrio.ClientTls(fingerprint=fingerprint)
    async with (
        moqtrio.open_session(url, tls=tls) as session,
        session.subscribe("clock", "utc", start=0) as subscription,
    ):
        async for item in subscription:
            match item:
                case moqtrio.Gap(start, end, code):
                    print(f"groups {start} to {end - 1} are missing (code {code})")
                case moqtrio.GroupConsumer() as group:
                    async for frame in group:
                        print(group.sequence, frame.payload.decode())


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: follower.py URL FINGERPRINT, as the publisher prints them")
    trio.run(main, sys.argv[1], sys.argv[2])
