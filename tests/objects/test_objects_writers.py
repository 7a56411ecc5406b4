"""One writer at a time: the manifest is moved by conditional puts, which refuse all others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import pytest
import trio
from object_tools import (
    Endpoint,
    check,
    cold_slices,
    drop_hot,
    hot_track,
    objects_of,
    record,
    tiered,
    tiered_track,
)
from obstore.store import LocalStore, MemoryStore
from store_tools import eventually, find_group, frames_of, read_sequences, whole

from moqtrio.errors import ReplayError
from moqtrio.model.group import FINISHED
from moqtrio.model.source import Missing
from moqtrio.replay.objects import ObjectStore
from moqtrio.replay.objects.answers import Conflict, Version
from moqtrio.replay.objects.client import ObjectClient
from moqtrio.replay.objects.manifest import Manifest, decode_manifest
from moqtrio.replay.objects.revise import LEASE
from moqtrio.replay.target import GroupWrite


@pytest.fixture(params=["memory", "local", "s3"])
def cold(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "memory":
        return MemoryStore()
    if request.param == "local":
        return LocalStore(tmp_path / "cold", mkdir=True)
    endpoint: Endpoint = request.getfixturevalue("endpoint")
    return endpoint.store()


def manifest_of(cold: Any) -> Manifest:
    return decode_manifest(bytes(obstore.get(cold, "manifest").bytes()), "the manifest")


async def test_who_opens_last_writes_and_the_other_stops(tmp_path: Path, cold: Any) -> None:
    async with tiered(tmp_path / "one", cold) as one:
        await record(one, 0, 20)
        await one.archive()
        async with tiered(tmp_path / "two", cold) as two:
            before = manifest_of(cold)
            await record(one, 20, 40)
            with pytest.raises(ReplayError, match="another process"):
                await one.archive()
            assert one.statistics().archive.state == "refused"
            assert manifest_of(cold) == before, "a stale writer overwrites nothing"
            # It goes on, locally.
            await record(one, 40, 50)
            await check(tiered_track(one), 0, 50)
            first = hot_track(two).next_sequence
            await record(two, first, first + 10)
            await two.archive()
            assert two.statistics().archive.state == "archiving"
            assert manifest_of(cold).generation == before.generation
            # The other sees, as any reader does, what is new.
            await eventually(lambda: cold_slices(one) == cold_slices(two))


async def test_no_sequence_is_used_by_both(tmp_path: Path) -> None:
    cold = MemoryStore()
    async with tiered(tmp_path / "one", cold) as one:
        await record(one, 0, 20)
        await one.archive()
        async with tiered(tmp_path / "two", cold) as two:
            assert tiered_track(two).bounds().epoch == tiered_track(one).bounds().epoch
            first = hot_track(two).next_sequence
            assert first == manifest_of(cold).tracks[1].lease_end - LEASE
            # The first may use what was reserved for it, and not a sequence more.
            await hot_track(one).reserve(first)
            with pytest.raises(ReplayError, match="not reserved") as raised:
                await hot_track(one).reserve(first + 1)
            assert raised.value.retryable


async def test_two_that_open_at_once(tmp_path: Path) -> None:
    """Whatever the order of their requests, at most one is left writing."""
    cold = MemoryStore()
    async with tiered(tmp_path / "zero", cold) as zero:
        await record(zero, 0, 5)
        await zero.archive()
    stores: list[Any] = []
    opened = trio.Event()

    async def run(name: str) -> None:
        async with tiered(tmp_path / name, cold) as store:
            stores.append(store)
            if len(stores) == 5:
                opened.set()
            await opened.wait()
            await record(store, (first := hot_track(store).next_sequence), first + 5)
            try:
                await store.archive()
            except ReplayError:
                assert store.statistics().archive.state == "refused"
            archived.append(store.statistics().archive.archived_slices)

    archived: list[int] = []
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for index in range(5):
                nursery.start_soon(run, f"hot-{index}")
    assert sum(1 for each in archived if each) <= 1
    manifest = manifest_of(cold)
    assert len(manifest.slices) == 1 + sum(archived)


async def test_a_disk_that_is_lost_loses_only_what_was_not_archived(
    tmp_path: Path, cold: Any
) -> None:
    """The numbering goes on far above all that may have been used; history stays."""
    async with tiered(tmp_path / "one", cold) as store:
        epoch = tiered_track(store).bounds().epoch
        await record(store, 0, 30)
        await store.archive()
    async with tiered(tmp_path / "two", cold) as store:
        track = tiered_track(store)
        assert track.bounds().epoch == epoch
        first = hot_track(store).next_sequence
        assert first >= 30 + LEASE // 2
        await check(track, 0, 30)
        await record(store, first, first + 3)
        assert await find_group(track, 30) == Missing(first)
        await store.archive()
        await drop_hot(store)
        await check(track, 0, 30)
        await check(track, first, first + 3)
    # A crash before anything was recorded there: nothing of it may be used again either.
    async with tiered(tmp_path / "three", cold) as store:
        again = hot_track(store).next_sequence
        assert again >= first + LEASE // 2


async def test_a_disk_that_is_behind_is_not_trusted(tmp_path: Path) -> None:
    """One that was restored from yesterday's copy has forgotten which sequences were used."""
    cold = MemoryStore()
    async with tiered(tmp_path / "hot", cold) as store:
        await record(store, 0, 5)
        await store.archive()
    shutil.copytree(tmp_path / "hot", tmp_path / "copy")
    async with tiered(tmp_path / "hot", cold) as store:
        await hot_track(store).write([whole(each) for each in range(5, 3000)])
        await store.archive()
    async with tiered(tmp_path / "copy", cold) as store:
        first = hot_track(store).next_sequence
        assert first >= LEASE // 2
        with pytest.raises(ReplayError, match="may have been used before"):
            await hot_track(store).write([GroupWrite(5, 0, frames_of(5, 1, 1), FINISHED)])


async def test_a_new_numbering_is_not_spliced_with_an_old_one(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    """With the disk lost and the object store out of reach, nothing is known of the old one."""
    cold = endpoint.store(seconds=1)
    async with tiered(tmp_path / "one", cold) as store:
        old_epoch = tiered_track(store).bounds().epoch
        await record(store, 0, 30)
        await store.archive()
        before = cold_slices(store)
    endpoint.set_mode("refuse")
    async with tiered(tmp_path / "two", cold, request_timeout=0.2) as store:
        track = tiered_track(store)
        assert track.bounds().epoch != old_epoch
        assert store.statistics().archive.state == "failing"
        await record(store, 0, 5, count=2, size=50)
        endpoint.set_mode("open")
        await store.archive()
        await drop_hot(store)
        assert await read_sequences(track, 100) == list(range(5))
        await check(track, 0, 5, count=2, size=50)
        async with ObjectStore.open(cold) as objects:
            (found,) = objects.tracks()
            assert found.bounds().epoch == track.bounds().epoch
            assert await read_sequences(found, 100) == list(range(5))
        assert len(manifest_of(cold).slices) == before + 1, (
            "the old one's objects stay for their time"
        )
    async with tiered(tmp_path / "three", cold) as store:
        assert tiered_track(store).bounds().epoch == found.bounds().epoch


async def test_an_empty_disk_waits_for_what_the_manifest_knows(
    tmp_path: Path, endpoint: Endpoint
) -> None:
    cold = endpoint.store(seconds=1)
    async with tiered(tmp_path / "one", cold) as store:
        epoch = tiered_track(store).bounds().epoch
        await record(store, 0, 5)
        await store.archive()
    endpoint.set_mode("broken")

    async def heal() -> None:
        connections = endpoint.connections
        await eventually(lambda: endpoint.connections > connections + 1)
        endpoint.set_mode("open")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(heal)
        async with tiered(tmp_path / "two", cold) as store:
            assert tiered_track(store).bounds().epoch == epoch
            await check(tiered_track(store), 0, 5)


async def test_a_lease_is_renewed_for_who_leaps_ahead(tmp_path: Path) -> None:
    cold = MemoryStore()
    async with tiered(tmp_path / "hot", cold) as store:
        await record(store, 0, 5)
        await store.archive()
        leap = 2**50
        with trio.fail_after(10):
            while True:
                try:
                    await hot_track(store).reserve(leap)
                    break
                except ReplayError:
                    await trio.sleep(0.01)  # as the recorder does
        assert manifest_of(cold).tracks[1].lease_end >= leap + LEASE // 2


async def test_a_put_whose_answer_was_lost_is_not_taken_for_anothers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has happened, and the next one is refused: by our own."""
    cold = MemoryStore()
    put = ObjectClient.put_manifest
    lost: list[bool] = []

    def lose_every_other(self: ObjectClient, data: bytes, known: Any) -> Any:
        version = put(self, data, known)
        lost.append(len(lost) % 2 == 0)
        if lost[-1]:
            raise ReplayError("the connection was lost before the answer came")
        return version

    monkeypatch.setattr(ObjectClient, "put_manifest", lose_every_other)
    async with tiered(tmp_path / "hot", cold) as store:
        assert store.statistics().archive.state == "failing"
        await record(store, 0, 40)
        with trio.fail_after(30):
            await store.archive()
        assert sum(lost) > 1
        assert store.statistics().archive.state != "refused"
        await drop_hot(store)
        await check(tiered_track(store), 0, 40)
        sources = [each.source for each in manifest_of(cold).slices.values()]
        assert len(set(sources)) == len(sources)


async def test_a_store_that_ignores_conditions_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = obstore.put

    def put(store: Any, name: str, data: Any, *, mode: Any = None, **options: Any) -> Any:
        return real(store, name, data, **options)

    monkeypatch.setattr(obstore, "put", put)
    with pytest.raises(ReplayError, match="does not honour conditional puts") as raised:
        async with tiered(tmp_path / "hot", MemoryStore()):
            raise AssertionError
    assert not raised.value.retryable


async def test_a_store_that_takes_the_place_of_another_is_not_mixed_with_it(
    tmp_path: Path,
) -> None:
    cold = MemoryStore()
    async with tiered(tmp_path / "one", cold) as store:
        await record(store, 0, 20)
        await store.archive()
        async with ObjectStore.open(cold, interval=3600) as objects:
            (track,) = objects.tracks()
            obstore.delete(cold, list(objects_of(cold)))
            async with tiered(tmp_path / "two", cold) as other:
                await record(other, 0, 5, size=7)
                await other.archive()
                with pytest.raises(ReplayError, match="replaced by another"):
                    await objects.refresh()
                assert track.bounds().latest == 19


async def test_left_overs_of_a_crash_are_swept(tmp_path: Path) -> None:
    cold = MemoryStore()
    async with tiered(tmp_path / "hot", cold) as store:
        await record(store, 0, 20)
        await store.archive()
    obstore.put(cold, "slices/00000009-0000000000000000", b"an upload whose manifest never came")
    known = set(objects_of(cold))
    async with tiered(tmp_path / "hot", cold, orphan_age=3600.0):
        await trio.testing.wait_all_tasks_blocked(0.05)
    assert set(objects_of(cold)) == known, "it may be the upload of another writer"
    async with tiered(tmp_path / "hot", cold, orphan_age=0.0) as store:
        await eventually(lambda: store.statistics().archive.swept_objects == 1)
        assert set(objects_of(cold)) == known - {"slices/00000009-0000000000000000"}
        await drop_hot(store)
        await check(tiered_track(store), 0, 20)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [(b"not a manifest", "damaged"), (b"", "damaged")],
)
async def test_a_damaged_manifest_is_not_overwritten(
    tmp_path: Path, data: bytes, complaint: str
) -> None:
    cold = MemoryStore()
    obstore.put(cold, "manifest", data)
    with pytest.raises(ReplayError, match=complaint) as raised:
        async with tiered(tmp_path / "hot", cold):
            raise AssertionError
    assert not raised.value.retryable
    assert objects_of(cold)["manifest"] == data
    with pytest.raises(ReplayError, match=complaint):
        async with ObjectStore.open(cold):
            raise AssertionError


async def test_a_store_that_refuses_what_it_should_take_is_not_asked_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somewhere on the way the manifest's version is garbled, say. It is tried again later."""
    puts = 0

    def refuse(client: ObjectClient, data: bytes, known: Version | None) -> Version:
        nonlocal puts
        puts += 1
        raise Conflict

    async with tiered(tmp_path / "hot", MemoryStore()) as store:
        await record(store, 0, 10)
        with monkeypatch.context() as patch:
            patch.setattr(ObjectClient, "put_manifest", refuse)
            with trio.move_on_after(0.4):
                await store.archive()
            assert store.statistics().archive.state == "failing"
            assert 2 <= puts < 10
        with trio.fail_after(10):
            await store.archive()
        assert cold_slices(store) == 1


async def test_a_put_that_was_repeated_on_the_way_does_not_cost_its_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that retries by itself, or a proxy, puts twice: the first put succeeds, and
    what is heard of is that the second was refused."""
    cold = MemoryStore()
    put, repeated = ObjectClient.put_manifest, []

    def put_twice(client: ObjectClient, data: bytes, known: Version | None) -> Version:
        version = put(client, data, known)
        if not armed:
            return version
        armed.clear()
        repeated.append(version)
        return put(client, data, known)

    armed: list[bool] = []
    monkeypatch.setattr(ObjectClient, "put_manifest", put_twice)
    async with tiered(tmp_path / "hot", cold, grace=0.0) as store:
        await record(store, 0, 10)
        armed.append(True)
        await store.archive()
        await record(store, 10, 20)
        await store.archive()
        assert repeated
        await drop_hot(store)
        await eventually(lambda: all(e.since for e in manifest_of(cold).doomed))
        await check(tiered_track(store), 0, 20)
        names = {each.name for each in manifest_of(cold).slices.values()}
        assert names <= set(objects_of(cold))
