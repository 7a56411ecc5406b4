"""moq-rs as a client over WebSocket, in every draft of qmux. Its server listens on UDP alone."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

import moqtrio
from moqtrio.transport.qmux import QmuxVersion, versions
from moqtrio.transport.qmux.versions import QMUX_00, QMUX_01, QMUX_02

from .endpoints import append_groups, assert_next_groups
from .processes import MoqRs, assert_groups, moq_rs_client

FRAMES, SIZE = 3, 40_000
PATH = "/some/path?x=1"


@asynccontextmanager
async def websocket_client(
    origin: moqtrio.Origin, sessions: list[moqtrio.Session], scheme: str = "ws"
) -> AsyncIterator[MoqRs]:
    """A moq-rs client, over WebSocket, of a moqtrio server."""
    tls = moqtrio.generate_certificate()
    async with trio.open_nursery() as nursery:
        listener: moqtrio.Listener = await nursery.start(
            partial(
                moqtrio.serve, origin, "moqt://127.0.0.1:0", tls=tls, on_session=sessions.append
            )
        )
        url = f"{scheme}://127.0.0.1:{listener.port}{PATH}"
        async with moq_rs_client(url, tls.fingerprint) as client:
            yield client
        nursery.cancel_scope.cancel()


async def check_both_ways(
    origin: moqtrio.Origin, client: MoqRs, sessions: list[moqtrio.Session]
) -> None:
    """The client reads what the server publishes, and the other way round."""
    append_groups(origin.create_broadcast("ours").create_track("t"), 0, 8, FRAMES, SIZE)
    await client.do("announced", id="list")
    await client.expect("announcement", id="list", path="ours")
    await client.do("subscribe", id="s", broadcast="ours", track="t", start=0, end=8)
    assert_groups(await client.groups("s", 8), 0, 8, FRAMES, SIZE)

    await client.do("publish", broadcast="theirs", track="t")
    await client.do(
        "append", broadcast="theirs", track="t", start=0, end=8, frames=FRAMES, size=SIZE
    )
    (session,) = sessions
    with trio.fail_after(20):
        await session.wait_announced("theirs")
        async with session.subscribe("theirs", "t", start=0) as subscription:
            await assert_next_groups(subscription, 0, 8, FRAMES, SIZE)


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_both_ways(scheme: str) -> None:
    origin, sessions = moqtrio.Origin(), list[moqtrio.Session]()
    async with websocket_client(origin, sessions, scheme) as client:
        await check_both_ways(origin, client, sessions)
        (session,) = sessions
        assert session.statistics().smoothed_rtt > 0
        assert session.peer_path == PATH
    with trio.fail_after(5):
        assert (await session.wait_closed()).remote


@pytest.mark.parametrize("version", [QMUX_02, QMUX_01, QMUX_00], ids=lambda each: str(each.name))
async def test_every_draft(version: QmuxVersion, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "VERSIONS", (version,))
    origin, sessions = moqtrio.Origin(), list[moqtrio.Session]()
    async with websocket_client(origin, sessions) as client:
        await check_both_ways(origin, client, sessions)


async def test_a_reader_of_much_more_than_the_windows() -> None:
    # moq-rs admits 256 KiB for a stream and 1 MiB in all.
    frames, size = 40, 100_000
    origin, sessions = moqtrio.Origin(), list[moqtrio.Session]()
    async with websocket_client(origin, sessions) as client:
        append_groups(origin.create_broadcast("ours").create_track("t"), 0, 3, frames, size)
        await client.do("announced", id="list")
        await client.expect("announcement", id="list", path="ours")
        await client.do("subscribe", id="s", broadcast="ours", track="t", start=0, end=3)
        assert_groups(await client.groups("s", 3), 0, 3, frames, size)


async def test_error_codes_cross_as_they_are() -> None:
    origin, sessions = moqtrio.Origin(), list[moqtrio.Session]()
    async with websocket_client(origin, sessions) as client:
        origin.create_broadcast("ours")
        await client.do("announced", id="list")
        await client.expect("announcement", id="list", path="ours")
        await client.do("subscribe", id="s", broadcast="ours", track="no such track")
        error = await client.expect("error", id="s")
        assert (error["scope"], error["code"]) == ("stream", 0x33)
