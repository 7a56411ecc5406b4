"""The command as people use it: real processes, real QUIC on loopback."""

from __future__ import annotations

import base64
import os
import random
import subprocess
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from cli_commands import MOQTRIO, Running, run_moqtrio, running_moqtrio, serving

import moqtrio

LINES = [b"one", b"", b"two\r", b"\0\xff\xfe", "drei \N{SNOWMAN}".encode(), b"six"]
CONTENT = b"".join(line + b"\n" for line in LINES)


@pytest.fixture
def input_file(tmp_path: Path) -> Path:
    path = tmp_path / "input"
    path.write_bytes(CONTENT)
    return path


def generate_lines(count: int) -> bytes:
    source = random.Random(7)
    return b"".join(
        source.randbytes(source.randrange(200)).replace(b"\n", b"\r") + b"\n" for _ in range(count)
    )


@pytest.mark.parametrize("group_frames", [1, 7])
async def test_a_copy_through_the_store_is_identical(tmp_path: Path, group_frames: int) -> None:
    path = tmp_path / "input"
    path.write_bytes(generate_lines(10_000))
    async with serving(
        *("--input", str(path), "--group-frames", str(group_frames)),
        *("--store", str(tmp_path / "store"), "--cache-age", "0s", "--json"),
    ) as server:
        while True:
            statistics = await server.running.read_message()
            if statistics["unrecorded"] == 0 and statistics["oldest"]:
                break
        assert statistics["lost"] == 0
        done = await server.subscribe("--from", "oldest")
    assert (done.code, done.err) == (0, "")
    assert done.out == path.read_bytes()


async def test_a_copy_from_memory_is_identical(input_file: Path) -> None:
    async with serving("--input", str(input_file)) as server:
        done = await server.subscribe("--from", "oldest")
        assert (done.code, done.err, done.out) == (0, "", CONTENT)


async def test_a_last_line_without_newline_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(b"one\ntwo")
    async with serving("--input", str(path)) as server:
        done = await server.subscribe("--from", "oldest")
    assert done.out == b"one\ntwo\n"


async def test_standard_input_is_live() -> None:
    async with (
        serving(stdin=subprocess.PIPE) as server,
        running_moqtrio(
            "subscribe", server.url, "b", "t", *server.pinned, "--from", "oldest"
        ) as subscriber,
    ):
        stdin = server.running.process.stdin
        assert stdin is not None
        for line in (b"one\n", b"two\n"):
            await stdin.send_all(line)
            assert await subscriber.read_line() == line
        await stdin.aclose()
        done = await subscriber.wait()
    assert (done.code, done.out) == (0, b"")


async def test_json(input_file: Path) -> None:
    async with serving("--input", str(input_file), "--group-frames", "4") as server:
        groups = await server.subscribe("--from", "oldest", "--json")
        assert groups.code == 0
        assert groups.messages == [
            {"type": "group", "sequence": 0, "frames": 4, "bytes": 10},
            {"type": "group", "sequence": 1, "frames": 2, "bytes": 11},
            {"type": "end", "sequence": 2},
        ]
        frames = await server.subscribe("--from", "1", "--json", "--frames")
        first, second, group, end = frames.messages
        assert first.pop("timestamp_us") <= second.pop("timestamp_us")
        assert first == {
            "type": "frame",
            "group": 1,
            "index": 0,
            "payload": base64.b64encode(LINES[4]).decode(),
        }
        assert second == {
            "type": "frame",
            "group": 1,
            "index": 1,
            "payload": base64.b64encode(LINES[5]).decode(),
        }
        assert group == {"type": "group", "sequence": 1, "frames": 2, "bytes": 11}
        assert end == {"type": "end", "sequence": 2}


async def test_from_and_until_are_half_open(input_file: Path) -> None:
    async with serving("--input", str(input_file)) as server:
        done = await server.subscribe("--from", "2", "--until", "4")
        assert (done.code, done.out) == (0, b"".join(line + b"\n" for line in LINES[2:4]))
        done = await server.subscribe("--from", "latest")
        assert (done.code, done.out) == (0, LINES[-1] + b"\n")


async def test_fetch(input_file: Path) -> None:
    async with serving("--input", str(input_file), "--group-frames", "2") as server:
        fetch = ("fetch", server.url, "b", "t")
        done = await run_moqtrio(*fetch, "1", *server.pinned)
        assert (done.code, done.err, done.out) == (0, "", LINES[2] + b"\n" + LINES[3] + b"\n")
        done = await run_moqtrio(*fetch, "1", *server.pinned, "--json")
        assert done.messages == [{"type": "group", "sequence": 1, "frames": 2, "bytes": 7}]
        done = await run_moqtrio(*fetch, "9", *server.pinned)
        assert (done.code, done.out) == (1, b"")
        assert "group 9" in done.err
        assert "Traceback" not in done.err


async def test_what_is_not_there_is_answered_with_what_is(input_file: Path) -> None:
    async with serving("--input", str(input_file)) as server:
        done = await run_moqtrio("subscribe", server.url, "elsewhere", "t", *server.pinned)
        assert (done.code, done.out) == (1, b"")
        message, hint = done.err.splitlines()
        assert message.startswith("moqtrio: elsewhere/t: ")
        assert hint == "  hint: announced there: b"
        done = await run_moqtrio("subscribe", server.url, "b", "other", *server.pinned)
        assert done.code == 1
        assert "track's name" in done.err


async def test_a_track_that_is_given_up_is_told_with_where_to_go_on() -> None:
    origin = moqtrio.Origin()
    track = origin.create_broadcast("b").create_track("t")
    with track.append_group() as group:
        group.write_frame(b"one")
    tls = moqtrio.generate_certificate()
    async with trio.open_nursery() as nursery:
        listener = await nursery.start(
            partial(moqtrio.serve, origin, "https://127.0.0.1:0", tls=tls)
        )
        async with running_moqtrio(
            *("subscribe", listener.url, "b", "t", "--from", "oldest"),
            *("--tls-fingerprint", listener.fingerprint),
        ) as subscriber:
            assert await subscriber.read_line() == b"one\n"
            track.abort()
            done = await subscriber.wait()
        nursery.cancel_scope.cancel()
    assert done.code == 1
    message, hint = done.err.splitlines()
    assert message.startswith("moqtrio: the publisher ended the subscription to b/t")
    assert hint == "  hint: subscribe again --from 1 to go on where it ended"


async def test_announced(input_file: Path) -> None:
    async with serving("--input", str(input_file)) as server:
        async with running_moqtrio("announced", server.url, "", *server.pinned, "--json") as lister:
            assert await lister.read_message() == {
                "type": "announced",
                "path": "b",
                "active": True,
            }
            await assert_interrupted(lister)
        async with running_moqtrio("announced", server.url, *server.pinned) as lister:
            assert await lister.read_line() == b"+ b\n"


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], "--tls-fingerprint"),
        (["--tls-fingerprint", "00" * 32], "fingerprint"),
    ],
)
async def test_a_certificate_that_is_not_trusted_is_refused(
    input_file: Path, options: list[str], expected: str
) -> None:
    async with serving("--input", str(input_file)) as server:
        done = await run_moqtrio("subscribe", server.url, "b", "t", "--from", "oldest", *options)
    assert (done.code, done.out) == (1, b"")
    assert expected in done.err
    assert "Traceback" not in done.err


async def test_insecure_has_to_be_asked_for(input_file: Path) -> None:
    async with serving("--input", str(input_file)) as server:
        done = await run_moqtrio(
            "subscribe", server.url, "b", "t", "--from", "oldest", "--tls-insecure"
        )
    assert (done.code, done.out) == (0, CONTENT)


async def assert_interrupted(running: Running) -> None:
    done = await running.interrupt()
    assert (done.code, done.err) == (130, "")


async def test_control_c_is_130_without_a_word(input_file: Path) -> None:
    async with serving("--input", "-", stdin=subprocess.PIPE) as server:
        stdin = server.running.process.stdin
        assert stdin is not None
        await stdin.send_all(b"one\n")
        async with running_moqtrio(
            "subscribe", server.url, "b", "t", *server.pinned, "--from", "oldest"
        ) as subscriber:
            assert await subscriber.read_line() == b"one\n"
            await assert_interrupted(subscriber)
        await assert_interrupted(server.running)


async def test_a_reader_that_leaves_is_not_an_error(tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(generate_lines(50_000))
    async with (
        serving("--input", str(path), "--store", str(tmp_path / "store")) as server,
        running_moqtrio(
            "subscribe", server.url, "b", "t", *server.pinned, "--from", "oldest"
        ) as subscriber,
    ):
        await subscriber.read_line()
        assert subscriber.process.stdout is not None
        assert subscriber.process.stderr is not None
        await subscriber.process.stdout.aclose()
        assert await subscriber.process.wait() == 0
        assert await subscriber.process.stderr.receive_some() == b""


async def read_terminal(master: int) -> bytes:
    shown = b""
    while True:
        await trio.lowlevel.wait_readable(master)
        try:
            shown += os.read(master, 65536)
        except OSError:  # how Linux says that the other side has gone
            return shown


@pytest.mark.parametrize("output_too", [False, True])
async def test_progress_is_for_terminals(input_file: Path, output_too: bool) -> None:
    master, terminal = os.openpty()
    async with serving("--input", str(input_file)) as server, trio.open_nursery() as nursery:
        subscribe = partial(
            trio.run_process,
            [*MOQTRIO, "subscribe", server.url, "b", "t", *server.pinned, "--from", "oldest"],
            stdin=subprocess.DEVNULL,
            stdout=terminal if output_too else subprocess.DEVNULL,
            stderr=terminal,
        )
        await nursery.start(subscribe)
        os.close(terminal)
        screen = await read_terminal(master)
    os.close(master)
    if output_too:
        assert screen == CONTENT.replace(b"\n", b"\r\n")
    else:
        assert b"1 group, " in screen
        assert screen.endswith(b"\x1b[2K")  # and it is taken away


async def test_no_server_is_one_line_and_a_hint() -> None:
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as free:
        await free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = await run_moqtrio("subscribe", f"moqt://127.0.0.1:{port}", "b", "t")
    assert (done.code, done.out) == (1, b"")
    message, hint = done.err.splitlines()
    assert message.startswith("moqtrio: ")
    assert "is the server running" in hint


async def test_the_port_is_taken(input_file: Path) -> None:
    async with serving("--input", str(input_file)) as server:
        done = await run_moqtrio(
            *("serve", server.url, "--broadcast", "b", "--track", "t"),
            *("--tls-generate", "localhost"),
        )
    assert (done.code, done.out) == (1, b"")
    assert "in use" in done.err
    assert "port 0" in done.err


async def test_a_restarted_server_goes_on_where_it_was(tmp_path: Path) -> None:
    store = ("--store", str(tmp_path / "store"))
    for text in (b"one\n", b"two\n"):
        path = tmp_path / "input"
        path.write_bytes(text)
        async with serving("--input", str(path), "--exit", *store) as server:
            assert (await server.running.wait()).code == 0
    path.write_bytes(b"three\n")
    async with serving("--input", str(path), *store) as server:
        done = await server.subscribe("--from", "oldest")
        assert (done.code, done.out) == (0, b"one\ntwo\nthree\n")


@asynccontextmanager
async def open_relay() -> AsyncIterator[
    tuple[moqtrio.Listener, trio.MemoryReceiveChannel[moqtrio.Session]]
]:
    """A server, and the sessions that connect to it."""
    sessions, relay = trio.open_memory_channel[moqtrio.Session](1)
    serve = partial(
        moqtrio.serve,
        moqtrio.Origin(),
        "moqt://127.0.0.1:0",
        tls=moqtrio.generate_certificate(),
        on_session=sessions.send_nowait,
    )
    async with trio.open_nursery() as nursery:
        listener = await nursery.start(serve)
        yield listener, relay
        nursery.cancel_scope.cancel()


def publishing(listener: moqtrio.Listener, path: Path) -> AbstractAsyncContextManager[Running]:
    return running_moqtrio(
        *("publish", listener.url, "--tls-fingerprint", listener.fingerprint),
        *("--broadcast", "b", "--track", "t", "--input", str(path)),
    )


async def test_publish_through_a_relay(input_file: Path) -> None:
    async with open_relay() as (listener, relay), publishing(listener, input_file) as publisher:
        assert await publisher.read_message() == {"type": "connected", "url": listener.url}
        session = await relay.receive()
        async with session.announced() as announcements:
            announcement = await announcements.receive()
            assert (announcement.path, announcement.active) == ("b", True)
        received: list[bytes] = []
        async with session.subscribe("b", "t", start=0) as subscription:
            async for item in subscription:
                assert isinstance(item, moqtrio.GroupConsumer)
                received += [frame.payload for frame in await item.read_all()]
        assert received == LINES
        await assert_interrupted(publisher)


async def test_publish_says_when_the_relay_has_gone(input_file: Path) -> None:
    async with open_relay() as (listener, relay), publishing(listener, input_file) as publisher:
        await publisher.read_message()
        (await relay.receive()).close(0, "enough")
        done = await publisher.wait()
    assert (done.code, done.out) == (1, b"")
    assert "enough" in done.err


async def test_store_info(input_file: Path, tmp_path: Path) -> None:
    directory = str(tmp_path / "store")
    before = await run_moqtrio("store", "info", directory)
    assert (before.code, before.out) == (2, b"")
    assert directory in before.err

    async with serving("--input", str(input_file), "--store", directory, "--exit") as server:
        assert (await server.running.wait()).code == 0
    done = await run_moqtrio("store", "info", directory, "--json")
    assert (done.code, done.err) == (0, "")
    track, file, store = done.messages
    assert (track["type"], track["broadcast"], track["track"]) == ("track", "b", "t")
    assert (track["oldest"], track["next_sequence"]) == (0, len(LINES))
    assert (track["groups"], track["frames"]) == (len(LINES), len(LINES))
    assert track["bytes"] == sum(map(len, LINES))
    assert (file["type"], file["state"]) == ("file", "sealed")
    assert (store["type"], store["path"], store["problems"]) == ("store", directory, [])


async def test_a_subscriber_says_how_to_go_on_when_the_server_leaves() -> None:
    async with (
        serving(stdin=subprocess.PIPE) as server,
        running_moqtrio(
            "subscribe", server.url, "b", "t", *server.pinned, "--from", "oldest"
        ) as subscriber,
    ):
        stdin = server.running.process.stdin
        assert stdin is not None
        await stdin.send_all(b"one\n")
        assert await subscriber.read_line() == b"one\n"
        await assert_interrupted(server.running)
        done = await subscriber.wait()
    assert (done.code, done.out) == (1, b"")
    assert "--from 1 to go on" in done.err


async def test_what_was_published_before_an_interruption_is_replayed(tmp_path: Path) -> None:
    store = ("--store", str(tmp_path / "store"), "--group-frames", "10")
    async with (
        serving(*store, stdin=subprocess.PIPE) as server,
        running_moqtrio(
            "subscribe", server.url, "b", "t", *server.pinned, "--from", "oldest"
        ) as subscriber,
    ):
        stdin = server.running.process.stdin
        assert stdin is not None
        await stdin.send_all(b"one\ntwo\n")
        assert await subscriber.read_line() == b"one\n"
        assert await subscriber.read_line() == b"two\n"
        await assert_interrupted(server.running)
    async with serving("--input", "/dev/null", *store) as server:
        done = await server.subscribe("--from", "oldest", "--json")
    assert done.code == 0
    assert done.messages == [
        {"type": "group", "sequence": 0, "frames": 2, "bytes": 6},
        {"type": "end", "sequence": 1},
    ]


async def test_telemetry() -> None:
    async with serving("--input", "telemetry", "--seconds", "200ms") as server:
        done = await server.subscribe("--from", "oldest")
    samples = done.out.splitlines()
    assert done.code == 0
    assert len(samples) == 10
    assert all(sample.startswith(b'{"sample":') for sample in samples)


async def test_demo() -> None:
    done = await run_moqtrio("demo", "--seconds", "5", "--json")
    assert (done.code, done.err) == (0, "")
    (result,) = done.messages
    assert result["ok"] is True
    assert result["recorded"] == 250
    assert result["from_store"] > 0
    assert result["gaps"] == result["mismatches"] == result["early_mismatches"] == 0
    assert result["from_store"] + result["from_memory"] + result["live"] == result["recorded"]
