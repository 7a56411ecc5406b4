"""``--reconnect``, and how ``serve`` leaves."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

from cli_commands import running_moqtrio


async def test_a_subscriber_follows_a_server_that_comes_back(tmp_path: Path) -> None:
    options = (
        *("--broadcast", "b", "--track", "t", "--store", str(tmp_path / "store")),
        *("--tls-generate", "localhost"),
    )
    url = "moqt://127.0.0.1:0"
    async with running_moqtrio("serve", url, *options, stdin=subprocess.PIPE) as first:
        url = (await first.read_message())["url"]
        assert first.process.stdin is not None
        await first.process.stdin.send_all(b"one\ntwo\n")
        async with running_moqtrio(
            *("subscribe", url, "b", "t", "--from", "oldest", "--tls-insecure", "--reconnect")
        ) as subscriber:
            assert [await subscriber.read_line() for _ in range(2)] == [b"one\n", b"two\n"]
            first.process.send_signal(signal.SIGTERM)
            assert await first.process.wait() == 128 + signal.SIGTERM
            async with running_moqtrio("serve", url, *options, stdin=subprocess.PIPE) as second:
                await second.read_message()
                assert second.process.stdin is not None
                await second.process.stdin.send_all(b"three\n")
                assert await subscriber.read_line() == b"three\n"
                await second.process.stdin.aclose()
                done = await subscriber.wait()
    assert (done.code, done.out) == (0, b"")
    lines = [line for line in done.err.splitlines() if "WARNING" in line]
    assert len(lines) == 2, done.err
    assert "connection lost (session closed by the peer: going away" in lines[0]
    assert "connected again after" in lines[1]
