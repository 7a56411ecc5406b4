"""A server that publishes at an even pace and looks at itself. Run as a script.

Arguments: the store's directory; how many frames a group has, and of how many bytes. Its
memory is small, so that whoever stops reading soon finds what it wants in the store only.

It does what it is told on standard input: "look", to print what it holds, and the most that
it has held since it was last asked; "pace", and the seconds between groups from now on;
"finish", to finish the track. At the end of its input it goes.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial

import attrs
import psutil
import trio

import moqtrio
from moqtrio import SessionSettings, TransportSettings
from moqtrio.session.serving import ServingLimits

CACHE_AGE = 0.5
LOG_BYTES = 512 * 1024
STORE_CACHE_BYTES = 4 * 2**20
SERVING = ServingLimits(pin_seconds=1.0)
TRANSPORT = TransportSettings(
    stream_send_high=64 * 1024,
    stream_send_low=32 * 1024,
    connection_send_high=256 * 1024,
    connection_send_low=128 * 1024,
)


def payload(sequence: int, index: int, size: int) -> bytes:
    """Bytes that nobody could mistake for another frame's."""
    return f"{sequence}/{index}|".encode().ljust(size, b".")


def microseconds() -> int:
    """A time that means the same to all processes of this machine."""
    return time.monotonic_ns() // 1000


def say(**message: object) -> None:
    print(json.dumps(message), flush=True)


@attrs.define(eq=False)
class Observer:
    """What the process holds of memory."""

    sessions: list[moqtrio.Session] = attrs.Factory(list)
    process: psutil.Process = attrs.Factory(psutil.Process)
    most: int = 0

    async def watch(self) -> None:
        while True:
            self.look()
            await trio.sleep(0.02)

    def look(self) -> int:
        now: int = self.process.memory_info().rss
        self.most = max(self.most, now)
        return now

    def report(self, track: moqtrio.Track, store: moqtrio.SqliteStore) -> None:
        now, log = self.look(), track.statistics()
        say(
            rss=now,
            most=self.most,
            edge=log.next_sequence,
            log_bytes=log.bytes,
            lost=log.lost,
            followers=len(track.log.watchers),
            store_readers=store.statistics().readers,
            loads=store.statistics().loads,
            unsent=max((each.statistics().send_buffered for each in self.sessions), default=0),
        )
        self.most = 0


@attrs.define(eq=False)
class Publisher:
    """Publishes groups of one shape."""

    track: moqtrio.Track
    frames: int
    size: int
    pace: float = 1.0
    changed: trio.Event = attrs.Factory(trio.Event)
    finishing: bool = False

    async def publish(self) -> None:
        while not self.finishing:
            with self.track.append_group() as group:
                for index in range(self.frames):
                    group.write_frame(payload(group.sequence, index, self.size), microseconds())
            with trio.move_on_after(self.pace):
                await self.changed.wait()
                self.changed = trio.Event()
        self.track.finish()

    def obey(self, word: str, *values: str) -> None:
        """Change the pace, or finish."""
        if word == "pace":
            self.pace = float(values[0])
        else:
            self.finishing = True
        self.changed.set()


async def main(directory: str, frames: str, size: str) -> None:
    origin, observer = moqtrio.Origin(), Observer()
    async with (
        moqtrio.SqliteStore.open(directory, cache_bytes=STORE_CACHE_BYTES) as store,
        trio.open_nursery() as nursery,
    ):
        track = origin.create_broadcast("events").create_track(
            "all", store=store, cache_age=CACHE_AGE, cache_bytes=LOG_BYTES
        )
        serve = partial(
            moqtrio.serve,
            origin,
            "moqt://127.0.0.1:0",
            tls=moqtrio.generate_certificate(),
            on_session=observer.sessions.append,
            settings=SessionSettings(serving=SERVING),
            transport=TRANSPORT,
        )
        listener = await nursery.start(serve)
        nursery.start_soon(observer.watch)
        publisher = Publisher(track, int(frames), int(size))
        nursery.start_soon(publisher.publish)
        say(url=listener.url, fingerprint=listener.fingerprint)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            if line == "look\n":
                observer.report(track, store)
            else:
                publisher.obey(*line.split())
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
