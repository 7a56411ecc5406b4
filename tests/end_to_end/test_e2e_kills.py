"""A server is killed again and again while it records, seals and trims: what was acknowledged
as durable and is within retention is served, unchanged, and no sequence is used twice."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from pathlib import Path

import attrs
import pytest
import trio
from e2e_tools import until
from killing import Delivered, RecordingServer, Witness, recording_servers
from recording_server import ABORT_CODE, RETENTION_BYTES, SLICE_BYTES, is_aborted, shape_of

import moqtrio
from moqtrio import ReplayError, SqliteStore
from moqtrio.replay import END, GroupReader, Missing, Pending, ReplaySource
from moqtrio.replay.sqlite.catalog import CATALOG_NAME
from moqtrio.replay.sqlite.verify import verify_store

KILLS = 50
# How many of them while the store is being opened, on average.
WHILE_OPENING = 0.2


@attrs.define(eq=False)
class Ledger:
    """What the server has acknowledged as durable, over all its lives."""

    epoch: int | None = None
    used_end: int = 0
    durable: set[int] = attrs.Factory(set)
    """Groups that are durable to their end."""
    parts: dict[int, int] = attrs.Factory(dict)
    """How many frames are durable of groups that were cut off."""

    def take_in(self, server: RecordingServer, seen_live: Delivered) -> None:
        """Add what a run has said before it was killed."""
        first, said = server.listening["first"], server.durable
        if said:
            assert (said["lost"], said["failures"]) == (0, 0)
            still_open = {int(sequence): frames for sequence, frames in said["open"].items()}
            self.durable.update(set(range(first, said["end"])) - still_open.keys())
            self.parts.update({each: frames for each, frames in still_open.items() if frames})
            self.used_end = max(self.used_end, said["end"])
        self.used_end = max([self.used_end, *(each + 1 for each in seen_live.frames)])

    def check_start(self, listening: dict[str, int]) -> None:
        """What a server says as it starts must fit what its earlier lives have said."""
        assert listening["first"] >= self.used_end, "a sequence may be used twice"
        if self.epoch is None:
            self.epoch = listening["epoch"]
        assert listening["epoch"] == self.epoch

    def check_history(self, history: Delivered, oldest: int | None, end: int) -> None:
        """Everything durable from ``oldest`` on came, and ``oldest`` is old enough."""
        self.check_retention(oldest)
        if oldest is None:
            return
        assert history.ended
        assert history.start == oldest
        assert history.accounted() == list(range(oldest, end)), "every sequence, once"
        wanted = {each for each in self.durable if each >= oldest}
        assert {each for each in wanted if not is_aborted(each)} <= history.finished
        # A reset overtakes what was sent before it: the group may not even have begun.
        dropped = history.dropped()
        failed = dropped | history.reset
        assert {failed[each] for each in wanted if is_aborted(each)} <= {ABORT_CODE}
        absent = {each for each, code in dropped.items() if code == 0}
        assert absent.isdisjoint(self.durable | self.parts.keys()), "cut short is not absent"

    def check_retention(self, oldest: int | None) -> None:
        """No more was removed than there was too much of: files take more than what is in
        them, above all those of short lives."""
        if oldest is None:
            assert not self.durable
        elif min(self.durable) < oldest:
            shapes = [shape_of(each) for each in self.durable if each >= oldest]
            assert sum(frames * size for frames, size in shapes) > RETENTION_BYTES // 4


def left_behind(directory: Path) -> set[str]:
    """In the middle of what a process was when it was killed, as the catalog has it."""
    if not (directory / CATALOG_NAME).exists():
        return {"nothing"}
    catalog = sqlite3.connect(f"file:{directory / 'catalog.db'}?mode=ro", uri=True)
    try:
        return {state for (state,) in catalog.execute("SELECT state FROM slice")}
    except sqlite3.OperationalError:
        return {"no tables"}
    finally:
        catalog.close()


async def read_history(server: RecordingServer, witness: Witness, first: int) -> Delivered:
    """Everything there is below ``first``."""
    history = Delivered()
    if first:
        with trio.fail_after(20):
            async with server.connect() as session:
                await witness.follow(session, history, 0, first)
    return history


@pytest.mark.timeout(240)
async def test_killed_again_and_again(tmp_path: Path) -> None:
    """P11 and P16: each life of the server serves what the earlier ones said was durable, the
    same as was seen of it before."""
    directory = tmp_path / "store"
    chance = random.Random(16)
    witness, ledger = Witness(), Ledger()
    states: Counter[str] = Counter()
    started = trio.current_time()
    async with recording_servers(directory) as start:
        standby = start("run0")
        for kill in range(KILLS):
            # The next one is started early: most of its time goes into imports.
            server, standby = standby, start(f"run{kill + 1}")
            if kill and chance.random() < WHILE_OPENING:
                server.tell("open")
                await trio.sleep(chance.uniform(0, 0.08))
                await server.kill()
            else:
                await run_and_kill(server, witness, ledger, chance.uniform(0.02, 0.9))
            states.update(left_behind(directory))
            await verify(directory)
            if kill % 10 == 9:
                await check_store(directory, ledger)
        await finish(standby, witness, ledger)
    print(f"{trio.current_time() - started:.1f} s, {len(ledger.durable)} groups, {dict(states)}")
    assert len(ledger.durable) > 2 * KILLS
    await verify(directory)
    await check_store(directory, ledger)
    async with SqliteStore.open(directory) as store:
        assert store.track("events", "all").next_sequence == ledger.used_end
        assert store.statistics().file_bytes < RETENTION_BYTES + 4 * SLICE_BYTES


async def run_and_kill(
    server: RecordingServer, witness: Witness, ledger: Ledger, seconds: float
) -> None:
    await server.open()
    listening = server.listening
    ledger.check_start(listening)
    history = await read_history(server, witness, listening["first"])
    ledger.check_history(history, listening["oldest"], listening["first"])
    live = Delivered()
    async with server.connect() as session, trio.open_nursery() as nursery:
        nursery.start_soon(witness.follow, session, live, listening["first"])
        server.tell("record")
        await trio.sleep(seconds)
        await server.kill()
        nursery.cancel_scope.cancel()
    ledger.take_in(server, live)


async def finish(server: RecordingServer, witness: Witness, ledger: Ledger) -> None:
    """The last life ends as it should."""
    await server.open()
    first = server.listening["first"]
    ledger.check_start(server.listening)
    history = await read_history(server, witness, first)
    ledger.check_history(history, server.listening["oldest"], first)
    live = Delivered()
    async with server.connect() as session, trio.open_nursery() as nursery:
        nursery.start_soon(witness.follow, session, live, first)
        server.tell("record")
        await until(lambda: server.durable and server.durable["evicted_slices"] > 3)
        server.tell("finish")
        await until(lambda: live.ended)
    await server.stop()
    ledger.take_in(server, live)
    assert live.accounted() == list(range(first, ledger.used_end))


async def verify(directory: Path) -> None:
    """As ``moqtrio store verify`` does, whatever state the files were left in."""
    if (directory / CATALOG_NAME).exists():
        report = await trio.to_thread.run_sync(verify_store, directory)
        assert report.clean, report.problems


async def check_store(directory: Path, ledger: Ledger) -> None:
    """Look at the files themselves: over the network a reset overtakes what a group that was
    cut off still has."""
    async with SqliteStore.open(directory) as store:
        track = store.track("events", "all")
        oldest = track.bounds().oldest
        assert track.next_sequence >= ledger.used_end
        ledger.check_retention(oldest)
        for sequence, expected in (dict.fromkeys(ledger.durable) | ledger.parts).items():
            if oldest is not None and sequence >= oldest:
                frames, error = await read_stored(track, sequence)
                whole, _ = shape_of(sequence)
                assert frames >= (whole if expected is None else expected), f"group {sequence}"
                if expected is None and is_aborted(sequence):
                    assert error == ABORT_CODE
                elif expected is None or error is None:  # It may have ended unheard.
                    assert (frames, error) == (whole, None), f"group {sequence}"


async def read_stored(track: ReplaySource, sequence: int) -> tuple[int, int | None]:
    """How many frames a group has, and the code it ends with unless it is finished."""
    frames = 0
    reader: GroupReader | None = None
    try:
        while True:
            if reader is None:
                found = track.poll_group(sequence)
                assert not isinstance(found, Missing), f"group {sequence} is lost"
                answer = found
            else:
                answer = reader.poll_frames(2**20)
            if answer is END:
                return frames, None
            if isinstance(answer, Pending):
                await answer.wait()
            elif reader is None:
                reader = answer.value
            else:
                frames += len(answer.value)
    except ReplayError as error:
        return frames, error.code
    finally:
        if reader is not None:
            reader.close()


async def test_a_client_notices_that_the_server_is_gone(tmp_path: Path) -> None:
    """Nobody says goodbye: the subscription ends with an error, not as if the track had."""
    transport = moqtrio.TransportSettings(idle_timeout=1.5, keep_alive=0.5)
    delivered, witness = Delivered(), Witness()
    async with recording_servers(tmp_path / "store") as start:
        server = start("run")
        await server.open()
        with trio.fail_after(30):
            async with server.connect(transport=transport) as session, trio.open_nursery() as tasks:
                tasks.start_soon(witness.follow, session, delivered, 0)
                server.tell("record")
                await until(lambda: len(delivered.finished) > 50)
                await server.kill()
    assert not delivered.ended
