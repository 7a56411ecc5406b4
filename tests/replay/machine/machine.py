"""The state machine: rules that disturb a world, and what must hold after each of them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from math import inf
from typing import Any, ClassVar

from hypothesis import event
from hypothesis import strategies as st
from hypothesis.stateful import (
    RULE_MARKER,
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
)

from moqtrio.replay import recorder
from moqtrio.session import group_sender
from moqtrio.wire import LITE_05, LITE_06

from .checks import check_after_step, check_end, check_live, check_live_frames, live_readers
from .client import Fetching, Reader
from .properties import Broken
from .pump import TrioPump
from .tap import tapping
from .world import CACHE_AGE, PLENTY, Settings, World

numbers = st.integers(0, 15)
sizes = st.lists(st.sampled_from([0, 40, 130, 130]), max_size=4)
ends = st.sampled_from(["finish", "finish", "finish", "open", "open", "abort"])
starts = st.one_of(st.none(), st.integers(0, 12), st.just(0))
spans = st.one_of(st.none(), st.none(), st.integers(0, 12))
orders = st.sampled_from(["sequence", "sequence", "arrival"])

SPOKEN = [LITE_06, LITE_06, LITE_05]

WORLDS = st.builds(
    Settings,
    recorded=st.sampled_from([True, True, True, True, False]),
    durable=st.sampled_from([False, False, True]),
    cache_and_max_bytes=st.sampled_from(
        [(0, 400), (200, 400), (0, PLENTY), (200, PLENTY), (PLENTY, PLENTY)]
    ),
    read_seconds=st.sampled_from([0.0, 0.01, 0.2]),
    small_windows=st.booleans(),
    groups_blocked=st.sampled_from([1, 2, 4]),
    version=st.sampled_from(SPOKEN),
)


class Unexpected(logging.Handler):
    """Keeps what was logged with a traceback: exceptions that were no one's business."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None:
            self.records.append(record)


@contextmanager
def surroundings() -> Iterator[None]:
    """What a run of machines needs: connections that are listened to, blocks of sequences
    that are used up within a few groups, groups that are sent in pieces, and no log but of
    the unexpected."""
    logger = logging.getLogger("moqtrio")
    before = (logger.level, logger.propagate, recorder._MIN_RESERVE, group_sender.PIECE_BYTES)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    recorder._MIN_RESERVE, group_sender.PIECE_BYTES = 4, 100
    try:
        with tapping():
            yield
    finally:
        logger.level, logger.propagate, recorder._MIN_RESERVE, group_sender.PIECE_BYTES = before
        logging.Logger.manager._clear_cache()  # type: ignore[attr-defined]  # as setLevel does


def _worlds_of(machine: ReplayMachine) -> st.SearchStrategy[Settings]:
    return machine.worlds


class ReplayMachine(RuleBasedStateMachine):
    """Publishes, subscribes, disturbs and heals. See the package's other modules."""

    worlds: ClassVar[st.SearchStrategy[Settings]] = WORLDS
    world: World

    def __init__(self) -> None:
        super().__init__()
        self.unexpected = Unexpected()
        logging.getLogger("moqtrio").addHandler(self.unexpected)
        self.pump = TrioPump()

    def make_world(self, settings: Any) -> World:
        """What there is at the beginning."""
        return World(self.pump, settings)

    def step(self, step: Callable[[], Awaitable[Any]]) -> Any:
        """Do something, let it settle, and look at everything."""
        result = self.pump.run(step)
        if self.unexpected.records:
            record = self.unexpected.records[0]
            raise AssertionError(record.getMessage()) from (record.exc_info or (None, None))[1]
        check_after_step(self.world)
        self.raise_broken()
        return result

    def raise_broken(self) -> None:
        broken: Broken | None = self.world.broken
        if broken is not None:
            raise broken

    def do(self, act: Callable[..., Any], *arguments: Any) -> None:
        """A step that is one plain function."""

        async def step() -> None:
            act(*arguments)

        self.step(step)

    @initialize(
        settings=st.runner().flatmap(_worlds_of),
        history=st.integers(0, 8),
        first_stays_open=st.booleans(),
        follower=st.sampled_from(["nobody", "from the start", "from the edge"]),
        schedule=st.random_module(),
    )
    def begin(
        self,
        settings: Settings,
        history: int,
        first_stays_open: bool,
        follower: str,
        schedule: object,
    ) -> None:
        """A track with a history, and perhaps somebody who follows it."""
        self.world = self.make_world(settings)
        self.step(self.world.start)

        async def publish_history() -> None:
            for number in range(history):
                end = "open" if first_stays_open and not number else "finish"
                self.world.publish([130] * (number % 4), 0, end)
                await self.pump.sleep(0.03)
            await self.pump.sleep(CACHE_AGE + 1)

        async def follow() -> None:
            start = 0 if follower == "from the start" else self.world.edge
            await self.world.subscribe(start, None, "sequence")

        if history:
            self.step(publish_history)
        if follower != "nobody":
            self.step(follow)

    # The publisher

    @rule(sizes=sizes, skip=st.sampled_from([0, 0, 0, 0, 1, 3, -1, -2]), end=ends)
    def publish(self, sizes: list[int], skip: int, end: str) -> None:
        with check_live(self.world, skip):
            self.do(self.world.publish, sizes, skip, end)

    @rule(count=st.integers(2, 6), size=st.sampled_from([0, 130]))
    def publish_many(self, count: int, size: int) -> None:
        def publish() -> None:
            for _ in range(count):
                self.world.publish([size], 0, "finish")

        with check_live(self.world, 0):
            self.do(publish)

    @precondition(lambda self: self.world.open)
    @rule(which=numbers, sizes=sizes, end=ends)
    def go_on(self, which: int, sizes: list[int], end: str) -> None:
        """Write to a group that is open; 0 is the latest."""
        with check_live_frames(self.world, which):
            self.do(self.world.go_on, which, sizes, end)

    @precondition(lambda self: self.world.edge > 3)
    @rule(how=st.sampled_from(["finish", "abort", "clean", "kill", "kill", "lost"]))
    def end_it(self, how: str) -> None:
        """The track ends; or the publisher does, and begins anew."""

        async def step() -> None:
            if how == "finish":
                self.world.finish()
            elif how == "abort":
                self.world.abort()
            else:
                await self.world.restart(how)

        self.step(step)

    # Time

    @rule(seconds=st.sampled_from([0.03, 0.5, 0.5, CACHE_AGE + 1, CACHE_AGE + 1, 60.0]))
    def let_time_pass(self, seconds: float) -> None:
        async def step() -> None:
            await self.pump.sleep(seconds)
            self.world.log.evict()

        self.step(step)

    # The store

    @property
    def disk(self) -> Any:
        return self.world.disk

    @precondition(lambda self: self.disk is not None and self.disk.sequences())
    @rule(which=numbers, below=st.booleans())
    def forget(self, which: int, below: bool) -> None:
        """The store is trimmed, or loses a group in the middle."""
        sequences = self.disk.sequences()
        sequence = sequences[which % len(sequences)]
        self.do(self.disk.trim if below else self.disk.remove, sequence)

    @precondition(lambda self: self.disk is not None and not self.disk.is_broken)
    @rule(what=st.sampled_from(["all", "all", "for good", "writes", "reservations"]))
    def fail(self, what: str) -> None:
        """Everything, and perhaps for good; or only what is written."""
        if what in ("writes", "reservations"):
            self.disk.refuse_writes(also_reservations=what == "reservations")
        else:
            self.do(lambda: self.disk.break_down(retryable=what == "all"))

    @precondition(lambda self: self.disk is not None and not self.disk.stalled)
    @rule(at_a_hole=st.booleans(), size=st.sampled_from([0, 130]))
    def stall(self, at_a_hole: bool, size: int) -> None:
        """Perhaps where a sequence was left out at the live edge, which it is asked for."""

        def stall() -> None:
            self.disk.stall()
            if at_a_hole:
                self.world.publish([size], 1, "finish")

        self.do(stall)

    @precondition(lambda self: self.disk is not None and self.disk.is_disturbed)
    @rule()
    def heal(self) -> None:
        self.do(self.disk.heal)

    # Subscribers

    @precondition(lambda self: len(live_readers(self.world)) < 4)
    @rule(
        start=starts,
        span=spans,
        order=orders,
        shared=st.booleans(),
        at_edge=st.booleans(),
        max_latency=st.sampled_from([inf, inf, inf, 2.0, 0.0]),
    )
    def subscribe(
        self,
        start: int | None,
        span: int | None,
        order: Any,
        shared: bool,
        at_edge: bool,
        max_latency: float,
    ) -> None:
        world = self.world
        if start is not None and at_edge:
            start = max(world.edge + start - 6, 0)
        end = None if span is None else (start or 0) + span
        if end == 0:
            end = None
        link = next((each for each in world.links if shared and each.is_up), None)

        async def step() -> None:
            await world.subscribe(start, end, order, link, max_latency)

        self.step(step)

    @precondition(lambda self: bool(live_readers(self.world)))
    @rule(
        which=numbers,
        start=st.one_of(st.none(), st.integers(-3, 5)),
        end=st.one_of(st.none(), st.integers(-3, 8)),
        priority=st.sampled_from([0, 127, 255]),
        max_latency=st.sampled_from([None, None, inf, 2.0, 0.0]),
    )
    def update(
        self,
        which: int,
        start: int | None,
        end: int | None,
        priority: int,
        max_latency: float | None,
    ) -> None:
        """The numbers are relative to where the reader is."""
        readers = live_readers(self.world)
        reader = readers[which % len(readers)]
        here = reader.expected or 0
        if start is not None:
            start = max(here + start, 0)
        if end is not None:
            end = max(here + end, 1)

        async def step() -> None:
            await reader.update(start, end, priority, max_latency)

        self.step(step)

    @precondition(lambda self: self.requests())
    @rule(which=numbers, everyone=st.sampled_from([False, False, True]))
    def leave(self, which: int, everyone: bool) -> None:
        """Somebody cancels, or all do."""
        requests = self.requests()
        leaving = requests if everyone else [requests[which % len(requests)]]

        def leave() -> None:
            for each in leaving:
                each.scope.cancel()

        self.do(leave)

    def requests(self) -> list[Reader | Fetching]:
        everyone: list[Reader | Fetching] = [*self.world.readers, *self.world.fetches]
        return [each for each in everyone if not each.gone.is_set()]

    @precondition(lambda self: bool(live_readers(self.world)))
    @rule(which=numbers)
    def stop_or_go_on_reading(self, which: int) -> None:
        readers = live_readers(self.world)
        reader = readers[which % len(readers)]
        self.do(reader.resume if reader.is_paused else reader.pause)

    @precondition(lambda self: len(self.world.fetches) < 6)
    @rule(sequence=numbers)
    def fetch(self, sequence: int) -> None:
        async def step() -> None:
            await self.world.fetch(sequence)

        self.step(step)

    # The end

    def teardown(self) -> None:
        """Everything is well again: every account must close."""
        try:
            if hasattr(self, "world") and self.world.broken is None:
                check_end(self)
        finally:
            logging.getLogger("moqtrio").removeHandler(self.unexpected)
            self.pump.close()
        if hasattr(self, "world"):
            self._events()

    def _events(self) -> None:
        for name, happened in self.world.happened.items():
            event(f"{name}: {happened}")


def confined(world: Settings | None, rules: tuple[str, ...]) -> type[ReplayMachine]:
    """The machine, in one world and with these rules only; with None and none, in all."""
    members: dict[str, object] = {}
    if world is not None:
        members["worlds"] = st.just(world)
    if rules:
        members |= {name: None for name in RULES if name not in rules}
        unknown = set(rules) - set(RULES)
        assert not unknown, f"there are no such rules: {unknown}"
    return type("ConfinedMachine", (ReplayMachine,), members) if members else ReplayMachine


RULES = [name for name, member in vars(ReplayMachine).items() if hasattr(member, RULE_MARKER)]
"""The names of the rules."""
