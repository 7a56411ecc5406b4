"""A store that was damaged while nobody used it: ``verify`` names the groups, and a subscriber
is told of each of them that it cannot be had. All others arrive as they were published."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from session_pairs import see_all, session_pair

from moqtrio.model import Origin
from moqtrio.model.frame import Frame
from moqtrio.model.group import FINISHED
from moqtrio.replay import GroupWrite
from moqtrio.replay.sqlite import SqliteStore, VerifyReport, verify_store
from moqtrio.session import Gap

END = 30
PAGE = 8192


def payloads_of(sequence: int) -> list[bytes]:
    """Groups that end in 7 have rows of their own."""
    count, size = (20, 9000) if sequence % 10 == 7 else (2, 2000)
    return [b"%d/%d|".ljust(size, b".") % (sequence, index) for index in range(count)]


async def record(directory: Path) -> Path:
    """Slices with groups 0 to 9, 10 to 19 and 20 to 29; returns the second."""
    async with SqliteStore.open(directory, slice_bytes=1) as store:
        track = store.track("b", "t")
        for start in range(0, END, 10):
            await track.write(
                [
                    GroupWrite(each, 0, [Frame(data, 1) for data in payloads_of(each)], FINISHED)
                    for each in range(start, start + 10)
                ]
            )
    return directory / "slice-00000002.db"


def flip_at(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0x55
    path.write_bytes(data)


def flip_payload(sequence: int) -> Callable[[Path], None]:
    return lambda path: flip_at(path, path.read_bytes().index(b"%d/1|" % sequence))


def flip_page_header(path: Path) -> None:
    """Of the page with a payload of group 17's first chunk's row."""
    flip_at(path, path.read_bytes().index(b"17/0|") // PAGE * PAGE)


def change_part(path: Path) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("UPDATE part SET frames=19")
    connection.close()


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 3 * PAGE)


def named(report: VerifyReport) -> set[int]:
    """The groups that something is wrong with."""
    found: set[int] = set()
    for each in report.problems:
        assert each.path.name == "slice-00000002.db"
        if each.start is not None and each.end is not None:
            assert (each.broadcast, each.track) == ("b", "t")
            found |= {*range(each.start, each.end)}
    return found


@pytest.mark.parametrize(
    ("damage", "lost"),
    [
        (flip_payload(13), {*range(10, 17), 18, 19}),
        (flip_payload(17), {17}),
        (change_part, {17}),
        (flip_page_header, None),
        (lambda path: flip_at(path, 0), {*range(10, 20)}),
        (truncate, None),
        (Path.unlink, {*range(10, 20)}),
    ],
    ids=["pack", "chunk", "part", "page header", "file header", "truncated", "deleted"],
)
async def test_what_verify_names_becomes_an_explicit_drop(
    tmp_path: Path, damage: Callable[[Path], None], lost: set[int] | None
) -> None:
    damage(await record(tmp_path))
    report = verify_store(tmp_path)
    assert not report.clean
    damaged = named(report) & {*range(10, 20)}
    assert damaged
    if lost is not None:
        assert damaged >= lost

    origin = Origin()
    refused: set[int] = set()
    async with SqliteStore.open(tmp_path) as store:
        track = origin.create_broadcast("b").create_track("t", store=store)
        track.finish()
        async with session_pair(origin) as pair:
            with trio.fail_after(30):
                async with pair.client.subscribe("b", "t", start=0, end=END) as subscription:
                    seen = await see_all(subscription)
    accounted: list[int] = []
    for item in seen:
        if isinstance(item, Gap):
            assert item.code != 0, "a loss is no absence"
            refused |= {*range(item.start, item.end)}
            accounted += range(item.start, item.end)
        else:
            sequence, content = item
            accounted.append(sequence)
            if isinstance(content, int):
                assert content != 0
                refused.add(sequence)
            else:
                assert content == payloads_of(sequence)
    assert sorted(accounted) == [*range(END)]
    assert refused <= {*range(10, 20)}, "the other slices are not affected"
    # A row of small groups is named by its first and its last; 17 has rows of its own.
    assert refused >= damaged - {17} if lost is None else refused == lost
