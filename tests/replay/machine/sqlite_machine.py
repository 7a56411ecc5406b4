"""The state machine over a SQLite store in a directory. See :mod:`.machine`."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, ClassVar

import attrs
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from moqtrio.model import Track
from moqtrio.model.source import ReplaySource
from moqtrio.replay.sqlite import loads

from .machine import SPOKEN, ReplayMachine, numbers, surroundings
from .pump import TrioPump
from .sqlite_disk import Layout, SqliteDisk
from .workers import Workers, without_threads
from .world import PLENTY, Settings, World


@attrs.frozen
class SqliteSettings(Settings):
    """A world's settings, and its store's."""

    layout: Layout = attrs.Factory(Layout)


LAYOUTS = st.builds(
    Layout,
    slice_bytes=st.sampled_from([1, 1, 300, 10**6]),
    slice_seconds=st.sampled_from([1.0, 120.0]),
    retention=st.sampled_from([None, None, 20.0, 200.0]),
    retention_bytes=st.sampled_from([None, None, 200_000]),
    cache_bytes=st.sampled_from([1, 2**20]),
)
SQLITE_WORLDS = st.builds(
    SqliteSettings,
    durable=st.sampled_from([False, False, True]),
    cache_and_max_bytes=st.sampled_from([(0, 400), (0, PLENTY), (200, PLENTY)]),
    read_seconds=st.sampled_from([0.0, 0.01, 0.2]),
    small_windows=st.booleans(),
    groups_blocked=st.sampled_from([1, 4]),
    version=st.sampled_from(SPOKEN),
    layout=LAYOUTS,
)


class SqliteWorld(World):
    """A publisher whose store is a :class:`~moqtrio.replay.SqliteStore`."""

    disk: Any

    def __init__(
        self, pump: TrioPump, settings: SqliteSettings, workers: Workers, base: Path
    ) -> None:
        self.workers = workers
        self.base = base
        self.layout = settings.layout
        super().__init__(pump, settings)

    def _new_disk(self) -> SqliteDisk:
        directory = Path(mkdtemp(dir=self.base)) / "store"
        return SqliteDisk(directory, self.layout, self.workers, self.pump.clock.current_time)

    @asynccontextmanager
    async def store_opened(self) -> AsyncIterator[None]:
        self.workers.seconds = 0.0  # nobody waits yet for time to pass
        async with self.disk.opened():
            yield

    def attach(self, track: Track) -> ReplaySource:
        source: ReplaySource = self.disk.attach(track)
        self.workers.seconds = self.settings.read_seconds
        return source

    @property
    def knows_what_is_absent(self) -> bool:
        return True  # from memory

    async def _stop(self) -> None:
        shown = set(self._shown)
        was_killed = not self.disk.is_open
        self.workers.resume()
        await super()._stop()
        if was_killed:
            self._shown = shown  # whatever it did since, it did not do


class SqliteMachine(ReplayMachine):
    """As :class:`ReplayMachine`, with what can befall a directory."""

    worlds: ClassVar[st.SearchStrategy[Any]] = SQLITE_WORLDS
    base: ClassVar[Path]

    def make_world(self, settings: SqliteSettings) -> World:
        workers = Workers()
        self.around = ExitStack()
        directory = Path(mkdtemp(dir=self.base))
        self.around.callback(shutil.rmtree, directory)
        self.around.enter_context(without_threads(workers))
        return SqliteWorld(self.pump, settings, workers, directory)

    forget = None  # type: ignore[assignment]  # it has no way to lose a group in the middle

    @precondition(lambda self: self.disk.sequences())
    @rule(which=numbers, what=st.sampled_from(["byte", "byte", "slice"]))
    def spoil(self, which: int, what: str) -> None:
        """A byte flips, or a file is removed."""
        sequences = self.disk.sequences()
        if what == "byte":
            self.do(self.disk.damage, sequences[which % len(sequences)])
        else:
            self.do(self.disk.remove_slice, which)

    @precondition(lambda self: self.disk.sequences() and self.world.edge > 3)
    @rule(which=numbers)
    def trim(self, which: int) -> None:
        """Between two processes."""
        sequences = self.disk.sequences()
        self.disk.trim_when_closed(sequences[which % len(sequences)])
        self.step(lambda: self.world.restart("clean"))

    @precondition(lambda self: not self.disk.is_disturbed)
    @rule()
    def fail(self) -> None:  # type: ignore[override]  # a rule of the same name
        """What is not in the cache cannot be read for a while."""
        self.do(self.disk.fail_reads)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            if hasattr(self, "around"):
                self.around.close()


@contextmanager
def sqlite_surroundings(base: Path) -> Iterator[None]:
    """As :func:`surroundings`, for machines whose directories are in ``base``."""
    with surroundings(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(SqliteMachine, "base", base, raising=False)
        for name in ("FIRST_LOAD", "_SMALLEST_LOAD"):  # a few groups each
            patch.setattr(loads, name, 900)
        yield
