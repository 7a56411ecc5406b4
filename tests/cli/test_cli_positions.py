"""Where a subscription begins, as people say it: above all by the time of day."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from pathlib import Path

import pytest
import trio
from cli_commands import Done, Server, run_moqtrio, serving

import moqtrio
from moqtrio.cli.failures import UsageError
from moqtrio.cli.positions import Moment, parse_start
from moqtrio.model import Frame
from moqtrio.model.group import FINISHED
from moqtrio.model.source import Bounds, Missing
from moqtrio.replay import GroupWrite

NOON = 1_795_348_800.0  # 2026-11-22T12:00:00Z
HOUR = 3600.0
# Five and a half hours east, without a need for a database of zones.
LOCAL = timezone(timedelta(hours=5, minutes=30))
TZ = "HERE-5:30"


@pytest.fixture
def local_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", TZ)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "when"),
    [
        ("-10m", NOON - 600),
        ("-1d12h", NOON - 36 * HOUR),
        ("-1.5h", NOON - 1.5 * HOUR),
        ("-0s", NOON),
        ("-9000w", 0.0),
        ("2026-11-22T10:00:00Z", NOON - 2 * HOUR),
        (" 2026-11-22T10:00:00.5Z ", NOON - 2 * HOUR + 0.5),
        ("2026-11-22 10:00+01:00", NOON - 3 * HOUR),
        ("20261122T100000Z", NOON - 2 * HOUR),
        ("1900-01-01T00:00Z", 0.0),
    ],
)
def test_times(text: str, when: float) -> None:
    assert parse_start(text, lambda: NOON) == Moment(when)


@pytest.mark.usefixtures("local_zone")
@pytest.mark.parametrize(
    ("text", "when"),
    [("2026-11-22T10:00", NOON - 7.5 * HOUR), ("2026-11-22", NOON - 17.5 * HOUR)],
)
def test_a_time_without_a_zone_is_local_and_says_so(text: str, when: float) -> None:
    found = parse_start(text)
    assert isinstance(found, Moment)
    assert found.when == when
    assert found.remark is not None
    assert found.remark.startswith(f"{text} has no time zone: taken as local time, 2026-11-22T")
    assert found.remark.endswith("+05:30")


@pytest.mark.parametrize(
    "text", ["", "-", "-1", "-1.5", "-10q", "--until", "10:00", "+5m", "2026-13-01", "9999999999-1"]
)
def test_what_is_no_start(text: str) -> None:
    with pytest.raises(UsageError, match=r"how long ago \(-10m\)") as raised:
        parse_start(text)
    assert repr(text) in str(raised.value)


def test_a_duration_without_its_sign() -> None:
    with pytest.raises(UsageError, match="-10m is that long ago"):
        parse_start("10m")


# With real processes


def iso(when: float, zone: timezone = UTC) -> str:
    return datetime.fromtimestamp(when, zone).isoformat()


async def record(directory: Path, sequences: range, when: float) -> None:
    """Put groups into a store as if it were that time."""
    async with moqtrio.SqliteStore.open(directory, wall_clock=lambda: when) as store:
        track = store.track("b", "t")
        for sequence in sequences:
            frames = [Frame(b"%d" % sequence, int(when * 1e6))]
            await track.write([GroupWrite(sequence, 0, frames, FINISHED)])


@asynccontextmanager
async def serving_history(tmp_path: Path) -> AsyncIterator[tuple[Server, float]]:
    """Groups 0 to 4 of two hours ago, 5 to 9 of one hour ago, 10 and 11 of now."""
    now = time.time()
    await record(tmp_path / "store", range(5), now - 2 * HOUR)
    await record(tmp_path / "store", range(5, 10), now - HOUR)
    (tmp_path / "input").write_bytes(b"10\n11\n")
    async with serving(
        *("--input", str(tmp_path / "input"), "--store", str(tmp_path / "store")),
        "--json",
    ) as server:
        while (await server.running.read_message())["next_sequence"] < 12:
            pass
        yield server, now


def lines(first: int) -> bytes:
    return b"".join(b"%d\n" % sequence for sequence in range(first, 12))


async def test_from_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", TZ)
    async with serving_history(tmp_path) as (server, now):

        async def check(first: int, *arguments: str) -> Done:
            done = await server.subscribe(*arguments)
            assert (done.code, done.out) == (0, lines(first)), done.err
            return done

        assert (await check(5, "--from", "-90m")).err == ""
        await check(5, "--from=-1h30m")
        await check(0, "--from", "-3h")
        await check(10, "--from", "-30m", "--until", "20")
        await check(5, "--from", iso(now - 1.5 * HOUR))
        there = iso(now - 1.5 * HOUR, LOCAL)
        here = there.removesuffix("+05:30")
        done = await check(5, "--from", here)
        assert done.err == (f"moqtrio: {here} has no time zone: taken as local time, {there}\n")


async def test_from_a_time_that_has_not_come(tmp_path: Path) -> None:
    async with serving_history(tmp_path) as (server, _):
        done = await server.subscribe("--from", "2999-01-01T00:00Z")
        assert (done.code, done.out) == (0, b""), done.err
        (warning,) = done.err.splitlines()
        assert "behind the time asked for" in warning


async def test_nothing_between_a_time_and_the_end(tmp_path: Path) -> None:
    async with serving_history(tmp_path) as (server, _):
        done = await server.subscribe("--from", "-30m", "--until", "7")
        assert done.code == 2
        assert "it must be above --from 10" in done.err


class Timeless:
    """A source without an index of times."""

    def bounds(self) -> Bounds:
        return Bounds(None, 0, 7)

    def poll_group(self, sequence: int, *, priority: int = 0) -> Missing:
        return Missing(None)

    def attach(self, track: moqtrio.Track) -> Timeless:
        return self


async def test_a_publisher_that_cannot_find_times() -> None:
    origin = moqtrio.Origin()
    origin.create_broadcast("b").create_track("t", store=Timeless())
    tls = moqtrio.generate_certificate()
    serve = partial(moqtrio.serve, origin, "moqt://127.0.0.1:0", tls=tls)
    async with trio.open_nursery() as nursery:
        listener = await nursery.start(serve)
        pinned = ("--tls-fingerprint", listener.fingerprint)
        for track, told in (("t", "also takes a sequence"), ("u", "look at the track's name")):
            done = await run_moqtrio("subscribe", listener.url, "b", track, *pinned, "--from=-1h")
            assert (done.code, done.out) == (1, b"")
            message, hint = done.err.splitlines()
            assert message.startswith(f"moqtrio: b/{track}: ")
            assert told in hint
        nursery.cancel_scope.cancel()
