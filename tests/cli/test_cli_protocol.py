"""``--protocol``, on either side; and what is said where the sides have none in common."""

from __future__ import annotations

import json

import pytest
from cli_commands import run_moqtrio, running_moqtrio, serving

import moqtrio

NAMES = [version.name for version in moqtrio.VERSIONS]


@pytest.mark.parametrize("name", NAMES)
async def test_a_client_speaks_the_version_it_was_told_to(name: str) -> None:
    async with serving("--verbose") as server:
        async with running_moqtrio(
            *("announced", server.url, *server.pinned, "--json", "--protocol", name)
        ) as running:
            assert (await running.read_message())["path"] == "b"
        done = await server.running.interrupt()
    assert f"connected, {name}" in done.err


@pytest.mark.parametrize("scheme", ["moqt", "https", "wss"])
async def test_no_version_in_common(scheme: str) -> None:
    async with serving("--protocol", "moq-lite-04") as server:
        url = server.url.replace("moqt", scheme)
        command = ("fetch", url, "b", "t", "0", *server.pinned)
        done = await run_moqtrio(*command, "--protocol", "moq-lite-05")
    assert (done.code, done.out) == (1, b"")
    message, hint = done.err.splitlines()
    assert "moq-lite-05" in message  # raw QUIC has no place for what the server speaks
    assert scheme == "moqt" or "moq-lite-04" in message
    assert "--protocol, if it was given" in hint


async def test_a_group_by_itself_from_an_old_peer() -> None:
    async with serving("--protocol", "moq-lite-04") as server:
        done = await run_moqtrio("fetch", server.url, "b", "t", "7", *server.pinned)
    assert (done.code, done.out) == (1, b"")
    message, hint = done.err.splitlines()
    assert "moq-lite-04 cannot fetch a group" in message
    assert "subscribe --from 7 --until 8" in hint


async def test_a_time_to_begin_at_from_an_old_peer() -> None:
    async with serving("--protocol", "moq-lite-03") as server:
        done = await server.subscribe("--from", "-10m")
    assert (done.code, done.out) == (1, b"")
    message, hint = done.err.splitlines()
    assert "moq-lite-03 cannot find groups by time" in message
    assert "--from also takes a sequence" in hint


async def test_publishing_at_an_old_version() -> None:
    async with serving("--protocol", "moq-lite-03") as server:
        done = await run_moqtrio(
            *("publish", server.url, *server.pinned, "--broadcast", "c", "--track", "t"),
            *("--exit", "--json", "--protocol", "moq-lite-03"),
            stdin=b"one\n",
        )
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out.splitlines()[0])["type"] == "connected"
