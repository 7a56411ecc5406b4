"""The page's client by itself, as a page of somebody else's would use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from browser_tools import BROADCAST, HERE, TRACK, Server, running, serving
from playwright.sync_api import Page

_CONNECT = """
const { Session } = await import("/session.js");
const session = await Session.open(url, { fingerprint });
"""


@pytest.fixture
def client(page: Page, server: Server) -> Page:
    """A page that may import the client."""
    page.goto(f"{server.page}icon.svg")
    return page


def run(client: Page, script: str, port: str, fingerprint: str) -> Any:
    """Run a script that has a session with a server."""
    return client.evaluate(
        f"async ({{ url, fingerprint, broadcast, track }}) => {{ {_CONNECT} {script} }}",
        {
            "url": f"https://127.0.0.1:{port}/",
            "fingerprint": fingerprint,
            "broadcast": BROADCAST,
            "track": TRACK,
        },
    )


def test_what_is_not_read_is_not_sent(client: Page, tmp_path: Path) -> None:
    script = """
        const unread = await session.subscribe(broadcast, track, { start: 0 });
        const subscription = await session.subscribe(broadcast, track, { start: 0 });
        let came = 0;
        const reading = (async () => {
            for await (const group of subscription) {
                for await (const frame of group) came += frame.payload.length > 0;
                if (came >= 200) return;
            }
        })();
        let before = -1;
        while (before !== came) {  // until nothing comes any more
            before = came;
            await new Promise((resolve) => setTimeout(resolve, 1000));
        }
        unread.close();
        await reading;
        session.close();
        return before;
    """
    with serving(tmp_path, group_frames=1) as server:
        server.wait_for_history(150)
        assert run(client, script, server.port, server.fingerprint) < 64


def test_a_range_ends(client: Page, server: Server) -> None:
    server.wait_for_history()
    script = """
        const groups = [];
        const subscription = await session.subscribe(broadcast, track, { start: 3, end: 8 });
        for await (const group of subscription) {
            let frames = 0;
            for await (const frame of group) frames += 1;
            groups.push([group.sequence, frames]);
        }
        session.close();
        return { start: subscription.start, groups };
    """
    result = run(client, script, server.port, server.fingerprint)
    assert result["start"] == 3
    assert sorted(result["groups"]) == [[sequence, 5] for sequence in range(3, 8)]


def test_refusals_say_what_and_why(client: Page, server: Server) -> None:
    script = """
        const tell = async (promise) => { try { await promise; } catch (error) {
            return [error.name, error.message, error.code]; } };
        return [
            await tell(session.subscribe(broadcast, "nothing")),
            await tell(session.fetch(broadcast, track, 2 ** 40).next()),
        ];
    """
    missing, beyond = run(client, script, server.port, server.fingerprint)
    assert missing == [
        "RequestError",
        f"track nothing of {BROADCAST}: refused with code 0x33",
        0x33,
    ]
    assert beyond[0] == "RequestError"
    assert beyond[2] is not None


def test_a_cancelled_group_does_not_look_like_a_finished_one(client: Page, server: Server) -> None:
    script = """
        const subscription = await session.subscribe(broadcast, track);
        const { value: group } = await subscription[Symbol.asyncIterator]().next();
        try {
            for await (const frame of group) group.cancel();
        } catch (error) { return error.name; }
    """
    assert run(client, script, server.port, server.fingerprint) == "RequestError"


def test_groups_that_come_as_datagrams(client: Page) -> None:
    script = """
        const subscription = await session.subscribe("b", "t");
        const groups = [];
        for await (const group of subscription) {
            for await (const { payload, time } of group) {
                groups.push([group.sequence, time, new TextDecoder().decode(payload)]);
            }
            if (groups.length === 5) break;
        }
        session.close();
        return groups;
    """
    with running(str(HERE / "small_groups.py")) as program:
        ready = program.read()
        groups = run(client, script, ready["port"], ready["fingerprint"])
    first = groups[0][0]
    assert groups == [[first + index, 1.5, "as a datagram"] for index in range(5)]


def test_a_replay_has_the_pace_of_the_recording_but_skips_holes(client: Page) -> None:
    script = """async () => {
        const { Pacer } = await import("/pacer.js");
        const { signal } = new AbortController();
        const pacer = new Pacer(2);
        const passed = [];
        const began = performance.now();
        const wait = async (time) => {
            await pacer.wait(time, signal);
            passed.push([time, performance.now() - began]);
        };
        await wait(1000);
        // Those of other groups wait at the same time, and that is no hole.
        await Promise.all([wait(1030), wait(1001), wait(9000)]);
        return passed;
    }"""
    times = dict(client.evaluate(script))
    assert list(times) == [1000, 1001, 1030, 9000]
    assert times[1000] < 100
    assert times[1001] >= 500
    assert times[9000] < 10_000
