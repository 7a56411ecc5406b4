"""Clients follow a server that is killed, stopped, frozen and started again on its port."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from e2e_tools import end_process, start_python, until
from reconnect_server import frames_of, payload

import moqtrio
from moqtrio import Backoff, Gap, StreamReset, TransportSettings

BACKOFF = Backoff(initial=0.05, maximum=0.5, seconds=60.0)
# Whoever is gone without a word is missed soon.
IMPATIENT = TransportSettings(idle_timeout=1.5, keep_alive=0.3, connect_timeout=1.0)


@attrs.define(eq=False)
class Process:
    """A server's process."""

    popen: subprocess.Popen[str]
    said: dict[str, int]

    async def end(self, number: int) -> None:
        self.popen.send_signal(number)
        await trio.to_thread.run_sync(self.popen.wait)


@attrs.define(eq=False)
class Site:
    """Where servers come and go: one port, one certificate, one store or none."""

    directory: Path
    store: bool
    fingerprint: str = ""
    port: int = 0
    processes: list[Process] = attrs.Factory(list)

    async def start(self) -> Process:
        script = Path(__file__).with_name("reconnect_server.py").read_text()
        files = [self.directory / "cert.pem", self.directory / "key.pem"]
        arguments = [self.port, *files, f"run{len(self.processes)}"]
        if self.store:
            arguments.append(self.directory / "store")
        popen = start_python(script, arguments)
        assert popen.stdout is not None
        process = Process(popen, {})
        self.processes.append(process)
        process.said = json.loads(await trio.to_thread.run_sync(popen.stdout.readline))
        self.port = process.said["port"]
        return process

    def open_session(self) -> AbstractAsyncContextManager[moqtrio.ReconnectingSession]:
        return moqtrio.open_session(
            f"moqt://127.0.0.1:{self.port}",
            tls=moqtrio.ClientTls(fingerprint=self.fingerprint),
            transport=IMPATIENT,
            reconnect=BACKOFF,
        )


@asynccontextmanager
async def site(directory: Path, *, store: bool) -> AsyncIterator[Site]:
    tls = moqtrio.generate_certificate()
    credentials = tls.credentials
    (directory / "cert.pem").write_bytes(credentials.certificate.public_bytes(Encoding.PEM))
    (directory / "key.pem").write_bytes(
        credentials.private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    place = Site(directory, store, tls.fingerprint)
    try:
        yield place
    finally:
        for process in place.processes:
            process.popen.kill()
        complaints = [end_process(process.popen) for process in place.processes]
    assert not any("Traceback" in each for each in complaints), complaints


@attrs.define(eq=False)
class Follower:
    """Follows the track over all lives of its server, and checks every frame that comes."""

    start: int | None = None
    groups: dict[int, int] = attrs.field(factory=dict, repr=False)
    reset: dict[int, int] = attrs.Factory(dict)
    gaps: list[Gap] = attrs.Factory(list)
    runs: set[str] = attrs.Factory(set)
    failure: moqtrio.EpochChanged | None = None

    @property
    def end(self) -> int:
        return max(self.groups, default=-1) + 1

    async def follow(
        self, session: moqtrio.ReconnectingSession, start: int | None, order: str
    ) -> None:
        try:
            async with (
                session.subscribe("events", "all", start=start, order=order) as subscription,  # type: ignore[arg-type]  # one of two
                trio.open_nursery() as nursery,
            ):
                async for item in subscription:
                    self.start = subscription.start
                    if isinstance(item, Gap):
                        self.gaps.append(item)
                    elif order == "arrival":
                        nursery.start_soon(self.read, item)
                    else:
                        await self.read(item)
        except* moqtrio.EpochChanged as group:
            self.failure = group.exceptions[0]  # type: ignore[assignment]  # one, or as good as another

    async def read(self, group: moqtrio.GroupConsumer) -> None:
        sequence = group.sequence
        assert sequence not in self.groups, f"group {sequence} came twice"
        count = self.groups[sequence] = 0
        run = None
        try:
            while batch := await group.receive_batch():
                for frame in batch:
                    found = frame.payload.split(b"/")[0].decode()
                    run = run or found
                    assert frame.payload == payload(run, sequence, count), (sequence, count)
                    count += 1
                self.groups[sequence] = count
        except StreamReset as error:
            self.reset[sequence] = error.code
        else:
            assert count == frames_of(sequence), f"group {sequence} has {count} frames"
        self.runs.add(run or "")

    def has_all(self, end: int) -> bool:
        """Whether every sequence below ``end`` is there: as a group, or in a gap.

        Each is there once: what comes twice fails at once.
        """
        missing = [each for gap in self.gaps for each in range(gap.start, gap.end)]
        assert len(missing) == len(set(missing)), self.gaps
        assert not set(missing) & self.groups.keys(), self.gaps
        if self.start is None:
            return False
        return {*self.groups, *missing}.issuperset(range(self.start, end))


@asynccontextmanager
async def following(place: Site) -> AsyncIterator[list[Follower]]:
    """Three subscriptions at once: from the oldest group in both orders, and the latest."""
    followers = [Follower() for _ in range(3)]
    wishes = ((0, "sequence"), (0, "arrival"), (None, "sequence"))
    async with place.open_session() as session, trio.open_nursery() as nursery:
        for follower, (start, order) in zip(followers, wishes, strict=True):
            nursery.start_soon(follower.follow, session, start, order)
        yield followers
        nursery.cancel_scope.cancel()


async def all_reach(followers: list[Follower], end: int) -> None:
    await until(lambda: all(follower.has_all(end) for follower in followers), 40)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
async def test_a_server_with_a_store_is_followed_over_its_lives(
    tmp_path: Path, how: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with site(tmp_path, store=True) as place:
        server = await place.start()
        async with following(place) as followers:
            for _ in range(2):
                await all_reach(followers, server.said["first"] + 25)
                ending_at = trio.current_time()
                await server.end(how)
                assert trio.current_time() - ending_at < 2.5  # not the whole of its grace
                server = await place.start()
            await all_reach(followers, server.said["first"] + 25)
        for follower in followers:
            assert len(follower.runs) == 3
            if how == signal.SIGTERM:  # nothing was under way, and all was recorded
                assert follower.reset == {}
                assert len(follower.groups) > 70
        assert len({process.said["epoch"] for process in place.processes}) == 1
    lines = [record.message for record in caplog.records if "connect" in record.message]
    assert [("lost" in line, "again after" in line) for line in lines] == [
        (True, False),
        (False, True),
    ] * 2


async def test_a_server_without_a_store_is_another_after_its_death(tmp_path: Path) -> None:
    async with site(tmp_path, store=False) as place:
        first = await place.start()
        async with following(place) as followers:
            await all_reach(followers, 25)
            await first.end(signal.SIGKILL)
            second = await place.start()
            await until(lambda: all(follower.failure for follower in followers))
        for follower in followers:
            assert follower.failure is not None
            assert follower.failure.previous == first.said["epoch"]
            assert follower.failure.current == second.said["epoch"]
            assert follower.runs <= {"run0", ""}


async def test_a_network_that_swallows_everything(tmp_path: Path) -> None:
    """A frozen server answers nothing and closes nothing; then it goes on where it was."""
    async with site(tmp_path, store=True) as place:
        server = await place.start()
        async with following(place) as followers:
            await all_reach(followers, 25)
            server.popen.send_signal(signal.SIGSTOP)
            await trio.sleep(2.5)  # longer than the idle timeout, in real time
            server.popen.send_signal(signal.SIGCONT)
            seen = max(follower.end for follower in followers)
            await all_reach(followers, seen + 25)
        for follower in followers:
            assert (follower.gaps, follower.reset, follower.runs) == ([], {}, {"run0"})
