"""A store that fails, in whatever way: live goes on, and says so; what cannot be read is a gap."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from e2e_tools import (
    BROADCAST,
    TRACK,
    Follower,
    Shape,
    end_process,
    publish_group,
    publish_history,
    serving,
    start_python,
    until,
)

import moqtrio
from moqtrio import SqliteStore, Track

SHAPE = Shape(4, 1500)
GROUPS = 240


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    command = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only where file systems may be mounted; see the test with a limit")
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


async def fill_and_free(directory: Path, how: str) -> None:
    script = Path(__file__).with_name("full_disk.py").read_text()
    process = start_python(script, [directory, how])
    try:
        await until(lambda: process.poll() is not None, 50)
        assert process.stdout is not None
        output = process.stdout.read()
    finally:
        process.kill()
        errors = end_process(process)
    assert output == "well\n", errors
    assert "recording failed, live goes on" in errors
    assert "left memory before it was recorded" in errors
    assert str(directory) in errors


async def test_a_full_disk(small_disk: Path) -> None:
    await fill_and_free(small_disk, "ballast")


async def test_files_that_may_not_grow(tmp_path: Path) -> None:
    await fill_and_free(tmp_path, "limit")


async def test_a_directory_that_becomes_read_only() -> None:
    with tempfile.TemporaryDirectory() as directory:
        await fill_and_free(Path(directory), "permissions")


def delete(path: Path) -> None:
    path.unlink()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def scribble(path: Path) -> None:
    """Other bytes in the same file, but for the header."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(path.stat().st_size - 4096))


async def publish_live(track: Track, live: Follower, count: int) -> None:
    for _ in range(count):
        sequence = publish_group(track, SHAPE)
        await until(lambda last=sequence: last in live.complete)


@pytest.mark.parametrize("order", ["sequence", "arrival"])
@pytest.mark.parametrize("damage", [delete, truncate, empty, scribble])
async def test_a_damaged_slice_is_a_gap_in_history(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    order: str,
) -> None:
    """Its groups, and no others, are missing; one subscription leads over it into live."""
    origin = moqtrio.Origin()
    directory = tmp_path / "store"
    async with (
        SqliteStore.open(directory, slice_bytes=300_000) as store,
        serving(origin) as server,
    ):
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store, cache_age=0.0)
        for _ in range(6):
            await publish_history(track, SHAPE, GROUPS // 6)
        slices = sorted(directory.glob("slice-*.db"))
        assert len(slices) >= 3
        damage(slices[1])
        live, late = Follower(), Follower()
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow_live, live, server)
                await until(lambda: live.complete)
                nursery.start_soon(follow_late, late, server, order)
                await publish_live(track, live, 40)
                await until(lambda: late.error or len(late.accounted()) >= GROUPS + 40)
                track.finish()
        end = GROUPS + 40
        live.check_whole(SHAPE, GROUPS - 1, end)
        assert late.error is None
        assert late.ended
        assert late.accounted() == list(range(end)), "every sequence, once"
        late.check_frames(SHAPE)
        assert late.gaps
        assert all(gap.code != 0 for gap in late.gaps)
        assert all(code != 0 for code in late.reset.values())
        assert len(late.complete) >= end - GROUPS // 2
        assert late.complete[0] == 0
        assert len(late.gaps) < 20, "one gap says as much as many"
        await until(lambda: store.statistics().readers == 0)


async def follow_live(live: Follower, server: object) -> None:
    await live.connect_and_follow(server, start=None)  # type: ignore[arg-type] # e2e_tools.Server


async def follow_late(late: Follower, server: object, order: str) -> None:
    await late.connect_and_follow(server, order=order)  # type: ignore[arg-type] # as above


async def test_the_store_is_taken_away_and_put_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While it is gone live goes on, and nothing is forgotten that is not recorded."""
    origin = moqtrio.Origin()
    directory, elsewhere = tmp_path / "store", tmp_path / "elsewhere"
    async with (
        SqliteStore.open(directory, slice_bytes=300_000) as store,
        serving(origin) as server,
    ):
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store, cache_age=0.0)
        await publish_history(track, SHAPE, GROUPS)
        live, late = Follower(), Follower()
        with trio.fail_after(40):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow_live, live, server)
                await until(lambda: live.complete)
                directory.rename(elsewhere)
                await publish_live(track, live, 150)
                await until(lambda: store.statistics().failures > 1)
                elsewhere.rename(directory)
                await publish_live(track, live, 20)
                await track.wait_durable()
                track.finish()
                await late.connect_and_follow(server)
        end = GROUPS + 170
        live.check_whole(SHAPE, GROUPS - 1, end)
        late.check_whole(SHAPE, 0, end)
        assert track.statistics().lost == 0
    failures = [each for each in caplog.records if "recording failed" in each.message]
    assert failures
    assert all(each.levelno == logging.ERROR for each in failures)
    assert str(directory) in failures[0].message


async def test_the_store_is_deleted_under_a_running_server(tmp_path: Path) -> None:
    """All of history is gone; live, and what is in memory, are not."""
    origin = moqtrio.Origin()
    directory = tmp_path / "store"
    async with (
        SqliteStore.open(directory, slice_bytes=300_000, cache_bytes=0) as store,
        serving(origin) as server,
    ):
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store, cache_age=0.0)
        await publish_history(track, SHAPE, GROUPS)
        live, late = Follower(), Follower()
        with trio.fail_after(40):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow_live, live, server)
                await until(lambda: live.complete)
                shutil.rmtree(directory)
                await publish_live(track, live, 150)
                nursery.start_soon(follow_late, late, server, "sequence")
                await until(lambda: late.error or len(late.accounted()) >= GROUPS + 150)
                track.finish()
        end = GROUPS + 150
        live.check_whole(SHAPE, GROUPS - 1, end)
        assert late.ended
        assert late.accounted() == list(range(end)), "every sequence, once"
        late.check_frames(SHAPE)
        assert all(gap.code != 0 for gap in late.gaps)
        assert sum(gap.end - gap.start for gap in late.gaps) > GROUPS / 2


async def test_a_slice_that_may_not_be_read_for_a_while(
    private_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever wants it waits until it may be read; nobody else does."""
    origin = moqtrio.Origin()
    directory = private_directory / "store"
    async with (
        SqliteStore.open(directory, slice_bytes=300_000, cache_bytes=0) as store,
        serving(origin) as server,
    ):
        track = origin.create_broadcast(BROADCAST).create_track(TRACK, store=store, cache_age=0.0)
        for _ in range(6):
            await publish_history(track, SHAPE, GROUPS // 6)
        slices = sorted(directory.glob("slice-*.db"))
        assert len(slices) >= 3
        slices[1].chmod(0o000)
        live, late = Follower(), Follower()
        with trio.fail_after(40):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follow_live, live, server)
                await until(lambda: live.complete)
                nursery.start_soon(follow_late, late, server, "sequence")
                await until(lambda: late.complete)
                await publish_live(track, live, 100)
                before = len(late.complete)
                assert 0 < before < GROUPS, "all before it, and nothing after it"
                assert late.complete == list(range(before))
                slices[1].chmod(0o600)
                track.finish()
        end = GROUPS + 100
        live.check_whole(SHAPE, GROUPS - 1, end)
        late.check_whole(SHAPE, 0, end)
        await until(lambda: store.statistics().readers == 0)
