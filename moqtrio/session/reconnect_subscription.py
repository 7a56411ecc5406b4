"""A subscription that goes on over the next connection where its own is lost."""

from __future__ import annotations

import logging
from collections import deque
from contextlib import AbstractAsyncContextManager, suppress
from types import EllipsisType
from typing import Literal

import attrs
import trio

from ..backoff import Backoff, Tries
from ..errors import (
    DecodeError,
    EpochChanged,
    ProtocolError,
    RequestError,
    SessionClosed,
    StreamCode,
    StreamReset,
)
from ..model import GroupConsumer, TrackInfo
from ..scope import open_scope
from ..wire import LITE_05, lite
from .epoch import ask_epoch
from .group_stream import StreamGroupConsumer
from .latency import to_wire
from .reconnect_evidence import Evidence
from .reconnect_group import ResumingGroup
from .reconnect_ledger import Ledger
from .reconnect_links import Link, Links, News, again, is_ending
from .session import Session
from .subscription import Gap, Subscription

logger: logging.Logger = logging.getLogger("moqtrio.session")

_IN_A_ROW = 32
_PASSING = (
    StreamCode.NOT_FOUND,
    StreamCode.UNROUTABLE,
    StreamCode.NO_CAPACITY,
    StreamCode.SESSION_CLOSED,
    StreamCode.GOING_AWAY,
)
"""Refusals that may pass: a server that has just come back may not have its publishers yet."""


@attrs.frozen(kw_only=True)
class Wish:
    """What is asked for; see :meth:`moqtrio.Session.subscribe`."""

    broadcast: str
    track: str
    start: int | None
    end: int | None
    order: Literal["sequence", "arrival"]
    priority: int
    max_latency: float
    gap_timeout: float

    def check(self) -> None:
        """Raise ValueError where the range or a number is impossible."""
        lite.SubscribeUpdate(
            priority=self.priority,
            max_latency=to_wire(self.max_latency),
            start=self.start,
            end=self.end,
        ).encode(LITE_05)

    def rest(self, first: int | None) -> Wish:
        """What is left of it where ``first`` is the first group that has not come; all of it
        where that is None."""
        if first is None:
            return self
        start = max(first, self.start or 0)
        return attrs.evolve(
            self, start=start, end=None if self.end is None else max(self.end, start)
        )

    def subscribe(self, session: Session) -> AbstractAsyncContextManager[Subscription]:
        """Ask for it."""
        return session.subscribe(
            self.broadcast,
            self.track,
            start=self.start,
            end=self.end,
            order=self.order,
            priority=self.priority,
            max_latency=self.max_latency,
            gap_timeout=self.gap_timeout,
        )


@attrs.define(eq=False)
class _Source:
    """The subscription on one connection."""

    link: Link
    inner: Subscription
    first: int | None  # what it was asked to begin with
    began: bool = False
    lost: trio.Event = attrs.Factory(trio.Event)  # nothing more is taken from it


Item = GroupConsumer | Gap


class ResumingSubscription(trio.abc.ReceiveChannel[Item]):
    """Groups of one track, and the gaps between them, over any number of connections. Made
    by ``ReconnectingSession.subscribe``.

    As with :class:`~moqtrio.Subscription`, the items account for every sequence from
    :attr:`start` on, each once. What the publisher does not have any more after a
    connection was lost comes as a :class:`~moqtrio.Gap` of code 0. A group that is cut off
    goes on where it was; one that cannot ends with its error, without a Gap.
    """

    def __init__(self, links: Links, wish: Wish, backoff: Backoff) -> None:
        self._links = links
        self._wish = wish
        self._backoff = backoff
        self._ledger = Ledger()
        self._evidence = Evidence(wish.broadcast, wish.track)
        self._queue: deque[Item] = deque()
        self._reading: dict[int, ResumingGroup] = {}
        self._source: _Source | None = None
        self._link: Link | None = None  # the last one on which the track is the same
        self._epoch: int | None = None
        self._is_known = False  # whether the publisher was asked for it
        self._info: TrackInfo | None = None
        self._final: int | None = None
        self._over = False
        self._closed = False
        self._failure: Exception | None = None
        self._news = News()
        self._in_a_row = 0
        self._receiving: trio.CancelScope | None = None
        self._scope: trio.CancelScope | None = None
        self._nursery: trio.Nursery | None = None

    @property
    def info(self) -> TrackInfo:
        """The track's fixed properties."""
        assert self._info is not None, "made by ReconnectingSession.subscribe"
        return self._info

    @property
    def start(self) -> int | None:
        """The first sequence that is accounted for; None until the publisher has said."""
        if self._ledger.start is None and self._source is not None:
            return self._source.inner.start
        return self._ledger.start

    @property
    def final(self) -> int | None:
        """One more than the track's last sequence, once the publisher has said."""
        return self._final if self._source is None else self._source.inner.final

    @property
    def epoch(self) -> int | None:
        """Identifies the track's numbering, where the publisher tells it, once it has."""
        return self._epoch

    # The application's side

    async def receive(self) -> Item:
        """The next group or gap. While there is no connection it waits for the next one.

        Raises as :meth:`Subscription.receive` does, and besides:

        - EpochChanged: the track is another one now; subscribe again to follow that;
        - SessionClosed: there will be no other connection.

        Cancelling it loses nothing.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            source = self._source
            try:
                item = self.receive_nowait()
            except trio.WouldBlock:
                await self._wait()
                continue
            except RequestError as error:
                if source is None or not await is_ending(source.link.session, error):
                    raise
                self._lose(source)
                continue
            self._in_a_row = (self._in_a_row + 1) % _IN_A_ROW
            if not self._in_a_row:
                await trio.lowlevel.cancel_shielded_checkpoint()
            return item

    def receive_nowait(self) -> Item:
        """The next group or gap if it is there, else trio.WouldBlock. See ``receive``."""
        while not self._queue:
            source = self._source
            if self._closed:
                raise trio.ClosedResourceError("this side has unsubscribed")
            if self._over or self._is_at_end():
                raise trio.EndOfChannel
            if source is None and self._failure is not None:
                raise again(self._failure)
            if source is None or not self._is_known:
                raise trio.WouldBlock
            try:
                item = source.inner.receive_nowait()
            except SessionClosed:
                self._lose(source)
                continue
            except trio.EndOfChannel:
                self._begin(source)
                if self._queue:
                    continue
                self._end(source.inner)
                raise
            self._take(source, item)
        return self._queue.popleft()

    async def _wait(self) -> None:
        """Wait until ``receive_nowait`` has something else to say."""
        source = self._source
        if source is None or not self._is_known:
            await self._news.wait()
            return
        try:
            with trio.CancelScope() as self._receiving:
                self._take(source, await source.inner.receive())
        except (SessionClosed, RequestError, trio.EndOfChannel):
            pass  # it says so again
        finally:
            self._receiving = None

    async def update(
        self,
        *,
        end: int | EllipsisType | None = ...,
        start: int | None = None,
        priority: int | None = None,
        max_latency: float | None = None,
    ) -> None:
        """Change what is asked for, now and on later connections. What is not given stays as
        it is. See :meth:`Subscription.update`.

        Raises ValueError, having changed nothing, where the range or a number is impossible.
        """
        if self._closed:
            raise trio.ClosedResourceError("this side has unsubscribed")
        before = self._wish
        wish = attrs.evolve(
            before,
            start=before.start if start is None else start,
            end=before.end if end is ... else end,
            priority=before.priority if priority is None else priority,
            max_latency=before.max_latency if max_latency is None else max_latency,
        )
        wish.check()
        self._wish = wish
        if start is not None:
            self._ledger.skip_to(start)
        self._news.tell()
        if self._source is None:
            await trio.lowlevel.checkpoint()
            return
        await self._pass_on(self._source)

    async def _pass_on(self, source: _Source) -> None:
        """Tell a publisher what is wanted now."""
        wish = self._wish.rest(source.first)
        # Where the connection is lost, the next one hears of it from the start.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await source.inner.update(
                end=wish.end, start=wish.start, priority=wish.priority, max_latency=wish.max_latency
            )

    async def aclose(self) -> None:
        """Unsubscribe: unread groups are stopped. Cancelling it changes nothing."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Unsubscribe at once. Never blocks; idempotent."""
        if self._closed:
            return
        self._closed = True
        for group in (*self._reading.values(), *self._queue):
            if isinstance(group, ResumingGroup):
                group.stop(StreamCode.CANCEL)
        self._reading.clear()
        self._queue.clear()
        if self._source is not None:
            self._source.inner.close()
        if self._scope is not None:
            self._scope.cancel()
        self._news.tell()

    # Items

    def _take(self, source: _Source, item: StreamGroupConsumer | Gap) -> None:
        self._begin(source)
        if isinstance(item, Gap):
            self._queue.extend(self._ledger.drop(item))
        elif source is self._source and self._ledger.take(item.sequence):
            group = ResumingGroup(self, item, source.link)
            if len(self._reading) >= 64:
                self._reading = {s: g for s, g in self._reading.items() if not g.over}
            self._reading[group.sequence] = group
            self._queue.append(group)
        else:
            item.stop(StreamCode.CANCEL)  # it came over the connection before

    def _begin(self, source: _Source) -> None:
        """Account for what lies before the first group of a connection."""
        start = source.inner.start
        if start is not None and not source.began:
            source.began = True
            self._queue.extend(self._ledger.begin(start))

    def _end(self, inner: Subscription) -> None:
        """The subscription on one connection has ended: so has the track, or all that is
        wanted of it for now has come."""
        self._final = inner.final
        end = self._wish.end
        if end is None or (inner.final is not None and inner.final <= end):
            self._over = True
            self._news.tell()

    def _lose(self, source: _Source) -> None:
        """Nothing more is taken from a connection; the next one has it."""
        self._begin(source)
        if self._wish.start is None:
            self._ledger.settle()
        source.lost.set()
        if source is self._source:
            self._final = source.inner.final
            self._source = None
            if self._receiving is not None:
                self._receiving.cancel()
        self._news.tell()

    # Groups

    async def reopen(self, group: ResumingGroup) -> StreamGroupConsumer:
        """Get a group that was cut off again; see ``Reopener``."""
        after = -1
        while True:
            link = await self._wait_link(after)
            try:
                inner = await self._get(link, group)
            except SessionClosed:
                continue
            except RequestError as error:
                if await is_ending(link.session, error):
                    after = link.number
                    continue
                logger.info("%s", error)
                raise StreamReset(error.code) from error
            group.link = link
            return inner

    async def _get(self, link: Link, group: ResumingGroup) -> StreamGroupConsumer:
        wish, session = self._wish, link.session
        if not lite.Fetch.exists_in(session._version):
            assert self._nursery is not None
            found: StreamGroupConsumer = await self._nursery.start(self._get_alone, link, group)
            return found
        inner = await session.fetch(
            wish.broadcast, wish.track, group.sequence, priority=wish.priority
        )
        assert isinstance(inner, StreamGroupConsumer)
        return inner

    async def _get_alone(
        self,
        link: Link,
        group: ResumingGroup,
        *,
        task_status: trio.TaskStatus[StreamGroupConsumer],
    ) -> None:
        """Get a group by a subscription to nothing else (before draft 05 there is no FETCH)."""
        only = group.sequence
        wish = attrs.evolve(self._wish, start=only, end=only + 1, order="arrival")
        async with wish.subscribe(link.session) as alone:
            try:
                item = await alone.receive()
            except trio.EndOfChannel:
                raise StreamReset(StreamCode.NOT_FOUND) from None
            if isinstance(item, Gap):
                raise StreamReset(item.code or StreamCode.NOT_FOUND)
            task_status.started(item)
            while not (group.over or item.over):
                await self._news.wait()

    def group_began(self, group: ResumingGroup) -> None:
        """Its first frame can be compared, should the connection be lost."""
        assert group.first is not None
        self._evidence.saw(group.sequence, group.first)

    def group_over(self, group: ResumingGroup) -> None:
        """What carried it may be closed."""
        self._news.tell()

    async def _wait_link(self, after: int) -> Link:
        """A connection on which the track is the one it was."""
        while True:
            if self._failure is not None:
                raise again(self._failure)
            link = self._link
            if link is not None and link.is_open and link.number > after:
                return link
            await self._news.wait()

    # Connections

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Subscribe on each connection in turn. Says that it has started when the first
        publisher has accepted; raises what ``Session.subscribe`` does before that."""
        async with open_scope() as nursery:
            self._scope, self._nursery = nursery.cancel_scope, nursery
            link = await self._subscribe_first(nursery)
            # It ends with the block that uses it, so that whoever reads there is cancelled, and
            # does not find the groups closed.
            nursery.cancel_scope.shield = True
            task_status.started()
            try:
                while True:
                    link = await self._links.get(after=link.number)
                    nursery.start_soon(self._follow, link)
            except SessionClosed as error:
                self._fail(error)
            await trio.sleep_forever()  # what has arrived can still be read

    async def _subscribe_first(self, nursery: trio.Nursery) -> Link:
        after = -1
        while True:
            link = await self._links.get(after=after)
            nursery.start_soon(self._learn_epoch, link)
            try:
                await nursery.start(self._subscribe, link)
                return link
            except SessionClosed:
                after = link.number
            except RequestError as error:
                if not await is_ending(link.session, error):
                    raise
                after = link.number

    async def _learn_epoch(self, link: Link) -> None:
        """Ask for what the first groups are told from others by; they wait for it."""
        try:
            self._epoch = await ask_epoch(link.session, self._wish.broadcast, self._wish.track)
            self._is_known = True
        except SessionClosed:
            if (source := self._source) is not None:
                self._source = None
                source.lost.set()
        self._news.tell()

    async def _follow(self, link: Link) -> None:
        """Go on over a new connection, for as long as it is up."""
        tries = Tries(self._backoff)
        refused = False
        while link.is_open and not link.superseded.is_set():
            try:
                await self._check(link)
                await self._hand_over(link)
                await self._subscribe(link)
                tries.succeeded()
            except SessionClosed:
                return
            except RequestError as error:
                next_try = tries.failed()
                if error.code not in _PASSING or next_try is None:
                    self._fail(error)
                    return
                level = logging.INFO if refused else logging.WARNING
                refused = True
                logger.log(level, "%s; trying again", error)
                await trio.sleep_until(next_try)
            except (EpochChanged, DecodeError, ProtocolError) as error:
                self._fail(error)
                return

    async def _check(self, link: Link) -> None:
        """Raise EpochChanged where the track is not the one it was."""
        if self._link is link:
            return
        known = self._epoch
        epoch = await ask_epoch(link.session, self._wish.broadcast, self._wish.track)
        try:
            if not self._is_known:
                self._is_known = True
            elif known is None or epoch is None:
                await self._evidence.check(link.session, self._ledger.last)
            elif known != epoch:
                raise self._evidence.changed(f"its epoch was {known} and is {epoch}", known, epoch)
        except EpochChanged:
            if self._wish.start is not None or not self._ledger.is_untouched:
                raise
            self._ledger = Ledger()  # nothing has come, and nothing was asked for by its number
        self._epoch = known if epoch is None else epoch
        self._link = link
        self._news.tell()

    async def _hand_over(self, link: Link) -> None:
        """Wait until nothing more comes from the connection before, and more is wanted."""
        async with open_scope() as nursery:
            nursery.start_soon(_raise_when_closed, link.session)
            if (source := self._source) is not None and source.link.is_open:
                self._lose(source)
                await self._send_no_more(source)
            while self._source is not None or self._over or self._is_at_end():
                await self._news.wait()

    async def _send_no_more(self, source: _Source) -> None:
        """The publisher need not begin groups that come over the next connection."""
        if self._ledger.last is None:
            return
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError, ValueError):
            await source.inner.update(end=self._ledger.last + 1)

    def _is_at_end(self) -> bool:
        first, end = self._ledger.next, self._wish.end
        return first is not None and end is not None and first >= end

    async def _subscribe(
        self, link: Link, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Take what comes over one connection, until that is lost or superseded."""
        wish, first = self._wish, self._ledger.next
        with link.held():
            async with wish.rest(first).subscribe(link.session) as inner:
                source = self._source = _Source(link, inner, first)
                self._link = link
                self._info = inner.info
                self._news.tell()
                task_status.started()
                if self._wish is not wish:  # it was changed while that was answered
                    await self._pass_on(source)
                await source.lost.wait()
                # What was handed out is read to its end, which closing would prevent.
                while any(g.link is link and not g.over for g in self._reading.values()):
                    await self._news.wait()

    def _fail(self, error: Exception) -> None:
        self._failure = error
        self._news.tell()


async def _raise_when_closed(session: Session) -> None:
    raise await session.wait_closed()
