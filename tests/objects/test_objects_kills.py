"""A process that records and archives is killed at any point, again and again."""

from __future__ import annotations

import random
import signal
from pathlib import Path
from typing import Any

from object_tools import BROADCAST, TRACK, check, drop_hot, objects_of, tiered, tiered_track
from obstore.store import LocalStore
from store_tools import read_sequences, start_python

from moqtrio.replay.objects import ObjectStore

_KILLS = 5

_SCRIPT = """
import sys
sys.path.insert(0, sys.argv[4])
import trio
from moqtrio.model.group import FINISHED
from moqtrio.replay.objects import TieredStore
from moqtrio.replay.target import GroupWrite
from store_tools import frames_of

async def main():
    async with TieredStore.open(
        sys.argv[1], sys.argv[2], slice_bytes=30_000, hot_retention=0.05, orphan_age=0.0
    ) as store:
        track = store._hot.track("live/a", "all")
        sequence = track.next_sequence
        print("epoch", track.row.epoch, flush=True)
        while True:
            group = GroupWrite(sequence, 0, frames_of(sequence, 3, 2000), FINISHED)
            await track.write([group])
            print("durable", sequence, flush=True)
            sequence += 1

trio.run(main)
"""


async def test_what_was_durable_is_found_in_one_tier_or_the_other(tmp_path: Path) -> None:
    """Nothing durable is lost, no sequence is used twice, nothing is left behind for long."""
    rng = random.Random(7)
    hot, cold = tmp_path / "hot", tmp_path / "cold"
    durable: list[int] = []
    epochs = set()
    for _ in range(_KILLS):
        process = start_python(
            _SCRIPT, [hot, cold.as_uri(), "", Path(__file__).parents[1] / "replay"]
        )
        assert process.stdout is not None
        wanted = rng.randrange(1, 60)
        written = 0
        for line in process.stdout:
            name, number = line.split()
            if name == "epoch":
                epochs.add(int(number))
            else:
                durable.append(int(number))
                written += 1
            if written >= wanted:
                break
        process.send_signal(signal.SIGKILL)
        durable += [int(line.split()[1]) for line in process.stdout if line.endswith("\n")]
        process.wait()
        process.stdout.close()
        assert process.stderr is not None
        assert not process.stderr.read()
        process.stderr.close()
    assert len(epochs) == 1
    assert len(set(durable)) == len(durable), "a sequence was used twice"
    objects: Any = LocalStore(cold)
    async with tiered(hot, objects, orphan_age=0.0) as store:
        track = tiered_track(store)
        found = await read_sequences(track, 2**62)
        assert set(durable) <= set(found)
        assert len(found) <= len(durable) + _KILLS, "at most one was not reported in time"
        for sequence in found:
            await check(track, sequence, sequence + 1)
        await store.archive()
        await drop_hot(store)
        assert await read_sequences(track, 2**62) == found
        for sequence in found:
            await check(track, sequence, sequence + 1)
        manifest = store._collection.manifest
        sources = [each.source for each in manifest.slices.values()]
        assert len(set(sources)) == len(sources)
    names = {name for name in objects_of(objects) if name.startswith("slices/")}
    known = {each.name for each in manifest.slices.values()}
    assert known <= names
    assert names - known <= {each.name for each in manifest.doomed}
    async with ObjectStore.open(objects) as reader:
        assert await read_sequences(reader.track(BROADCAST, TRACK), 2**62) == found
