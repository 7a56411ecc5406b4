"""The example that answers for its history from a database, in a process of its own, killed
half-way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import moqtrio

EXAMPLE = Path(__file__).parents[2] / "examples" / "on_demand.py"


@contextmanager
def running(directory: Path) -> Iterator[tuple[str, str]]:
    """The example, publishing; its URL and fingerprint."""
    command = [sys.executable, "-W", "error", str(EXAMPLE), "moqt://127.0.0.1:0"]
    with subprocess.Popen(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline().split()
            url, fingerprint = line
            yield url, fingerprint
        finally:
            process.kill()
            _, errors = process.communicate(timeout=30)
            assert errors == ""


async def follow(url: str, fingerprint: str, count: int) -> list[tuple[int, datetime]]:
    """The first ``count`` ticks, from the oldest on."""
    ticks: list[tuple[int, datetime]] = []
    async with (
        moqtrio.open_session(url, tls=moqtrio.ClientTls(fingerprint=fingerprint)) as session,
        session.subscribe("clock", "utc", start=0) as subscription,
    ):
        async for item in subscription:
            assert isinstance(item, moqtrio.GroupConsumer)
            (frame,) = await item.read_all()
            at = datetime.fromisoformat(frame.payload.decode())
            assert frame.timestamp_us == int(at.timestamp() * 1_000_000)
            ticks.append((item.sequence, at))
            if len(ticks) == count:
                break
    return ticks


async def test_history_outlives_the_process(tmp_path: Path) -> None:
    with running(tmp_path) as (url, fingerprint):
        before = await follow(url, fingerprint, 6)
    with running(tmp_path) as (url, fingerprint):
        after = await follow(url, fingerprint, 12)
    assert [sequence for sequence, _ in after] == list(range(12))
    assert after[:6] == before
    assert after == sorted(after, key=lambda tick: tick[1])
