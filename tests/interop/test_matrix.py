"""Every feature in every version over every transport; see ``matrix.py``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest
import trio

import moqtrio

from .endpoints import append_groups, assert_next_groups
from .matrix import COLUMNS, FEATURES, MATRIX, TRANSPORTS, Column
from .payloads import described
from .processes import MoqRs, moq_rs_client, moq_rs_server

FRAMES, SIZE = 3, 700
ROOM = {"broadcast": "room", "track": "video"}
PASSED, FAILED, ABSENT = "yes", "**no**", "-"


def is_absent(role: str, feature: str, column: Column) -> bool:
    """Whether there is no such thing to be tried."""
    if role == "serves" and column.transport == "WebSocket":
        return True  # moq-rs listens on UDP alone
    return feature == "fetch" and column.version.draft < 5


async def note(role: str, feature: str, column: Column, check: Awaitable[None]) -> str | None:
    """Try a feature; what went wrong."""
    problem: str | None = None
    try:
        with trio.fail_after(15):
            await check
    except (AssertionError, trio.TooSlowError, moqtrio.errors.MoqError) as error:
        problem = f"{feature}: {error!r}"
    MATRIX.note(role, feature, column, PASSED if problem is None else FAILED)
    return problem


Features = dict[str, Callable[[], Awaitable[None]]]


async def try_all(
    role: str, column: Column, open_features: AbstractAsyncContextManager[Features]
) -> None:
    """Try what there is to be tried, all of it, and fail if any of it does."""
    wanted = [feature for feature in FEATURES if not is_absent(role, feature, column)]
    for feature in FEATURES:
        MATRIX.note(role, feature, column, FAILED if feature in wanted else ABSENT)
    if not wanted:
        pytest.skip("moq-rs does not serve this transport")
    async with open_features as features:
        problems = [await note(role, each, column, features[each]()) for each in wanted]
    assert not [problem for problem in problems if problem]


# moq-rs is the client.


class Reading:
    """moq-rs reads what moqtrio serves. Each feature has a broadcast of its own: moq-rs
    shares one subscription among those who want the same track."""

    def __init__(self, origin: moqtrio.Origin, client: MoqRs, version: moqtrio.wire.Version):
        self._origin = origin
        self._client = client
        self._timed = version.draft >= 5

    async def _track(self, name: str, groups: int) -> moqtrio.Track:
        track = self._origin.create_broadcast(name).create_track("t", cache_age=3600.0)
        append_groups(track, 0, groups, FRAMES, SIZE)
        await self._client.expect("announcement", id="list", path=name, active=True)
        return track

    async def _groups(self, id: str, start: int, end: int) -> None:
        groups = await self._client.groups(id, end - start)
        assert sorted(group["sequence"] for group in groups) == list(range(start, end))
        for group in groups:
            expected = described(group["sequence"], FRAMES, SIZE)
            assert len(group["frames"]) == len(expected)
            for came, frame in zip(group["frames"], expected, strict=True):
                assert came[1:] == frame[1:]
                assert came[0] == frame[0] or not self._timed

    async def announce(self) -> None:
        await self._client.do("announced", id="list")
        broadcast = self._origin.create_broadcast("hall/one")
        await self._client.expect("announcement", id="list", path="hall/one", active=True)
        broadcast.close()
        await self._client.expect("announcement", id="list", path="hall/one", active=False)

    async def latest(self) -> None:
        track = await self._track("latest", 20)
        await self._client.do("subscribe", id="latest", broadcast="latest", track="t", max_age=0.0)
        await self._groups("latest", 19, 20)
        append_groups(track, 20, 21, FRAMES, SIZE)
        await self._groups("latest", 20, 21)

    async def live(self) -> None:
        track = await self._track("live", 0)
        await self._client.do("subscribe", id="live", broadcast="live", track="t", start=0)
        for sequence in range(3):
            append_groups(track, sequence, sequence + 1, FRAMES, SIZE)
            await self._groups("live", sequence, sequence + 1)

    async def history(self) -> None:
        track = await self._track("history", 100)
        await self._client.do("subscribe", id="history", broadcast="history", track="t", start=0)
        await self._groups("history", 0, 100)
        append_groups(track, 100, 110, FRAMES, SIZE)
        await self._groups("history", 100, 110)

    async def range(self) -> None:
        await self._track("range", 20)
        await self._client.do("subscribe", id="range", broadcast="range", track="t", start=5, end=9)
        await self._groups("range", 5, 9)
        # That nothing follows is seen by what comes after it on the same session.
        await self._track("after", 1)
        await self._client.do("subscribe", id="after", broadcast="after", track="t", start=0)
        await self._groups("after", 0, 1)
        assert not self._client.unclaimed("group", id="range")

    async def fetch(self) -> None:
        await self._track("fetch", 9)
        await self._client.do("fetch", id="fetch", broadcast="fetch", track="t", sequence=4)
        await self._groups("fetch", 4, 5)

    async def error(self) -> None:
        await self._track("error", 1)
        await self._client.do("subscribe", id="no-track", broadcast="error", track="no", start=0)
        await self._client.expect("error", id="no-track", kind="not_found")
        await self._client.do("subscribe", id="error", broadcast="error", track="t", start=0)
        await self._groups("error", 0, 1)

    async def finish(self) -> None:
        track = await self._track("finish", 3)
        await self._client.do("subscribe", id="finish", broadcast="finish", track="t", start=0)
        await self._groups("finish", 0, 3)
        track.finish()
        await self._client.expect("end", id="finish")


@asynccontextmanager
async def reading(column: Column) -> AsyncIterator[Features]:
    origin, tls = moqtrio.Origin(), moqtrio.generate_certificate()
    serve = partial(moqtrio.serve, origin, "moqt://127.0.0.1:0", tls=tls, versions=[column.version])
    async with trio.open_nursery() as nursery:
        listener: moqtrio.Listener = await nursery.start(serve)
        url = f"{TRANSPORTS[column.transport]}://127.0.0.1:{listener.port}"
        async with moq_rs_client(url, tls.fingerprint) as client:
            role = Reading(origin, client, column.version)
            yield {feature: getattr(role, feature) for feature in FEATURES}
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("column", COLUMNS, ids=str)
async def test_moq_rs_reads(column: Column) -> None:
    await try_all("reads", column, reading(column))


# moq-rs is the server.


class Serving:
    """moqtrio reads what moq-rs serves."""

    def __init__(self, server: MoqRs, session: moqtrio.Session, version: moqtrio.wire.Version):
        self._server = server
        self._session = session
        self._timed = version.draft >= 5

    async def _append(self, broadcast: str, start: int, end: int) -> None:
        await self._server.do(
            "append",
            broadcast=broadcast,
            track="t",
            start=start,
            end=end,
            frames=FRAMES,
            size=SIZE,
        )

    async def _publish(self, name: str, groups: int) -> None:
        await self._server.do("publish", broadcast=name, track="t")
        await self._append(name, 0, groups)

    async def _next(self, subscription: moqtrio.Subscription, start: int, end: int) -> None:
        await assert_next_groups(subscription, start, end, FRAMES, SIZE, timed=self._timed)

    async def announce(self) -> None:
        async with self._session.announced() as announcements:
            await self._server.do("publish", broadcast="hall/one", track="t")
            found = await announcements.receive()
            assert (found.path, found.active) == ("hall/one", True)
            await self._server.do("close", broadcast="hall/one")
            found = await announcements.receive()
            assert (found.path, found.active) == ("hall/one", False)

    async def latest(self) -> None:
        await self._publish("latest", 20)
        async with self._session.subscribe("latest", "t") as subscription:
            await self._next(subscription, 19, 20)
            await self._append("latest", 20, 25)
            await self._next(subscription, 20, 25)

    async def live(self) -> None:
        await self._publish("live", 0)
        async with self._session.subscribe("live", "t", start=0) as subscription:
            for sequence in range(3):
                await self._append("live", sequence, sequence + 1)
                await self._next(subscription, sequence, sequence + 1)

    async def history(self) -> None:
        await self._publish("history", 100)
        async with self._session.subscribe("history", "t", start=0) as subscription:
            await self._next(subscription, 0, 100)
            await self._append("history", 100, 110)
            await self._next(subscription, 100, 110)

    async def range(self) -> None:
        await self._publish("range", 20)
        async with self._session.subscribe("range", "t", start=5, end=9) as subscription:
            await self._next(subscription, 5, 9)
            assert [item async for item in subscription] == []

    async def fetch(self) -> None:
        await self._publish("fetch", 9)
        group = await self._session.fetch("fetch", "t", 4)
        assert len(await group.read_all()) == FRAMES
        with pytest.raises(moqtrio.RequestError):
            await self._session.fetch("fetch", "t", 99)

    async def error(self) -> None:
        await self._publish("error", 1)
        for name, code in (("none", moqtrio.StreamCode.UNROUTABLE), ("error", 0x33)):
            with pytest.raises(moqtrio.RequestError) as raised:
                async with self._session.subscribe(name, "no", start=0) as subscription:
                    await subscription.receive()
            assert raised.value.code == code
        async with self._session.subscribe("error", "t", start=0) as subscription:
            await self._next(subscription, 0, 1)

    async def finish(self) -> None:
        await self._publish("finish", 3)
        async with self._session.subscribe("finish", "t", start=0) as subscription:
            await self._next(subscription, 0, 3)
            await self._server.do("finish", broadcast="finish", track="t")
            assert [item async for item in subscription] == []
            assert subscription.final == 3


@asynccontextmanager
async def serving(column: Column) -> AsyncIterator[Features]:
    async with moq_rs_server() as server:
        url = server.url.replace("moqt:", f"{TRANSPORTS[column.transport]}:")
        tls = moqtrio.ClientTls(fingerprint=server.fingerprint)
        async with moqtrio.open_session(url, tls=tls, versions=[column.version]) as session:
            assert session.version == column.version.name
            role = Serving(server, session, column.version)
            yield {feature: getattr(role, feature) for feature in FEATURES}


@pytest.mark.parametrize("column", COLUMNS, ids=str)
async def test_moq_rs_serves(column: Column) -> None:
    await try_all("serves", column, serving(column))
