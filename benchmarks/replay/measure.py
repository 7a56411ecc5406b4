"""Runs the processes of each measurement, and gathers what they tell."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

import attrs

from .. import runner
from ..shapes import Shape
from .history import GROUP_BYTES, History
from .jobs import Server, Subscriber, dump

MEGABYTE = 1_000_000
SLACK_SECONDS = 120.0
FIREHOSE_SHAPE = Shape(4800, 64)
SMALL_MINUTE = 27_000  # the messages of a minute, at 450 a second


@attrs.frozen
class Plan:
    """How much of everything.

    Attributes:
        rounds: live runs and replays, in turns.
        live_seconds: how long each of those publishes.
        groups: a minute of the firehose; more than the store's cache holds.
        small_groups, slices: how many groups make up 72 hours, and in how many files.
        cold_starts: servers that are started to be asked for one group.
        warm_groups: groups that a server is asked for that has been asked before.
        load_seconds: how long live is measured, without and with replays.
        joiners: how many replays at most.
    """

    rounds: int = 5
    live_seconds: float = 3.0
    groups: int = 450
    small_groups: int = 2_000_000
    slices: int = 2160
    cold_starts: int = 9
    warm_groups: int = 60
    load_seconds: float = 20.0
    joiners: int = 10


QUICK = Plan(
    rounds=2,
    live_seconds=1.0,
    small_groups=30_000,
    slices=50,
    cold_starts=3,
    warm_groups=20,
    load_seconds=4.0,
)


def cores() -> tuple[int, int]:
    """The processors of the server and of all others."""
    available = sorted(os.sched_getaffinity(0))
    return available[0], available[-1]


# Processes


async def record(directory: Path, history: History) -> None:
    """Fill a store, in a process of its own."""
    job = Server(str(directory), history, cores()[0])
    command = ("benchmarks.replay.child", "record", dump(job))
    async with runner.spawn("recorder", *command) as child:
        await child.end()


@attrs.frozen
class Serving:
    """A server, ready."""

    child: runner.Child
    job: Server
    url: str
    fingerprint: str

    def subscriber(self, **fields: Any) -> Subscriber:
        return Subscriber(self.url, self.fingerprint, self.job.history, cores()[1], **fields)

    async def tell(self, line: str) -> dict[str, Any]:
        """Have it do something; returns what it has used so far."""
        await self.child.say(line)
        return await self.child.expect("usage")


@asynccontextmanager
async def serving(
    directory: Path, history: History, *, profile: bool = False
) -> AsyncIterator[Serving]:
    """A server's process, over the block."""
    job = Server(str(directory), history, cores()[0], profile)
    async with runner.spawn("server", "benchmarks.replay.child", "serve", dump(job)) as child:
        listening = await child.expect("listening")
        yield Serving(child, job, listening["url"], listening["fingerprint"])
        await finish(child, profiled=profile)


@asynccontextmanager
async def subscribing(role: str, job: Subscriber) -> AsyncIterator[runner.Child]:
    """A subscribers' process, connected, over the block."""
    async with runner.spawn(role, "benchmarks.replay.child", role, dump(job)) as child:
        await child.expect("ready")
        yield child
        await finish(child, profiled=job.profile)


async def finish(child: runner.Child, *, profiled: bool) -> None:
    """Have it end, and take its profile."""
    await child.say("")
    if profiled:
        child.profile = (await child.expect("profile"))["text"]


def forget_pages(directory: Path) -> None:
    """Have the system forget what it keeps of these files in memory."""
    for path in directory.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


# Measurements


@attrs.frozen
class Throughput:
    """MB/s of a subscriber that takes all it can, from memory and from the store."""

    live: list[float]
    replay: list[float]
    live_cpu: list[float]
    replay_cpu: list[float]
    """CPU seconds of the server for each GB."""


async def measure_throughput(plan: Plan) -> Throughput:
    found = Throughput([], [], [], [])
    for _ in range(plan.rounds):
        live = await runner.run_once(
            "moqtrio live", FIREHOSE_SHAPE, runner.Plan(seconds=plan.live_seconds)
        )
        replay = await runner.run_once(
            "moqtrio replay",
            FIREHOSE_SHAPE,
            runner.Plan(seconds=plan.live_seconds, groups=live.server.groups),
        )
        for run, rates, cpu in (
            (live, found.live, found.live_cpu),
            (replay, found.replay, found.replay_cpu),
        ):
            assert run.lost_groups == 0
            rates.append(run.subscriber.bytes / MEGABYTE / run.subscriber.seconds)
            cpu.append(run.server.cpu_seconds / run.subscriber.bytes * 1e9)
    return found


@attrs.frozen
class FirstGroup:
    """Milliseconds from asking to the first frame, and to the whole group."""

    warm: list[tuple[float, float]]
    cold: list[tuple[float, float]]


async def measure_first_group(plan: Plan, directory: Path, history: History) -> FirstGroup:
    # Far from each other, so that none is there because the one before it was read.
    wanted = [index * 7919 % history.groups for index in range(plan.warm_groups)]
    async with serving(directory, history) as server:
        warm = await ask(server, wanted)
    cold = []
    for index in range(plan.cold_starts):
        async with serving(directory, history) as server:
            forget_pages(directory)
            cold += await ask(server, [(index * 7919 + 101) % history.groups])
    return FirstGroup(warm, cold)


async def ask(server: Serving, groups: list[int]) -> list[tuple[float, float]]:
    async with subscribing("first", server.subscriber(firsts=groups)) as child:
        await child.say("go")
        waits = (await child.expect("result"))["milliseconds"]
    return [(first, whole) for first, whole in waits]


@attrs.frozen
class Memory:
    """What a server needed at most to open a store and to serve all of it, in bytes."""

    groups: int
    opened: int
    peak: int
    seconds: float


async def measure_memory(directory: Path, history: History) -> Memory:
    async with serving(directory, history) as server:
        opened = await server.tell("usage")
        async with subscribing("join", server.subscriber(starts=[0])) as child:
            await child.say("go")
            result = await child.expect("result")
        used = await server.tell("usage")
    assert result["groups"] == history.end
    return Memory(
        history.end, opened["resident_bytes"], used["peak_resident_bytes"], result["seconds"]
    )


@attrs.frozen
class Load:
    """One live subscriber, and what some joiners took meanwhile.

    Attributes:
        joiners: how many.
        megabytes_per_second: what they took together.
        delays: of each live frame, in microseconds, from when it was due to its arrival.
        server_busy, joiners_busy: of their processors, between 0 and 1.
    """

    joiners: int
    megabytes_per_second: float
    delays: list[int]
    server_busy: float
    joiners_busy: float

    def delay(self, percent: int) -> float:
        """A percentile of the delays, in milliseconds."""
        return quantiles(self.delays, n=100)[percent - 1] / 1000


async def measure_load(plan: Plan, directory: Path, history: History) -> list[Load]:
    async with (
        serving(directory, history) as server,
        subscribing("follow", server.subscriber()) as follower,
    ):
        return [
            await under_load(plan, server, follower, joiners) for joiners in (0, 1, plan.joiners)
        ]


async def under_load(plan: Plan, server: Serving, follower: runner.Child, joiners: int) -> Load:
    """Publish the same again, while some replay, each from a place of its own."""
    starts = starting_points(server.job.history, joiners)
    job = server.subscriber(starts=starts, seconds=plan.load_seconds)
    async with subscribing("join", job) as child:
        before = await server.tell("publish")
        await follower.say("reset")
        await follower.expect("delays")
        await child.say("go")
        result = await child.expect("result")
        await follower.say("delays")
        delays = (await follower.expect("delays"))["microseconds"]
        after = await server.tell("quiet")
    seconds = result["seconds"]
    return Load(
        joiners,
        result["bytes"] / MEGABYTE / seconds,
        delays,
        (after["cpu_seconds"] - before["cpu_seconds"]) / seconds,
        result["cpu_seconds"] / seconds,
    )


async def profile_load(plan: Plan, directory: Path, side: str) -> str:
    """Where the time goes on one side, ``serve`` or ``subscribe``, under all joiners."""
    history = History(groups=plan.groups)
    await record(directory / "minute", history)
    profiles = []
    async with serving(directory / "minute", history, profile=side == "serve") as server:
        profiles.append(server.child)
        starts = starting_points(history, plan.joiners)
        job = server.subscriber(starts=starts, seconds=plan.load_seconds)
        job = attrs.evolve(job, profile=side == "subscribe")
        async with subscribing("join", job) as joiners:
            profiles.append(joiners)
            await server.tell("publish")
            await joiners.say("go")
            result = await joiners.expect("result")
            await server.tell("quiet")
    rate = result["bytes"] / MEGABYTE / result["seconds"]
    return f"{rate:.1f} MB/s to the joiners\n" + "".join(each.profile for each in profiles)


def starting_points(history: History, joiners: int) -> list[int]:
    """Where joiners begin who have little in common."""
    return [history.groups * index // max(joiners, 1) for index in range(joiners)]


@attrs.frozen
class Found:
    """Everything that was measured."""

    throughput: Throughput
    first_group: FirstGroup
    minute: Memory
    three_days: Memory
    loads: list[Load]


async def measure(plan: Plan, directory: Path, progress: Callable[[str], None]) -> Found:
    """Measure everything. Raises RunFailed where a process does not do what it should."""
    minute = History(groups=plan.groups)
    three_days = History(plan.small_groups, plan.groups, plan.slices)
    progress("live and replay in turns")
    throughput = await measure_throughput(plan)
    progress(f"recording {plan.groups * GROUP_BYTES / MEGABYTE:.0f} MB")
    await record(directory / "minute", minute)
    first_group = await measure_first_group(plan, directory / "minute", minute)
    progress(f"recording 72 hours: {plan.small_groups:,} groups")
    await record(directory / "three_days", three_days)
    progress("replaying all of it")
    # What is in flight of small groups takes more memory than of large ones: like is compared
    # with like, and only the length of history differs.
    small_minute = attrs.evolve(three_days, small=min(plan.small_groups, SMALL_MINUTE), slices=1)
    await record(directory / "small_minute", small_minute)
    of_minute = await measure_memory(directory / "small_minute", small_minute)
    of_three_days = await measure_memory(directory / "three_days", three_days)
    progress("live without and with replays")
    loads = await measure_load(plan, directory / "minute", minute)
    return Found(throughput, first_group, of_minute, of_three_days, loads)
