"""The subscriber's side: what an application gets to see, held against what was published."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal

import trio

from moqtrio.errors import (
    DecodeError,
    ProtocolError,
    RequestError,
    SessionClosed,
    StreamCode,
    StreamReset,
)
from moqtrio.model import Frame, GroupConsumer
from moqtrio.model.group import Finished
from moqtrio.model.ranges import RangeSet
from moqtrio.session import Gap, Session, Subscription

from .account import WireAccount
from .properties import Broken

if TYPE_CHECKING:
    from .world import Link, World

Order = Literal["sequence", "arrival"]

subscribing: ContextVar[Reader] = ContextVar("subscribing")
"""Whose SUBSCRIBE it is that is being sent."""


class Reader:
    """One subscription, and the account its items give."""

    def __init__(
        self,
        world: World,
        link: Link,
        start: int | None,
        end: int | None,
        order: Order,
        max_latency: float,
    ) -> None:
        self.world = world
        self.link = link
        self.asked = start
        self.raised = start or 0
        self.end = end
        self.order = order
        self.max_latency = max_latency
        self.asks_first = (
            link.world.settings.version.draft >= 6 and start is None and max_latency > 0
        )
        self.epoch = world.epoch
        self.wire: WireAccount | None = None  # as soon as the publisher has heard of it
        self.subscription: Subscription | None = None
        self.expected: int | None = None
        self.seen = RangeSet()
        self.has_read: dict[int, int] = {}  # so many frames of each group
        self.at_end = False
        self.failure: Exception | None = None
        self.gone = trio.Event()
        self.scope = trio.CancelScope()
        self._may_read = trio.Event()
        self._may_read.set()
        self._updated = trio.Event()

    def __repr__(self) -> str:
        return (
            f"reader of [{self.asked}, {self.end}) by {self.order}: expects {self.expected}, "
            f"has seen {self.seen.ranges()}; {self.wire}"
        )

    @property
    def is_live(self) -> bool:
        return not self.gone.is_set()

    @property
    def is_paused(self) -> bool:
        return not self._may_read.is_set()

    def pause(self) -> None:
        if self._may_read.is_set():
            self._may_read = trio.Event()

    def resume(self) -> None:
        self._may_read.set()

    async def run(self) -> None:
        """Follow the track until it ends, the publisher goes, or :meth:`leave`."""
        try:
            with self.scope:
                await self._follow(self.link.client)
        except (RequestError, SessionClosed) as error:
            self.failure = error
        finally:
            self.gone.set()

    def leave(self) -> None:
        self.scope.cancel()

    async def update(
        self, start: int | None, end: int | None, priority: int, max_latency: float | None
    ) -> None:
        """Change what is asked for."""
        subscription = self.subscription
        if subscription is None or not self.is_live:
            return
        before = self.raised, self.end
        self.raised, self.end = max(self.raised, start or 0), end
        try:
            await subscription.update(
                start=start, end=end, priority=priority, max_latency=max_latency
            )
        except ValueError:  # no such range: nothing has changed
            self.raised, self.end = before
            return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        if max_latency is not None:
            self.max_latency = min(self.max_latency, max_latency)
        self._updated.set()

    async def _follow(self, session: Session) -> None:
        subscribing.set(self)
        async with (
            session.subscribe(
                "b",
                "t",
                start=self.asked,
                end=self.end,
                order=self.order,
                max_latency=self.max_latency,
            ) as subscription,
            trio.open_nursery() as nursery,
        ):
            self.subscription = subscription
            while True:
                await self._may_read.wait()
                try:
                    item = await subscription.receive()
                except trio.EndOfChannel:
                    self._check_end(subscription)
                    self.at_end = True
                    await self._updated.wait()
                    self._updated = trio.Event()
                    self.at_end = False
                    continue
                except (RequestError, SessionClosed) as error:
                    self.failure = error
                    nursery.cancel_scope.cancel()
                    return
                except (DecodeError, ProtocolError) as error:
                    self._require(False, "P2", f"the publisher does not speak moq-lite: {error}")
                    return
                if isinstance(item, Gap):
                    self._account_for(item.start, item.end)
                    self._require(
                        item.code != StreamCode.DELIVERY_TIMEOUT,
                        "P2",
                        f"[{item.start}, {item.end}) neither came nor was dropped",
                    )
                    continue
                self._account_for(item.sequence, item.sequence + 1)
                if self.order == "sequence":
                    await self._read(item)
                else:
                    nursery.start_soon(self._read, item)

    def _require(self, holds: object, name: str, what: str) -> None:
        if not holds:
            self.world.report(Broken(name, what, self))

    def _account_for(self, start: int, end: int) -> None:
        subscription = self.subscription
        assert subscription is not None
        if self.expected is None:
            self.expected = subscription.start
            self._require(self.expected is not None, "P1", "an item came before OK")
        expected = self.expected or 0
        if self.order == "sequence":
            if start > expected and start >= self.raised > expected:
                expected = start  # skipped on request
            self._require(start == expected, "P2", f"{start} came where {expected} was due")
            self.expected = end
        else:
            overlap = any(sequence in self.seen for sequence in range(start, end))
            self._require(not overlap, "P2", f"[{start}, {end}) overlaps what came before")
        self.seen.add(start, end)

    def _check_end(self, subscription: Subscription) -> None:
        """The iteration has ended: everything must have come."""
        ends = [end for end in (subscription.final, self.end) if end is not None]
        self._require(ends, "P6", "the subscription ended, and nobody knows where")
        start = subscription.start
        if start is None or not ends:
            return
        last = min(ends)
        start = max(start, self.raised)
        if start < last:
            covered = self.seen.end_of(start)
            self._require(
                covered is not None and covered >= last,
                "P6",
                f"the subscription ended before all of [{start}, {last}) had come",
            )

    async def _read(self, group: GroupConsumer) -> None:
        frames: list[Frame] = []
        sequence = group.sequence
        self.has_read[sequence] = 0
        try:
            while True:
                await self._may_read.wait()
                batch = await group.receive_batch()
                if not batch:
                    self.world.check_whole(self.epoch, sequence, frames)
                    return
                self.world.check_frames(self.epoch, sequence, len(frames), batch)
                frames += batch
                self.has_read[sequence] = len(frames)
        except DecodeError as error:
            self._require(False, "P5", f"group {sequence} cannot be decoded: {error}")
        except StreamReset:
            pass  # the account on the wire says whether that was right
        except (SessionClosed, trio.ClosedResourceError):
            pass  # the publisher is gone, or it was not wanted any more


class Fetching:
    """One FETCH."""

    def __init__(self, world: World, link: Link, sequence: int) -> None:
        self.world = world
        self.link = link
        self.sequence = sequence
        self.epoch = world.epoch
        self.gone = trio.Event()
        self.scope = trio.CancelScope()
        self.result: str | None = None

    async def run(self) -> None:
        world, sequence = self.world, self.sequence
        frames: list[Frame] = []
        self.result = "gone"
        try:
            with self.scope:
                async with await self.link.client.fetch("b", "t", sequence) as group:
                    while batch := await group.receive_batch():
                        world.check_frames(self.epoch, sequence, len(frames), batch)
                        frames += batch
                world.check_whole(self.epoch, sequence, frames)
                self.result = "whole"
        except RequestError as error:
            self._check_refused(error.code)
        except DecodeError as error:
            world.report(Broken("P5", f"FETCH of {sequence} cannot be decoded: {error}"))
        except StreamReset as error:
            self._check_given_up(f"FETCH of {sequence} was reset with code {error.code}")
        except SessionClosed:
            pass
        finally:
            self.gone.set()

    def _check_refused(self, code: int) -> None:
        world, sequence = self.world, self.sequence
        what = f"FETCH of {sequence} was refused with code {code}"
        if code != StreamCode.NOT_FOUND:
            self._check_given_up(what)
            return
        if not world.knows_what_is_absent and sequence < world.edge:
            world.report(Broken("P8", f"{what} while the store fails"))
        if world.in_log(sequence):
            world.report(Broken("P4", f"{what}, but it is in the log"))
        if world.in_store(sequence):
            world.report(Broken("P7", f"{what}, but it is stored"))

    def _check_given_up(self, what: str) -> None:
        world, sequence = self.world, self.sequence
        group = world.published(sequence)
        aborted = group is not None and not isinstance(group.end, Finished | None)
        aborted = aborted or world.aborted is not None
        if aborted or world.failing or world.is_lost(sequence):
            return
        if world.in_log(sequence) or world.stored_whole(sequence):
            world.report(Broken("P4", f"{what}, but it is there"))
