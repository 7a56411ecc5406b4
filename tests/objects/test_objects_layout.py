"""The bytes of an object and of the manifest."""

from __future__ import annotations

import json
import zlib
from bisect import bisect_left
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from object_tools import (
    BROADCAST,
    TRACK,
    check,
    drop_hot,
    hot_track,
    objects_of,
    record,
    tiered,
    tiered_track,
)
from obstore.store import MemoryStore
from store_tools import whole

from moqtrio.errors import ReplayError
from moqtrio.replay.objects.layout import (
    BLOCK_RECORDS,
    ChunkRecord,
    TrackIndexWriter,
    decode_directory,
    encode_directory,
)
from moqtrio.replay.objects.manifest import (
    Doomed,
    Manifest,
    ManifestSlice,
    ManifestTrack,
    SliceContent,
    decode_manifest,
    encode_manifest,
)
from moqtrio.replay.sqlite.chunks import DamagedChunk
from moqtrio.replay.sqlite.records import Content, Totals
from moqtrio.replay.target import GapWrite


@given(
    keys=st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 2000)),
        max_size=3 * BLOCK_RECORDS,
        unique=True,
    ),
    asked=st.lists(st.tuples(st.integers(-1, 41), st.integers(-1, 2001)), min_size=2, max_size=2),
    repeated=st.integers(1, 4),
)
def test_a_table_in_blocks_is_a_sorted_list(
    keys: list[tuple[int, int]], asked: list[tuple[int, int]], repeated: int
) -> None:
    everything = sorted(
        ChunkRecord(sequence, frame + 2001 * each, 7, 8)
        for sequence, frame in keys
        for each in range(repeated)
    )
    index = TrackIndexWriter(5, "a", "b", 9)
    for each in everything:
        index.add(each)
    pieces, entry = index.blocks(100)
    stored = b"".join(pieces)
    assert all(len(each) <= BLOCK_RECORDS * 32 for each in pieces)
    offset = 100 + len(stored)
    table = decode_directory(encode_directory([entry], offset), offset).tracks[5].chunks

    fetched = []

    def fetch(block: Any) -> list[Any]:
        fetched.append(block)
        return list(block.decode(stored[block.offset - 100 : block.end - 100]))

    start, end = sorted(asked)
    found = list(table.records(fetch, start, end))
    assert found == [each for each in everything if start <= each[:2] < end]
    assert len(fetched) <= len(found) // BLOCK_RECORDS + 2
    fetched.clear()
    position = bisect_left(everything, start, key=lambda each: each[:2])
    assert table.before(fetch, start) == (everything[position - 1] if position else None)
    assert len(fetched) <= 1


def test_every_byte_of_an_index_counts() -> None:
    index = TrackIndexWriter(5, "a", "b", 9)
    index.add(ChunkRecord(1, 2, 3, 4))
    pieces, entry = index.blocks(0)
    stored = pieces[0]
    directory = encode_directory([entry], len(stored))
    block = decode_directory(directory, len(stored)).tracks[5].chunks.blocks[0]
    for position in range(len(stored)):
        flipped = bytearray(stored)
        flipped[position] ^= 4
        with pytest.raises(DamagedChunk):
            block.decode(bytes(flipped))
    for position in range(len(directory)):
        flipped = bytearray(directory)
        flipped[position] ^= 4
        with pytest.raises(DamagedChunk):
            decode_directory(bytes(flipped), len(stored))
    for length in range(len(directory)):
        with pytest.raises(DamagedChunk):
            decode_directory(directory[:length], len(stored))


async def test_a_million_groups_are_looked_up_without_reading_all_about_them(
    tmp_path: Path,
) -> None:
    """What is kept of an index is bounded by what was asked, not by what there is."""
    async with tiered(tmp_path / "hot", MemoryStore(), slice_bytes=2**30) as store:
        for first in range(0, 100_000, 10_000):
            await hot_track(store).write(
                [whole(each, 1, 20) for each in range(first, first + 10_000)]
            )
        # And some of which each has an entry of its own.
        for first in range(100_000, 101_200, 60):
            await hot_track(store).write(
                [whole(each, 2, 40_000) for each in range(first, first + 60)]
            )
        await store.archive()
        await drop_hot(store)
        track = tiered_track(store)
        await check(track, 55_555, 55_558, count=1, size=20)
        await check(track, 100_700, 100_703, count=2, size=40_000)
        statistics = store.statistics().cold
        assert statistics.objects == 1
        assert statistics.loaded_bytes < statistics.object_bytes / 20
        assert store._collection.indexes._bytes < 1_000_000


MANIFEST = Manifest(
    writer="someone",
    generation=3,
    revision=77,
    next_number=12,
    tracks={
        1: ManifestTrack(1, "live/a", "all", 2**61, 2**40, {5: 6}, (GapWrite(1, 2, 53),)),
        4: ManifestTrack(4, "live/ä", "", 0, 0),
    },
    slices={
        9: ManifestSlice(
            9,
            "slices/00000001-00",
            "disk/1",
            1000,
            900,
            1.25,
            2.5,
            {
                1: SliceContent(7, Content(3, 9, 4, Totals(8, 700, -5, 2**60)), {2: 30}),
                4: SliceContent(8, Content()),
            },
        )
    },
    doomed=(Doomed("slices/x", 3.5),),
    store="this one",
)


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert decode_manifest(encode_manifest(MANIFEST), "it") == MANIFEST


@given(st.binary(max_size=200) | st.builds(zlib.compress, st.binary(max_size=200)))
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ReplayError, match="not the manifest") as raised:
        decode_manifest(data, "it")
    assert not raised.value.retryable


def test_a_manifest_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(ReplayError, match="not listed"):
        decode_manifest(encode_manifest(attrs.evolve(MANIFEST, tracks={})), "it")


@pytest.mark.parametrize("length", range(0, 200, 20))
def test_a_manifest_cut_short_is_refused(length: int) -> None:
    with pytest.raises(ReplayError, match="not the manifest"):
        decode_manifest(encode_manifest(MANIFEST)[:length], "it")


def test_a_manifest_of_a_newer_version_is_refused() -> None:
    document = json.loads(zlib.decompress(encode_manifest(MANIFEST)))
    document["version"] = 2
    document["slices"] = "something else"
    with pytest.raises(ReplayError, match="use the newer moqtrio") as raised:
        decode_manifest(zlib.compress(json.dumps(document).encode()), "it")
    assert not raised.value.retryable


def test_a_manifest_of_a_large_store_is_small() -> None:
    """Ten thousand slices, which are 1 TB: it is written again for each."""
    each = MANIFEST.slices[9]
    content = SliceContent(1, Content(10**6, 10**6 + 150, 150, Totals(9600, 96 * 10**6, 0, 9)))
    slices = {
        number: attrs.evolve(
            each,
            number=number,
            name=f"slices/{number:08d}-{hash(number) & 2**64 - 1:016x}",
            source=f"0123456789abcdef/{number}",
            contents={1: content},
        )
        for number in range(10_000)
    }
    assert len(encode_manifest(attrs.evolve(MANIFEST, slices=slices))) < 1_000_000


async def test_objects_say_themselves_what_is_in_them(tmp_path: Path) -> None:
    """Without the manifest, that is: for whoever has nothing else left."""
    cold = MemoryStore()
    async with tiered(tmp_path / "hot", cold) as store:
        await record(store, 0, 5)
        await store.archive()
        epoch = tiered_track(store).bounds().epoch
    (data,) = [data for name, data in objects_of(cold).items() if name.startswith("slices/")]
    directory_at = int.from_bytes(data[-32:-24], "little")
    document = json.loads(data[directory_at:-32])
    (entry,) = document["tracks"]
    assert (entry["broadcast"], entry["name"], entry["epoch"]) == (BROADCAST, TRACK, epoch)
