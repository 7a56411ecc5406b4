"""A track that is recorded again: after a restart, after a kill, and in the same process."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
import trio
from store_tools import eventually, read_group, read_sequences, start_python

from moqtrio.errors import ReplayError, StreamCode
from moqtrio.model import Track
from moqtrio.model.source import Missing, Pending, Ready
from moqtrio.replay import Dropped, Resolver, RetryPolicy
from moqtrio.replay.live import Parked
from moqtrio.replay.sqlite import SqliteStore

# Publishes while the disk hangs, says what subscribers may have seen, and is killed.
SHOW_AND_DIE = """
import os, signal, sys, trio
from moqtrio.model import Track
from moqtrio.replay.sqlite import SqliteStore

async def main(directory):
    async with SqliteStore.open(directory) as store:
        track = Track("a", "b", store=store)
        first = track.log.next_sequence
        track.write_frame(b"reserves")
        await track.wait_durable()
        await store._shelf._lock.acquire()
        for _ in range(int(sys.argv[2])):
            track.write_frame(b"never recorded")
        await trio.sleep(0.05)
        print(first, track.log.edge, track.log.next_sequence, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

trio.run(main, sys.argv[1])
"""


async def publish(track: Track, count: int, text: bytes) -> list[int]:
    """That many groups, durable; returns their sequences."""
    sequences = []
    for _ in range(count):
        with track.append_group() as group:
            group.write_frame(text)
            sequences.append(group.sequence)
    await track.wait_durable()
    return sequences


async def payload(store: SqliteStore, sequence: int) -> bytes:
    got = await read_group(store.track("a", "b"), sequence)
    assert not isinstance(got, Missing)
    return got[0][0].payload


async def test_a_track_goes_on_after_its_history(tmp_path: Path) -> None:
    epochs = set()
    for run in range(3):
        async with SqliteStore.open(tmp_path) as store:
            track = Track("a", "b", store=store)
            assert await publish(track, 4, b"run %d" % run) == list(range(run * 4, run * 4 + 4))
            assert [await payload(store, each) for each in range(0, run * 4 + 4, 4)] == [
                b"run %d" % each for each in range(run + 1)
            ]
            bounds = store.track("a", "b").bounds()
            assert (bounds.oldest, bounds.latest) == (0, run * 4 + 3)
            epochs.add(bounds.epoch)
    assert len(epochs) == 1


async def test_a_store_that_was_lost_begins_a_new_epoch(tmp_path: Path) -> None:
    epochs = []
    for _ in range(2):
        async with SqliteStore.open(tmp_path / "store") as store:
            assert await publish(Track("a", "b", store=store), 2, b"x") == [0, 1]
            epochs.append(store.track("a", "b").bounds().epoch)
        shutil.rmtree(tmp_path / "store")
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("count", [3, 5000])
async def test_killed_between_reserving_and_recording(tmp_path: Path, count: int) -> None:
    """P11: what anybody may have seen is never another group's number."""
    shown = 0
    for _ in range(2):
        process = start_python(SHOW_AND_DIE, [tmp_path, count])
        output, errors = await trio.to_thread.run_sync(process.communicate)
        assert process.returncode == -signal.SIGKILL, errors
        first, edge, used = map(int, output.split())
        assert first >= shown
        assert first < edge <= used
        shown = edge
    async with SqliteStore.open(tmp_path) as store:
        track = Track("a", "b", store=store)
        assert track.append_group().sequence >= shown
        assert len(await read_sequences(store.track("a", "b"), shown)) == 2


async def test_a_track_is_attached_again_in_the_same_process(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path) as store:
        sequences: list[int] = []
        for run in range(30):
            track = Track("a", "b", store=store, limits=None)
            with pytest.raises(ReplayError, match="is being recorded already"):
                Track("a", "b", store=store)
            sequences += await publish(track, 3, b"run %d" % run)
            track.finish() if run % 2 else track.abort()
        assert sequences == list(range(90))
        assert [await payload(store, each) for each in (0, 45, 89)] == [
            b"run 0",
            b"run 15",
            b"run 29",
        ]


async def test_recorders_of_tracks_that_ended_do_not_pile_up(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path) as store:
        assert store._nursery is not None
        before = len(store._nursery.child_tasks)
        for name in ("b", "b", "c"):
            track = Track("a", name, store=store)
            track.write_frame(b"x")
            track.finish()
        await eventually(lambda: len(nursery_tasks(store)) == before)


def nursery_tasks(store: SqliteStore) -> frozenset[trio.lowlevel.Task]:
    assert store._nursery is not None
    return store._nursery.child_tasks


async def test_what_the_run_before_still_records_is_not_missing(tmp_path: Path) -> None:
    async with SqliteStore.open(tmp_path) as store:
        before = Track("a", "b", store=store)
        await publish(before, 2, b"durable")
        disk = store._shelf._lock
        await disk.acquire()
        for _ in range(3):
            before.write_frame(b"on its way")
        before.log.create_group(7)
        before.abort(9)
        track = Track("a", "b", store=store)
        assert track.append_group().sequence == 8
        source = store.track("a", "b")
        assert [type(source.poll_group(each)) for each in (2, 4, 7)] == [Pending] * 3
        assert source.poll_group(5) == Missing(7)
        assert source.poll_group(8) == Missing(None)
        resolver = Resolver(track.log, source, start=2, end=8)
        assert isinstance(resolver.poll_start(), Pending), "it does not begin behind them"
        disk.release()
        while isinstance(answer := resolver.poll_start(), Pending):
            with trio.fail_after(10):
                await answer.wait()
        assert answer == Ready(2)
        found: list[object] = []
        while len(found) < 4:
            following = resolver.poll_next()
            if isinstance(following, Pending):
                with trio.fail_after(10):
                    await following.wait()
            elif isinstance(following, Ready):
                found.append(following.value.sequence)
            else:
                found.append(following)
        assert found == [2, 3, 4, Dropped(5, 7, 0)]
        assert source.bounds().durable_end <= 8


async def test_the_durable_end_does_not_pass_what_the_run_before_still_records(
    tmp_path: Path,
) -> None:
    async with SqliteStore.open(tmp_path) as store:
        before = Track("a", "b", store=store)
        await publish(before, 2, b"durable")
        going = before.append_group()
        before.finish()
        track = Track("a", "b", store=store)
        await publish(track, 2, b"later")
        source = store.track("a", "b")
        assert (going.sequence, source.bounds().durable_end) == (2, 2)
        going.finish()
        await before.wait_durable()
        await publish(track, 1, b"later")
        assert source.bounds().durable_end == 6


async def test_a_run_before_that_cannot_be_recorded_does_not_stall_those_who_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the store may never get is dropped within the patience there is for a store that
    fails. Then comes what is live."""

    async def refuse(*_: object) -> None:
        await trio.lowlevel.checkpoint()
        raise ReplayError("the disk is full")

    async with SqliteStore.open(tmp_path) as store:
        before = Track("a", "b", store=store)
        await publish(before, 3, b"durable")
        with monkeypatch.context() as patch:
            patch.setattr(store._shelf, "write", refuse)
            for _ in range(3):
                before.write_frame(b"on its way")
            before.finish()
            track = Track("a", "b", store=store)
            track.write_frame(b"live")
            policy = RetryPolicy(budget=0.3)
            resolver = Resolver(track.log, store.track("a", "b"), start=3, end=None, retry=policy)
            found: list[object] = []
            with trio.fail_after(10):
                while isinstance(start := resolver.poll_start(), Pending):
                    await start.wait()
                while not isinstance(answer := resolver.poll_next(), Parked):
                    if isinstance(answer, Pending):
                        await answer.wait()
                    else:
                        found.append(answer if isinstance(answer, Dropped) else type(answer))
            lost = [Dropped(each, each + 1, StreamCode.EVICTED) for each in (3, 4, 5)]
            assert found == [*lost, Ready]
        await before.wait_durable()
        assert await payload(store, 5) == b"on its way"


async def test_nothing_is_shown_after_a_clean_close_before_a_kill_would_leave_a_trace(
    tmp_path: Path,
) -> None:
    """What is left of the last run's reservation counts again only once the catalog knows
    that it is in use: or the next process would give the same sequences to other groups."""
    directory, image = tmp_path / "store", tmp_path / "killed"
    async with SqliteStore.open(directory) as store:
        track = Track("a", "b", store=store)
        with track.append_group() as group:
            group.write_frame(b"before")
        await track.wait_durable()
    async with SqliteStore.open(directory) as store:
        track = Track("a", "b", store=store)
        with track.append_group() as group:
            group.write_frame(b"after")
        shown = track.log.edge
        shutil.copytree(directory, image)
        await track.wait_durable()
        assert track.log.edge == 2
    async with SqliteStore.open(image) as store:
        assert store.track("a", "b").next_sequence >= shown
