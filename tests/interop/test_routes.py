"""The ways by which broadcasts come, through a moq-rs relay."""

from __future__ import annotations

import pytest
import trio

import moqtrio
from moqtrio.wire import LITE_04, LITE_05, LITE_06, Version

from .endpoints import session_with
from .processes import moq_rs_server


@pytest.mark.parametrize("version", [LITE_06, LITE_05, LITE_04], ids=str)
async def test_hops_and_costs_go_on(version: Version) -> None:
    origin = moqtrio.Origin()
    ours = origin.create_broadcast("ours")
    theirs = origin.create_broadcast("theirs", route=moqtrio.Route((7, 8), cost=3, cold_cost=9))
    costs = moqtrio.SessionSettings(cost=5)
    async with (
        moq_rs_server() as relay,
        session_with(relay, publish=origin, version=version, settings=costs),
        session_with(relay, version=version) as reader,
        reader.announced() as announcements,
    ):
        with trio.fail_after(15):
            found: dict[str, moqtrio.Announcement] = {}
            while len(found) < 2:
                each = await announcements.receive()
                found[each.path] = each
            relay_hop = found["ours"].hops[-1]
            assert relay_hop != origin.hop_id
            assert found["ours"].hops == (origin.hop_id, relay_hop)
            assert found["theirs"].hops == (7, 8, origin.hop_id, relay_hop)
            if version is LITE_06:
                # What they cost here, our link (5) and the relay's (1).
                assert (found["ours"].cost, found["ours"].cold_cost) == (6, 6)
                assert (found["theirs"].cost, found["theirs"].cold_cost) == (9, 15)
                theirs.reroute(moqtrio.Route((7,), cost=1))
                each = await announcements.receive()
                assert (each.path, each.active) == ("theirs", True)
                assert (each.hops, each.cost) == ((7, origin.hop_id, relay_hop), 7)
            ours.close()
            each = await announcements.receive()
            assert (each.path, each.active) == ("ours", False)


async def test_a_loop_is_not_announced() -> None:
    """What has come through the relay already is not sent on by it, nor told to who sent it."""
    origin = moqtrio.Origin()
    async with (
        moq_rs_server() as relay,
        session_with(relay, publish=origin) as publisher,
        session_with(relay) as reader,
        reader.announced() as announcements,
    ):
        with trio.fail_after(15):
            async with publisher.announced():
                pass  # It waits for what the relay says of itself.
            assert publisher.peer_origin is not None
            loop = moqtrio.Route((7, publisher.peer_origin))
            origin.create_broadcast("loop", route=loop)
            origin.create_broadcast("straight")
            assert (await announcements.receive()).path == "straight"
            assert [each.path for each in announcements.active] == ["straight"]
