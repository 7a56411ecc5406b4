"""What is looked at after each step, and at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import TYPE_CHECKING

from moqtrio.model.group import Aborted, Finished

from .account import WireAccount
from .client import Reader
from .properties import Broken
from .world import Link, World

if TYPE_CHECKING:
    from .machine import ReplayMachine


def live_readers(world: World) -> list[Reader]:
    """Who has neither left nor been left."""
    return [reader for reader in world.readers if reader.is_live]


def accounts(world: World) -> list[WireAccount]:
    """The accounts of subscriptions that go on."""
    wires = [reader.wire for reader in world.readers if reader.wire is not None]
    return [wire for wire in wires if wire.is_live]


def check_after_step(world: World) -> None:
    """What holds whenever everybody waits."""
    for wire in accounts(world):
        wire.settle()
    check_memory(world)
    check_evicted(world)
    check_nothing_held(world)


def check_memory(world: World) -> None:
    """P9."""
    statistics = world.log.statistics()
    limit = world.settings.cache_and_max_bytes[1]
    if statistics.bytes > limit and statistics.groups > 1:
        world.report(Broken("P9", f"{statistics.bytes} bytes in memory, {limit} are allowed"))
    most = world.settings.groups_blocked
    for wire in accounts(world):
        if len(wire.history_under_way) > most:
            under_way = sorted(wire.history_under_way)
            world.report(Broken("P9", f"{under_way} are under way at once, of {most}", wire))


def check_evicted(world: World) -> None:
    """P10."""
    disk, log = world.disk, world.log
    if disk is None:
        return
    for sequence in world.of_this_incarnation:
        gone = sequence not in log._groups
        if world.is_lost(sequence) and not world.may_lose:
            world.report(Broken("P10", f"{sequence} was lost, though there was room for it"))
        if gone and not disk.has_dealt_with(sequence) and not world.is_lost(sequence):
            world.report(
                Broken("P10", f"{sequence} left memory, is not stored, and not marked as lost")
            )


def check_nothing_held(world: World) -> None:
    """P13, where nobody is left who could hold anything."""
    disk = world.disk
    if live_readers(world) or not all(each.gone.is_set() for each in world.fetches):
        return
    if disk is not None and (disk.readers or disk.waiting):
        what = f"{disk.readers} are not closed, {disk.waiting} tasks wait for the store"
        world.report(Broken("P13", what))
    watching = len(world.log.watchers) - (disk is not None)
    if watching > 0:
        world.report(Broken("P13", f"{watching} watchers of the log are left"))
    for link in world.links:
        check_link(world, link)


def check_link(world: World, link: Link) -> None:
    """P13 for one session without requests."""
    for connection in (link.here, link.there):
        if connection.closed is None:
            open_streams = connection.statistics().streams_open
            callbacks = len(connection._on_writable)  # type: ignore[attr-defined]
            if open_streams or callbacks:
                what = f"{open_streams} streams and {callbacks} callbacks of a session are left"
                world.report(Broken("P13", what))


@contextmanager
def check_live_frames(world: World, which: int) -> Iterator[None]:
    """P14: and so does who has had all there is of a group that is open."""
    sequence = world.open[-1 - which % len(world.open)].sequence
    group = world.published(sequence)
    assert group is not None
    count = len(group.frames)
    following = [
        reader
        for reader in live_readers(world)
        if reader.has_read.get(sequence) == count
        and not reader.is_paused
        and reader.max_latency == inf
    ]
    yield
    if world.settings.small_windows or world.settings.durable:
        return
    for reader in following:
        got = reader.has_read.get(sequence, 0)
        if reader.is_live and got < len(group.frames) and not isinstance(group.end, Aborted):
            what = f"{sequence} has {len(group.frames)} frames, its reader was told {got}"
            world.report(Broken("P14", what, reader))
    if world.broken is not None:
        raise world.broken


@contextmanager
def check_live(world: World, skip: int) -> Iterator[None]:
    """P14: who has had everything gets what is published, at once."""
    epoch = world.incarnation
    before = world.edge
    everything_shown = before == world.log.next_sequence
    waiting = [
        reader
        for reader in live_readers(world)
        if reader.wire is not None and reader.wire.is_live and reader.wire.cursor == before
    ]
    yield
    if skip or world.settings.small_windows or not everything_shown or epoch != world.incarnation:
        return
    for reader in waiting:
        wire = reader.wire
        assert wire is not None
        if wire.end is not None or not wire.is_live or wire.raised > before:
            continue
        if wire.cursor != world.edge:
            what = f"the edge is {world.edge}, the subscriber was told up to {wire.cursor}"
            world.report(Broken("P14", what, wire))
    if world.broken is not None:
        raise world.broken


def check_end(machine: ReplayMachine) -> None:
    """P15, P6 and P13: with a store that works and clients that read, every account closes."""
    world = machine.world

    async def heal() -> None:
        if world.disk is not None:
            world.disk.heal()
        for reader in world.readers:
            reader.resume()
        while world.open:
            world.go_on(0, [], "finish")
        await machine.pump.sleep(120)

    async def finish() -> None:
        world.finish()
        await machine.pump.sleep(120)

    async def leave() -> None:
        for reader in world.readers:
            reader.leave()
        for fetching in world.fetches:
            fetching.scope.cancel()
        await machine.pump.sleep(1)

    machine.step(heal)
    for reader in live_readers(world):
        check_reached(world, reader, world.edge)
    machine.raise_broken()
    newcomer = machine.pump.run(lambda: world.subscribe(0, None, "sequence"))
    machine.step(finish)
    for reader in live_readers(world):
        check_reached(world, reader, world.log.final_sequence or 0)
        check_over(world, reader)
    machine.raise_broken()
    check_newcomer(world, newcomer)
    for fetching in world.fetches:
        if not fetching.gone.is_set():
            world.report(Broken("P15", f"FETCH of {fetching.sequence} was never answered"))
    machine.raise_broken()
    machine.step(leave)


def check_reached(world: World, reader: Reader, edge: int) -> None:
    """P15: everything below the edge, or the end that was asked for, is accounted for."""
    wire = reader.wire
    if wire is None or not wire.is_live:
        return
    goal = edge if wire.end is None else min(edge, wire.end)
    cursor = wire.cursor
    if cursor is None or max(cursor, wire.raised) < goal:
        world.report(Broken("P15", f"{goal} was not reached", reader))
        return
    # What is beyond the end was looked up before the end was lowered, and is not read.
    under_way = [each for each in wire.began | wire.owed if wire.end is None or each < wire.end]
    if under_way:
        world.report(Broken("P15", f"{sorted(under_way)} are never completed", reader))


def check_over(world: World, reader: Reader) -> None:
    """P6: the track has ended, and the application knows."""
    if reader.failure is None and not reader.at_end:
        world.report(Broken("P15", "the track is over, and its subscriber still waits", reader))


def check_newcomer(world: World, reader: Reader) -> None:
    """P4: who comes last, and asks for everything, gets what log and store have."""
    wire = reader.wire
    if world.aborted is not None:
        return
    assert wire is not None
    for sequence in range(world.log.final_sequence or 0):
        if not world.in_log(sequence) and not world.stored_whole(sequence):
            continue
        group = world.published(sequence)
        if sequence not in wire.delivered and group is not None and isinstance(group.end, Finished):
            world.report(Broken("P4", f"{sequence} is there, and was not delivered", reader))
