"""Subscribers that stop reading. Run as a script.

Arguments: the server's URL and fingerprint, how many there are, the seconds between two of
them, and whether they begin with the "first" group or the "latest". Each has a connection of
its own, reads one frame of its first group, and stops.

Prints a JSON line when all have stopped. Told to "read", they read everything there is, and it
prints what each of them got. At the end of its input it goes.
"""

from __future__ import annotations

import hashlib
import json
import sys

import attrs
import trio
from e2e_tools import BROADCAST, SMALL_WINDOWS, TRACK

import moqtrio


@attrs.define(eq=False)
class Reader:
    """One of them, and a hash over all it got, in order."""

    digest: hashlib._Hash = attrs.Factory(hashlib.sha256)
    sequences: list[int] = attrs.Factory(list)
    gaps: list[tuple[int, int, int]] = attrs.Factory(list)
    resets: list[int] = attrs.Factory(list)

    async def run(
        self, session: moqtrio.Session, start: int | None, go: trio.Event, stopped: trio.Event
    ) -> None:
        async with session.subscribe(BROADCAST, TRACK, start=start) as subscription:
            group = await anext(subscription)
            assert not isinstance(group, moqtrio.Gap)
            self.take([await group.receive()])
            stopped.set()
            await go.wait()
            await self.read(group)
            async for item in subscription:
                if isinstance(item, moqtrio.Gap):
                    self.gaps.append((item.start, item.end, item.code))
                else:
                    await self.read(item)

    async def read(self, group: moqtrio.GroupConsumer) -> None:
        try:
            while batch := await group.receive_batch():
                self.take(batch)
        except moqtrio.StreamReset:
            self.resets.append(group.sequence)
        else:
            self.sequences.append(group.sequence)

    def take(self, frames: list[moqtrio.Frame]) -> None:
        for frame in frames:
            self.digest.update(b"%d %d " % (frame.timestamp_us, len(frame.payload)))
            self.digest.update(frame.payload)

    def say(self) -> None:
        said = {
            "digest": self.digest.hexdigest(),
            "sequences": self.sequences,
            "gaps": self.gaps,
            "resets": self.resets,
        }
        print(json.dumps(said), flush=True)


async def main(url: str, fingerprint: str, count: str, pace: str, where: str) -> None:
    tls = moqtrio.ClientTls(fingerprint=fingerprint)
    go = trio.Event()
    start = 0 if where == "first" else None

    async def run_reader(*, task_status: trio.TaskStatus[None]) -> None:
        reader, stopped = Reader(), trio.Event()
        async with (
            moqtrio.open_session(url, tls=tls, transport=SMALL_WINDOWS) as session,
            trio.open_nursery() as tasks,
        ):
            tasks.start_soon(reader.run, session, start, go, stopped)
            await stopped.wait()
            task_status.started()
        reader.say()

    async def run_all(*, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as readers:
            for _ in range(int(count)):
                await readers.start(run_reader)
                await trio.sleep(float(pace))
            task_status.started()

    async with trio.open_nursery() as nursery:
        await nursery.start(run_all)
        print(json.dumps({"stopped": int(count)}), flush=True)
        while await trio.to_thread.run_sync(sys.stdin.readline):
            go.set()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
