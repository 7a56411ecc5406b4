"""A server whose disk fills up while it records, and has room again later. Run as a script.

It is a process of its own because a limit on file sizes, which stands in for a full disk where
none can be mounted, holds for a whole process. Arguments: the store's directory, and how to
fill its disk. Prints "well" if everything went as it should.
"""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

import trio
from e2e_tools import BROADCAST, TRACK, Follower, Shape, publish_group, serving, until

import moqtrio
from moqtrio import SqliteStore, StreamCode

SHAPE = Shape(5, 4000)
# More than memory may hold, so that some of it is lost while nothing can be recorded.
WHILE_FULL = 300
MAX_BYTES = 2 * 2**20
NOBODY = 65534


class Limit:
    """Files that may not grow."""

    def fill(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))

    def free(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


class Ballast:
    """A file that takes all the room there is."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "ballast"

    def fill(self) -> None:
        with self.path.open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass

    def free(self) -> None:
        self.path.unlink()


class Permissions:
    """A directory in which no file can be made."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "store"
        if os.geteuid() == 0:  # whom no permission stops
            os.chown(directory, NOBODY, NOBODY)
            os.seteuid(NOBODY)

    def fill(self) -> None:
        self.path.chmod(0o500)

    def free(self) -> None:
        self.path.chmod(0o700)


def disk_of(directory: Path, how: str) -> Limit | Ballast | Permissions:
    """What there is to fill, and to free again."""
    if how == "limit":
        return Limit()
    return Ballast(directory) if how == "ballast" else Permissions(directory)


async def main(directory: str, how: str) -> None:
    disk = disk_of(Path(directory), how)
    slice_bytes = 200_000 if how == "permissions" else 20 * 2**20
    origin = moqtrio.Origin()
    async with (
        SqliteStore.open(Path(directory) / "store", slice_bytes=slice_bytes) as store,
        serving(origin) as server,
    ):
        track = origin.create_broadcast(BROADCAST).create_track(
            TRACK, store=store, cache_age=0.0, cache_bytes=0, max_bytes=MAX_BYTES
        )
        live = Follower()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(live.connect_and_follow, server)

            async def publish(count: int) -> None:
                for _ in range(count):
                    sequence = publish_group(track, SHAPE)
                    await until(lambda last=sequence: last in live.complete)

            await publish(20)
            await track.wait_durable()
            disk.fill()
            await publish(WHILE_FULL)
            assert store.statistics().failures > 0
            assert store.statistics().last_error
            held = track.statistics()
            assert held.bytes <= MAX_BYTES + SHAPE.frames * SHAPE.size
            assert held.lost > 0
            assert held.durable_end is not None
            assert held.durable_end < 20 + WHILE_FULL
            disk.free()
            await track.wait_durable()
            await publish(20)
            await track.wait_durable()
            recorded = store.statistics().written_groups
            lost = track.statistics().lost
            end = 40 + WHILE_FULL
            assert recorded >= end - lost, "what was in memory must have been recorded"
            track.log.evict()
            late = Follower()
            nursery.start_soon(late.connect_and_follow, server)
            await until(lambda: len(late.accounted()) >= end)
            track.finish()
        live.check_whole(SHAPE, 0, end)
        assert late.ended
        assert late.start == 0
        assert late.accounted() == list(range(end)), "every sequence, once"
        late.check_frames(SHAPE)
        assert {gap.code for gap in late.gaps} | set(late.reset.values()) == {StreamCode.EVICTED}
        assert len(late.complete) == end - lost
        assert set(range(20)) | set(range(end - 20, end)) <= set(late.complete)
    print("well")


if __name__ == "__main__":
    trio.run(main, *sys.argv[1:])
