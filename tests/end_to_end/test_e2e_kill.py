"""A server is killed while it records: what was durable is served, nothing is reused."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio
from e2e_tools import Follower, end_process, start_python, until
from recording_server import FRAMES, payload

import moqtrio
from moqtrio import Frame, Gap

RUNS = 4


@attrs.define(eq=False)
class RecordingServer:
    """The server's process, and what it has said."""

    process: subprocess.Popen[str]
    listening: dict[str, Any] = attrs.Factory(dict)
    durable_end: int = 0
    lost: int = 0
    over: bool = False

    async def read_output(self) -> None:
        """Take in what it says, until it is gone."""
        assert self.process.stdout is not None
        while line := await trio.to_thread.run_sync(self.process.stdout.readline):
            if not line.endswith("\n"):
                break  # torn by the kill
            said = json.loads(line)
            if "url" in said:
                self.listening = said
            else:
                self.durable_end, self.lost = said["durable_end"], said["lost"]
        self.over = True

    def connect(self, **options: Any) -> Any:
        """A client's session, as a context manager."""
        tls = moqtrio.ClientTls(fingerprint=self.listening["fingerprint"])
        return moqtrio.open_session(self.listening["url"], tls=tls, **options)

    async def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        await until(lambda: self.over)

    def tell(self, word: str) -> None:
        """Say something to it; nothing to make it go."""
        assert self.process.stdin is not None
        if word:
            print(word, file=self.process.stdin, flush=True)
        else:
            self.process.stdin.close()


@asynccontextmanager
async def recording_server(directory: Path, run: str) -> AsyncIterator[RecordingServer]:
    script = Path(__file__).with_name("recording_server.py").read_text()
    server = RecordingServer(start_python(script, [directory, run]))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.read_output)
            await until(lambda: server.listening or server.over)
            assert server.listening, "it did not start"
            yield server
            server.tell("")
            await until(lambda: server.over)
    finally:
        server.process.kill()
        errors = end_process(server.process)
        assert "Traceback" not in errors, errors


def run_of(frames: list[Frame], sequence: int) -> str:
    """Which run wrote a group; checks that the group is wholly that run's."""
    run = frames[0].payload.split(b"/")[0].decode()
    expected = [payload(run, sequence, index) for index in range(FRAMES)]
    assert [frame.payload for frame in frames] == expected
    return run


async def test_killed_again_and_again(tmp_path: Path) -> None:
    """One subscriber stays through all runs, each time asking for the first group it lacks;
    another comes when all is over. Both know everything there is to know."""
    directory = tmp_path / "store"
    seen: dict[int, list[Frame]] = {}
    missed: list[Gap] = []
    accounted = 0  # the subscriber knows of every sequence below this
    durable: list[range] = []
    first_of_run: list[int] = []
    for run in range(RUNS):
        async with recording_server(directory, f"run{run}") as server:
            first = server.listening["first"]
            first_of_run.append(first)
            assert first >= accounted, "a sequence that was seen may be used once more"
            last_run = run == RUNS - 1
            follower = Follower()
            with trio.fail_after(40):
                async with trio.open_nursery() as nursery, server.connect() as session:
                    nursery.start_soon(follow_from, follower, session, accounted)
                    goal = first + 150 + 130 * run
                    await until(
                        lambda server=server, follower=follower, goal=goal: (
                            server.durable_end >= goal and max(follower.complete, default=0) >= goal
                        )
                    )
                    if last_run:
                        server.tell("finish")
                        await until(lambda follower=follower: follower.ended)
                        await check_newcomer(server, seen, durable, first_of_run)
                    else:
                        await server.kill()
                        nursery.cancel_scope.cancel()
            assert server.lost == 0
            durable.append(range(first, server.durable_end))
            accounted = take_over(follower, seen, missed, accounted)
    assert missed, "every restart after a kill skips what was reserved"
    assert {gap.code for gap in missed} == {0}
    lost = {sequence for gap in missed for sequence in range(gap.start, gap.end)}
    assert not lost & {sequence for each in durable for sequence in each}
    assert not lost & seen.keys()
    assert sorted(lost | seen.keys()) == list(range(accounted))


async def follow_from(follower: Follower, session: moqtrio.Session, start: int) -> None:
    await follower.follow(session, start=start)


def take_over(
    follower: Follower, seen: dict[int, list[Frame]], missed: list[Gap], accounted: int
) -> int:
    """Add to what the subscriber knows; returns up to where it knows everything."""
    assert follower.error is None or isinstance(follower.error, moqtrio.SessionClosed)
    assert follower.reset == {}
    assert follower.start is not None
    for sequence in follower.complete:
        run_of(follower.groups[sequence], sequence)
        assert sequence not in seen
        seen[sequence] = follower.groups[sequence]
    gaps = list(follower.gaps)
    if follower.start > accounted:
        gaps.append(Gap(accounted, follower.start, 0))
    missed += gaps
    known = [*follower.complete, *(each for gap in gaps for each in range(gap.start, gap.end))]
    assert sorted(known) == list(range(accounted, accounted + len(known)))
    return accounted + len(known)


async def check_newcomer(
    server: RecordingServer,
    seen: dict[int, list[Frame]],
    durable: list[range],
    first_of_run: list[int],
) -> None:
    """Who asks for everything gets all that was durable, the same as others got before."""
    newcomer = Follower()
    async with server.connect() as session:
        await newcomer.follow(session)
    assert newcomer.ended
    assert newcomer.reset == {}
    assert newcomer.start == 0
    assert newcomer.final is not None
    assert newcomer.accounted() == list(range(newcomer.final))
    for each in durable:
        assert set(each) <= set(newcomer.complete)
    for sequence in newcomer.complete:
        frames = newcomer.groups[sequence]
        run = run_of(frames, sequence)
        expected = max(n for n, first in enumerate(first_of_run) if first <= sequence)
        assert run == f"run{expected}"
        assert seen.get(sequence, frames) == frames, "one sequence had two contents"


async def test_a_client_notices_that_the_server_is_gone(tmp_path: Path) -> None:
    """Nobody says goodbye: the subscription ends with an error, not as if the track had."""
    transport = moqtrio.TransportSettings(idle_timeout=1.5, keep_alive=0.5)
    follower = Follower()
    async with recording_server(tmp_path / "store", "run") as server:
        with trio.fail_after(30):
            async with server.connect(transport=transport) as session, trio.open_nursery() as tasks:
                tasks.start_soon(follow_from, follower, session, 0)
                await until(lambda: len(follower.complete) > 50)
                await server.kill()
    assert isinstance(follower.error, moqtrio.SessionClosed)
    assert not follower.ended
