"""A publisher with its log, recorder and store, and everyone who subscribes to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from moqtrio.model import Frame, Origin, Track
from moqtrio.model.group import Aborted, Group, GroupProducer
from moqtrio.replay import Recorder, RecorderSettings, ReplaySource
from moqtrio.session import Session, SessionSettings
from moqtrio.session.serving import ServingLimits
from moqtrio.session.session import open_session_over
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.transport.settings import TransportSettings
from moqtrio.wire import VERSIONS, Version

from .account import WireAccount
from .client import Fetching, Order, Reader, subscribing
from .disk import Disk, Storage
from .properties import Broken
from .pump import TrioPump
from .tap import Tap, Wishes, attach

CACHE_AGE = 3.0
PLENTY = 10**6


@attrs.frozen
class Settings:
    """What differs between worlds.

    Attributes:
        recorded: whether there is a store.
        durable: whether subscribers see only what is in it.
        cache_and_max_bytes: of the log.
        read_seconds: how long the store takes to answer.
        small_windows: whether a few frames fill the subscriber's flow control windows.
        groups_blocked: of each subscription.
        version: what is spoken.
    """

    recorded: bool = True
    durable: bool = False
    cache_and_max_bytes: tuple[int, int] = (PLENTY, PLENTY)
    read_seconds: float = 0.0
    small_windows: bool = False
    groups_blocked: int = 4
    version: Version = VERSIONS[0]

    def transport(self) -> TransportSettings:
        if not self.small_windows:
            return TransportSettings()
        return TransportSettings(
            stream_window=64,
            connection_window=600,
            stream_send_high=60,
            stream_send_low=20,
            connection_send_high=400,
            connection_send_low=200,
        )


class Link:
    """One client: a session with the publisher, and what goes on over it."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.there, self.here = memory_connection_pair(settings=world.settings.transport())
        self.version = world.settings.version
        attach(Tap(self.version, self._subscribed), self.there, self.here)
        self._session: Session | None = None

    @property
    def client(self) -> Session:
        assert self._session is not None
        return self._session

    @property
    def is_up(self) -> bool:
        return self.there.closed is None

    def _subscribed(self, wishes: Wishes) -> WireAccount:
        account = WireAccount(self.world, wishes, by_clock=self.version.draft < 6)
        reader = subscribing.get()
        if reader.asks_first:  # this one only finds out which group is the latest
            reader.asks_first = False
        else:
            reader.wire = account
        return account

    async def serve(self, origin: Origin, settings: SessionSettings) -> None:
        async with open_session_over(self.here, self.version, publish=origin, settings=settings):
            await trio.sleep_forever()

    async def ask(self) -> None:
        async with open_session_over(self.there, self.version) as self._session:
            await self._session.wait_closed()


class World:
    """Everything there is. Its methods are what a machine's rules do, inside Trio."""

    def __init__(self, pump: TrioPump, settings: Settings) -> None:
        self.pump = pump
        self.settings = settings
        self.broken: Broken | None = None
        self.epoch = 0
        self.disk: Storage | None = self._new_disk() if settings.recorded else None
        self.readers: list[Reader] = []
        self.fetches: list[Fetching] = []
        self.links: list[Link] = []
        self.open: list[GroupProducer] = []
        self.incarnation = 0
        self.happened: dict[str, bool] = {}
        self.of_this_incarnation: set[int] = set()
        self._published: dict[tuple[int, int], Group] = {}
        self._shown: set[tuple[int, int]] = set()
        self._nursery: trio.Nursery | None = None
        self._closed = trio.Event()
        self.track: Track

    def _new_disk(self) -> Storage:
        return Disk(epoch=self.epoch, read_seconds=self.settings.read_seconds)

    # The publisher's life

    async def start(self) -> None:
        """Begin to publish."""
        self.incarnation += 1
        self.of_this_incarnation.clear()
        self._closed = trio.Event()
        await self.pump.nursery.start(self._publish)

    async def _publish(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        settings = self.settings
        try:
            async with self.store_opened(), trio.open_nursery() as self._nursery:
                self.origin = Origin()
                self.track = self.origin.create_broadcast("b").create_track(
                    "t",
                    store=self if settings.recorded else None,
                    recording="durable" if settings.recorded and settings.durable else "live",
                    cache_age=CACHE_AGE,
                    cache_bytes=settings.cache_and_max_bytes[0],
                    max_bytes=settings.cache_and_max_bytes[1],
                )
                self.log = self.track.log
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._closed.set()

    @asynccontextmanager
    async def store_opened(self) -> AsyncIterator[None]:
        """The store, as long as the publisher lives."""
        yield

    def attach(self, track: Track) -> ReplaySource:
        """Record ``track``, as a store does."""
        assert isinstance(self.disk, Disk)
        assert self._nursery is not None
        recorder = Recorder(track.log, self.disk, settings=RecorderSettings(max_retry_delay=1.0))
        self._nursery.start_soon(recorder.run)
        return self.disk

    async def restart(self, how: str) -> None:
        """End the publisher: ``"clean"``, by a ``"kill"``, or for the store to be ``"lost"``;
        then begin again."""
        disk, log = self.disk, self.log
        if how == "clean":
            for producer in self.open:
                producer.abort(70)
        if how == "kill" and disk is not None:
            self.disk = disk.reopened(clean=False)
        with self.pump.time_passing():
            await self._stop()
        if disk is None or how == "lost":
            self.epoch += 1
            self.disk = None if disk is None else self._new_disk()
        elif how == "clean":
            self.disk = disk.reopened(clean=not log.unrecorded() and not disk.is_broken)
        for producer in self.open:
            producer.abort(70)  # nobody will ever see its end
        self.open.clear()
        self.readers.clear()
        self.fetches.clear()
        self.links.clear()
        await self.start()
        next_sequence = self.log.next_sequence
        for epoch, sequence in self._shown:
            if epoch == self.epoch and sequence >= next_sequence:
                what = f"{sequence} was shown, the next process goes on at {next_sequence}"
                self.report(Broken("P11", what))

    async def _stop(self) -> None:
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()
        await self._closed.wait()
        for reader in self.readers:
            reader.resume()
        await wait_all_tasks_blocked()
        for reader in self.readers:
            if reader.at_end:
                reader.leave()
        requests: list[Reader | Fetching] = [*self.readers, *self.fetches]
        for each in requests:
            with trio.move_on_after(1) as scope:
                await each.gone.wait()
            if scope.cancelled_caught:
                self.report(Broken("P13", "a request outlives its session", each))

    # What the publisher does

    def publish(self, sizes: list[int], skip: int, end: str) -> None:
        """Publish one group. ``skip`` leaves sequences out; below 0 it goes back."""
        log = self.log
        if log.ended:
            return
        sequence = max(log.next_sequence + skip, 0)
        if skip < 0 and (sequence < log._floor or sequence in log._groups):
            sequence = log.next_sequence
        self._check_unused(sequence)
        producer = self.track.create_group(sequence)
        self._published[self.epoch, sequence] = producer._group
        self.of_this_incarnation.add(sequence)
        for index, size in enumerate(sizes):
            self._write(producer, index, size)
        if end == "open":
            self.open.append(producer)
        elif end == "abort":
            producer.abort(70)
        else:
            producer.finish()

    def _check_unused(self, sequence: int) -> None:
        used = (self.epoch, sequence) in self._shown or (
            self.disk is not None and self.disk.has(sequence)
        )
        if used:
            self.report(Broken("P11", f"{sequence} is about to be used again"))

    def _write(self, producer: GroupProducer, index: int, size: int) -> None:
        text = f"{self.epoch}.{self.incarnation}.{producer.sequence}.{index}:"
        if self._published[self.epoch, producer.sequence].end is None:
            producer.write_frame(text.encode().ljust(size, b"."), index * 1000 + size)

    def go_on(self, which: int, sizes: list[int], end: str) -> None:
        """Write to an open group, and perhaps end it."""
        producer = self.open[-1 - which % len(self.open)]
        group = self._published[self.epoch, producer.sequence]
        for size in sizes:
            self._write(producer, len(group.frames), size)
        if end == "abort":
            producer.abort(70)
        elif end == "finish":
            producer.finish()
        if group.end is not None:
            self.open.remove(producer)

    def finish(self) -> None:
        """No group will follow."""
        if not self.log.ended:
            self.track.finish()

    def abort(self) -> None:
        """The track ends with an error, and so does everything that is open."""
        if not self.log.ended:
            self.track.abort(71)
            self.open.clear()

    # What subscribers do

    async def connect(self) -> Link:
        """A new client."""
        assert self._nursery is not None
        link = Link(self)
        limits = ServingLimits(groups_blocked=self.settings.groups_blocked)
        self._nursery.start_soon(link.serve, self.origin, SessionSettings(serving=limits))
        self.pump.nursery.start_soon(link.ask)
        self.links.append(link)
        await wait_all_tasks_blocked()
        return link

    async def subscribe(
        self,
        start: int | None,
        end: int | None,
        order: Order,
        link: Link | None = None,
        max_latency: float = inf,
    ) -> Reader:
        """A new subscription, over a session of its own or one that is there."""
        link = link or await self.connect()
        reader = Reader(self, link, start, end, order, max_latency)
        self.readers.append(reader)
        self.pump.nursery.start_soon(reader.run)
        return reader

    async def fetch(self, sequence: int, link: Link | None = None) -> None:
        """Ask for one group."""
        fetching = Fetching(self, link or await self.connect(), sequence)
        self.fetches.append(fetching)
        self.pump.nursery.start_soon(fetching.run)

    # Truth

    def report(self, broken: Broken) -> None:
        """Note the first property that does not hold. Raised where no code can swallow it."""
        if self.broken is None:
            self.broken = broken

    @property
    def failing(self) -> bool:
        return self.disk is not None and self.disk.failing

    @property
    def knows_what_is_absent(self) -> bool:
        return not self.failing

    @property
    def most_blocked(self) -> int:
        return self.settings.groups_blocked if self.settings.small_windows else 0

    @property
    def edge(self) -> int:
        return self.log.edge

    @property
    def latest(self) -> int | None:
        """The latest group of which something is to be had, from memory or the store."""
        groups = self.log._groups
        visible = [each for each in groups if not groups[each].hidden]
        if self.disk is not None:
            visible += self.disk.sequences()
        return max([each for each in visible if each < self.edge], default=None)

    @property
    def final(self) -> int | None:
        return self.log.final_sequence

    @property
    def aborted(self) -> int | None:
        return self.log.aborted

    def lag(self, sequence: int, *, by_clock: bool) -> float:
        """By how many seconds a group lags behind the latest: itself, or the next there is
        in memory, as what is older than that is taken to be as old."""
        log = self.log
        latest = None if log.latest is None else log.get(log.latest)
        following = log.first_from(sequence)
        groups = [self.published(sequence), None if following is None else log.get(following)]
        lags = [0.0]
        for group in groups:
            if latest is not None and group is not None:
                if by_clock:
                    lags.append(latest.created_at - group.created_at)
                if group.frames and log.latest_first_us is not None:
                    lags.append((log.latest_first_us - group.frames[0].timestamp_us) / 10**6)
        return max(lags)

    def in_log(self, sequence: int) -> bool:
        group = self.log._groups.get(sequence)
        if group is None or sequence >= self.edge:
            return False
        return not (group.held_back and group.lost)

    def in_store(self, sequence: int) -> bool:
        return self.disk is not None and self.disk.has(sequence)

    def stored_whole(self, sequence: int) -> bool:
        return self.disk is not None and self.disk.is_whole(sequence)

    def may_be_hidden(self, sequence: int) -> bool:
        """Whether nobody can tell if there was such a group: what could is damaged."""
        return self.disk is not None and self.disk.may_hide(sequence)

    def was_stored(self, sequence: int) -> bool:
        """Whether it was removed from the store, or is a part there."""
        disk = self.disk
        if disk is None:  # nothing is kept: whoever was too slow for it has lost it
            return True
        return sequence in disk.trimmed or disk.has(sequence)

    def is_lost(self, sequence: int) -> bool:
        """Whether the group is marked as lost: by the log, and then by the store."""
        if self.disk is not None and self.disk.knows_lost(sequence):
            return not self.disk.has(sequence)
        return self.log.lost_until(sequence) is not None

    def published(self, sequence: int) -> Group | None:
        return self._published.get((self.epoch, sequence))

    def shown(self, sequence: int) -> None:
        """Somebody has heard of the group."""
        self._shown.add((self.epoch, sequence))

    @property
    def may_lose(self) -> bool:
        """Whether there was a reason to lose a group: no room, or a store that would not."""
        has_refused = self.disk is not None and self.disk.has_refused
        return self.settings.cache_and_max_bytes[1] < PLENTY or has_refused

    # What came

    def check_frames(self, epoch: int, sequence: int, index: int, frames: list[Frame]) -> None:
        """These frames came, from ``index`` on."""
        self._shown.add((epoch, sequence))
        group = self._published.get((epoch, sequence))
        if group is None or group.frames[index : index + len(frames)] != frames:
            self.report(
                Broken("P5", f"frames of {sequence} from {index} on were never published: {frames}")
            )

    def check_whole(self, epoch: int, sequence: int, frames: list[Frame]) -> None:
        """All of a group came."""
        group = self._published.get((epoch, sequence))
        if group is None or isinstance(group.end, Aborted | None) or group.frames != frames:
            self.report(
                Broken("P5", f"{len(frames)} frames of {sequence} came as the whole of {group}")
            )
