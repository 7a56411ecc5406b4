"""examples/atproto_firehose.py against a relay of our own: nothing lost, nothing doubled."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import libipld
import pytest
import trio
from relay import EXAMPLE, Example, Relay, Replayed, open_relay, run_example

from benchmarks.firehose import FIRST_SEQUENCE, FRAMES_PER_GROUP

TIME_LIMIT = 30.0


def check_all(relay: Relay, replayed: Replayed, end: int) -> None:
    """Every message below ``end`` came once, in order, byte for byte, in one frame each."""
    assert len(replayed.messages) == end - FIRST_SEQUENCE
    for sequence, message in enumerate(replayed.messages, FIRST_SEQUENCE):
        assert message == relay.firehose.message(sequence), sequence


async def replay_all(relay: Relay, example: Example, end: int) -> Replayed:
    replayed = await example.replay(relay.firehose.message(end - 1))
    check_all(relay, replayed, end)
    return replayed


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  # other processes bring it about
        await trio.sleep(0.01)


async def test_a_late_subscriber_gets_every_message(tmp_path: Path) -> None:
    with trio.fail_after(TIME_LIMIT):
        async with open_relay(tmp_path) as relay, run_example(relay.url, tmp_path) as example:
            relay.publish(20 * FRAMES_PER_GROUP)
            await until(lambda: relay.sent == relay.available)
            replayed = await replay_all(relay, example, relay.available)
            assert replayed.gaps == []
            assert replayed.cut_short == []
            assert relay.cursors == [None]
            assert max(replayed.group_sizes) == FRAMES_PER_GROUP

            relay.publish(3)  # A group that nothing fills is not held back for long.
            with trio.fail_after(5):
                await replay_all(relay, example, relay.available)
            await refuses_a_second(relay, tmp_path)


async def refuses_a_second(relay: Relay, directory: Path) -> None:
    """One store is one process's."""
    second = await trio.run_process(
        [sys.executable, str(EXAMPLE), relay.url, "--store", str(directory / "store")],
        capture_stderr=True,
        check=False,
    )
    assert second.returncode == 1
    (line,) = second.stderr.decode().splitlines()
    assert "in use by process" in line


async def test_a_broken_connection_is_taken_up_again(tmp_path: Path) -> None:
    with trio.fail_after(TIME_LIMIT):
        async with open_relay(tmp_path) as relay, run_example(relay.url, tmp_path) as example:
            for round_number in range(1, 4):
                relay.publish(100_000)
                goal = FIRST_SEQUENCE + round_number * 500
                await until(lambda goal=goal: relay.sent >= goal)
                await relay.cut()
                relay.available = relay.sent + 200  # and, of course, life goes on
            replayed = await replay_all(relay, example, relay.available)
            assert replayed.gaps == []
            assert replayed.cut_short == []
            assert len(relay.cursors) == 4
            assert relay.cursors[0] is None
            resumed = [cursor for cursor in relay.cursors if cursor is not None]
            assert resumed == sorted(set(resumed))


async def test_after_a_kill_it_goes_on_where_it_was(tmp_path: Path) -> None:
    """As who comes when all is over sees it, and who was there all the time."""
    follower = Replayed()
    with trio.fail_after(TIME_LIMIT):
        async with open_relay(tmp_path) as relay:
            for round_number in range(1, 4):
                async with (
                    run_example(relay.url, tmp_path) as example,
                    trio.open_nursery() as tasks,
                ):
                    tasks.start_soon(example.follow, follower, lambda: False)
                    relay.publish(100_000)
                    goal = FIRST_SEQUENCE + round_number * 700 + 20
                    await until(lambda goal=goal: relay.sent >= goal)
                    await example.end(signal.SIGKILL)
                    tasks.cancel_scope.cancel()
                    relay.available = relay.sent + 200
            last = relay.firehose.message(relay.available - 1)
            async with run_example(relay.url, tmp_path) as example:
                newcomer = await replay_all(relay, example, relay.available)
                await example.follow(follower, lambda: last in follower.messages[-1:])
                check_all(relay, follower, relay.available)
            assert len(relay.cursors) == 4
            assert all(cursor is not None for cursor in relay.cursors[1:])
            # Numbers that were set aside and not used, and groups that the kill cut short.
            assert len(newcomer.gaps) + len(newcomer.cut_short) <= 6


async def test_it_stops_in_good_order(tmp_path: Path) -> None:
    with trio.fail_after(TIME_LIMIT):
        async with open_relay(tmp_path) as relay:
            async with run_example(relay.url, tmp_path) as example:
                relay.publish(1000)
                await replay_all(relay, example, relay.available)
                assert await example.end() == 0
            async with run_example(relay.url, tmp_path) as example:
                relay.publish(10)
                replayed = await replay_all(relay, example, relay.available)
            assert relay.cursors == [None, relay.available - 11]
            assert replayed.gaps == []
            assert replayed.cut_short == []


async def test_what_is_no_event_is_told_and_not_recorded(tmp_path: Path) -> None:
    information = {"op": 1, "t": "#info"}, {"name": "OutdatedCursor", "message": "too old"}
    error = {"op": -1}, {"error": "ConsumerTooSlow", "message": "read faster"}
    with trio.fail_after(TIME_LIMIT):
        async with open_relay(tmp_path) as relay, run_example(relay.url, tmp_path) as example:
            await until(lambda: relay.cursors == [None])
            relay.first_words = ["text", b"", b"\xff\x00", encode(*information), encode(*error)]
            await relay.cut()
            await until(lambda: "ConsumerTooSlow: read faster" in example.log.read_text())
            said = example.log.read_text()
            assert "OutdatedCursor: too old" in said
            assert "skipped a message of 2 bytes" in said
            relay.first_words = []
            relay.publish(10)
            await replay_all(relay, example, relay.available)


def encode(header: dict[str, object], body: dict[str, object]) -> bytes:
    return libipld.encode_dag_cbor(header) + libipld.encode_dag_cbor(body)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--store", "x", "https://bsky.network"], "expected a URL such as wss://"),
        (["--store", "x", "--window", "long"], "expected a duration such as 90s"),
    ],
)
def test_wrong_usage_is_explained(arguments: list[str], complaint: str) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLE, *arguments], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 2
    assert complaint in done.stderr
