"""Follows one track: the subscriber's side of a subscribe stream."""

from __future__ import annotations

import logging
from bisect import insort
from collections import deque
from enum import Enum
from types import EllipsisType
from typing import Protocol

import attrs
import trio

from ..errors import DecodeError, ProtocolError, RequestError, SessionClosed, StreamCode
from ..model import RangeSet, TrackInfo, Wakeup
from ..wire import Version
from ..wire.lite import Subscribe, SubscribeDrop, SubscribeEnd, SubscribeOk
from .datagrams import MAX_UNREAD, DatagramGroup
from .group_stream import StreamGroupConsumer
from .latency import to_wire
from .subscribing import Asker, SubscribeStream

logger: logging.Logger = logging.getLogger("moqtrio.session")

_IN_A_ROW = 32
"""Items handed out at once before other tasks get their turn."""

_MAX_WAITING = 65536
"""Groups and drops that may wait for the application; the stream limit is mostly lower."""


@attrs.frozen
class Gap:
    """Groups that will not come: every sequence in ``[start, end)``.

    ``code`` says why: 0, the publisher has none of them; otherwise a
    :class:`~moqtrio.StreamCode`, such as ``EVICTED`` for groups it could not read, or
    ``DELIVERY_TIMEOUT`` for groups that neither came nor were said to be missing.
    """

    start: int
    end: int
    code: int


class Order(Enum):
    """In which order a subscription hands out groups."""

    SEQUENCE = "sequence"
    """By sequence, waiting for one that is late."""
    ARRIVAL = "arrival"
    """As they come."""


Item = StreamGroupConsumer | Gap


class Owner(Asker, Protocol):
    """What a subscription needs of its session."""

    def forget(self, subscription: Subscription) -> None:
        """No more groups are wanted for this subscription."""
        ...

    def forget_track(self, broadcast: str, track: str) -> None:
        """What is known of the track may not be true any more."""
        ...


class Subscription(trio.abc.ReceiveChannel[Item]):
    """Groups of one track, and the gaps between them. Made by ``Session.subscribe``.

    Iterate over it: each item is a :class:`~moqtrio.GroupConsumer` or a :class:`Gap`.
    Together they account for every sequence from :attr:`start` on, so what is not an item
    has not happened yet. The iteration ends after the last group of a track that ended,
    or at the end that was asked for.

    Groups may be read side by side and in any order; one that is not wanted should be
    closed (``await group.aclose()``), since unread groups hold up those behind them.
    """

    def __init__(
        self,
        owner: Owner,
        version: Version,
        request: Subscribe,
        info: TrackInfo,
        *,
        order: Order,
        gap_timeout: float,
    ) -> None:
        self._owner = owner
        self._stream = SubscribeStream(owner, version, request)
        self._request = request
        self._info = info
        self._order = order
        self._gap_timeout = gap_timeout
        # Drafts 03 and 04 say neither where it starts nor where it ends.
        self._tells_range = SubscribeEnd.exists_in(version)
        self._accepted = False
        self._came_until = 0
        self._has_datagrams = False
        self._wakeup = Wakeup()
        self._in_a_row = 0
        self._asked = request.start
        self._late_at: float | None = None
        self._cursor: int | None = None
        self._start: int | None = None
        self._final: int | None = None
        self._finished = False
        self._failure: Exception | None = None
        self._closed = False
        self._arrived: dict[int, StreamGroupConsumer] = {}
        self._queue: deque[Item] = deque()
        self._dropped: list[SubscribeDrop] = []
        self._reading: dict[int, StreamGroupConsumer] = {}
        self._seen = RangeSet(limit=_MAX_WAITING)

    @property
    def subscribe_id(self) -> int:
        """The number of this subscription on its session."""
        return self._request.subscribe_id

    @property
    def info(self) -> TrackInfo:
        """The track's fixed properties. moq-lite-03 and -04 have no timestamps: there a frame
        is stamped when it arrives."""
        return self._info

    @property
    def start(self) -> int | None:
        """The first sequence that is accounted for; None until the publisher has said, or, on
        moq-lite-03 and -04, whose publishers do not say, a group has come."""
        return self._start

    @property
    def final(self) -> int | None:
        """One more than the track's last sequence, once the publisher has said (on
        moq-lite-03 and -04: one more than the last that came, once it has ended)."""
        return self._final

    # The application's side

    async def receive(self) -> Item:
        """The next group or gap.

        Raises:
            trio.EndOfChannel: after the last of them.
            RequestError: the publisher ended the subscription, with its code.
            SessionClosed: the session is over.
            DecodeError, ProtocolError: the publisher sent something on the subscription
                that is not moq-lite.

        Cancelling it loses nothing, and is always heeded. Of items that are there already
        only every 32nd lets other tasks run: that costs more than a small group does.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            item = self._next()
            if item is not None:
                self._in_a_row = (self._in_a_row + 1) % _IN_A_ROW
                if not self._in_a_row:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                return item
            self._raise_if_over()
            late = self._late()
            if late is None:
                self._late_at = None
                await self._wakeup.wait()
                continue
            # Kept between calls: who asks again and again with a timeout of their own must
            # hear of the gap too.
            if self._late_at is None:
                self._late_at = trio.current_time() + self._gap_timeout
            with trio.move_on_at(self._late_at) as scope:
                await self._wakeup.wait()
            if scope.cancelled_caught:
                self._late_at = None
                self._give_up(late)

    def receive_nowait(self) -> Item:
        """The next group or gap if it is there, else trio.WouldBlock. See ``receive``."""
        item = self._next()
        if item is not None:
            return item
        self._raise_if_over()
        raise trio.WouldBlock

    async def update(
        self,
        *,
        end: int | EllipsisType | None = ...,
        start: int | None = None,
        priority: int | None = None,
        max_latency: float | None = None,
    ) -> None:
        """Change what is asked for. What is not given stays as it is.

        Args:
            end: the new end (half-open), None for no end.
            start: skip ahead to this sequence; going back is not possible.
            priority: 0 to 255.
            max_latency: seconds a group may lag behind the latest.

        Raises ValueError, having changed nothing, where the range or a number is impossible.
        Cancelling it may leave the change half sent; then close the subscription.
        """
        request = attrs.evolve(
            self._request,
            start=self._request.start if start is None else start,
            end=self._request.end if end is ... else end,
            priority=self._request.priority if priority is None else priority,
            max_latency=self._request.max_latency if max_latency is None else to_wire(max_latency),
        )
        self._stream.check(request)
        self._request = request
        if start is not None and self._cursor is not None:
            self._skip_to(start)
        if request.end is not None:
            self._stop_from(request.end)
        await self._stream.update(request)
        self._wakeup.set()

    async def aclose(self) -> None:
        """Unsubscribe: unread groups are stopped. Cancelling it changes nothing."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Unsubscribe at once. Never blocks; idempotent."""
        if self._closed:
            return
        self._closed = True
        self._owner.forget(self)
        self._stream.close()
        for group in (*self._arrived.values(), *self._reading.values()):
            group.stop(StreamCode.CANCEL)
        for item in self._queue:
            if isinstance(item, StreamGroupConsumer):
                item.stop(StreamCode.CANCEL)
        self._arrived.clear()
        self._reading.clear()
        self._queue.clear()
        self._wakeup.set()

    # What comes next

    def _next(self) -> Item | None:
        if self._closed:
            raise trio.ClosedResourceError("this side has unsubscribed")
        if self._order is Order.ARRIVAL:
            item = self._queue.popleft() if self._queue and self._has_begun else None
        else:
            item = self._next_in_sequence()
        if item is not None:
            self._late_at = None
        if isinstance(item, StreamGroupConsumer):
            self._hand_out(item)
        return item

    @property
    def _has_begun(self) -> bool:
        """Whether groups may be handed out: what came first need not be what starts it, and the
        publisher's word of that travels on a stream of its own."""
        return self._cursor is not None or not self._tells_range

    def _next_in_sequence(self) -> Item | None:
        if self._cursor is None and self._accepted and self._arrived:
            self._begin_at(min(self._arrived))
        cursor = self._cursor
        if cursor is None or self._at_end(cursor):
            return None
        group = self._arrived.pop(cursor, None)
        if group is not None:
            self._cursor = cursor + 1
            return group
        return self._next_gap(cursor)

    def _next_gap(self, cursor: int) -> Gap | None:
        dropped = self._dropped
        while dropped and dropped[0].end <= cursor:
            del dropped[0]
        if not dropped or dropped[0].start > cursor:
            return None
        drop = dropped[0]
        end = drop.end if self._last is None else min(drop.end, self._last)
        # A group that came although it was dropped counts as having come.
        end = min([end, *(sequence for sequence in self._arrived if sequence > cursor)])
        self._cursor = end
        return Gap(cursor, end, drop.code)

    def _at_end(self, cursor: int) -> bool:
        last = self._last
        return last is not None and cursor >= last

    def _raise_if_over(self) -> None:
        """Raise what ends the iteration, if it has come to that."""
        cursor = self._cursor
        if self._is_empty:
            raise trio.EndOfChannel  # of which a publisher need not say anything
        if self._order is Order.SEQUENCE:
            if cursor is not None and self._at_end(cursor):
                raise trio.EndOfChannel
        elif self._accounted():
            raise trio.EndOfChannel
        if self._failure is not None:
            raise self._failure
        if self._finished and (cursor is None or self._last is None) and self._late() is None:
            # The publisher never said where it starts, or ends.
            if self._arrived or self._queue:
                raise ProtocolError("groups came, but SUBSCRIBE_OK never did")
            raise trio.EndOfChannel

    @property
    def _is_empty(self) -> bool:
        """Whether nothing was asked for."""
        start, end = self._request.start, self._request.end
        return start is not None and end is not None and start >= end

    @property
    def _last(self) -> int | None:
        """Where the subscription ends, as far as that is known."""
        final, end = self._final, self._request.end
        return end if final is None or (end is not None and end < final) else final

    def _accounted(self) -> bool:
        """Whether every sequence up to the end has come or was dropped (arrival order)."""
        first, last = self._cursor, self._last
        if first is None or last is None:
            return False
        return first >= last or (self._seen.end_of(first) or 0) >= last

    def _late(self) -> int | None:
        """Up to where groups are late, or None: those before one that has come, or, once
        the publisher has finished, all that have not."""
        if self._end_is_unknown and not (self._order is Order.SEQUENCE and self._arrived):
            return self._came_until
        cursor = self._cursor
        if cursor is None:
            return None
        if self._order is Order.ARRIVAL:
            return self._last if self._finished or self._is_overtaken else None
        candidates = list(self._arrived)
        candidates += [drop.start for drop in self._dropped if drop.start > cursor]
        if self._finished and self._last is not None:
            candidates.append(self._last)
        return min(candidates, default=None)

    @property
    def _is_overtaken(self) -> bool:
        """Whether the last that is wanted has come (arrival order). Where groups come as
        datagrams, of which some are lost, those before it may never come."""
        end = self._request.end
        return self._has_datagrams and end is not None and self._came_until >= end

    def _give_up(self, end: int) -> None:
        """What should have come by now is a gap that nobody has explained."""
        if self._end_is_unknown and end >= self._came_until:
            self._final = self._came_until  # nothing has come for a while
            if self._cursor is None:
                first = self._seen.next_start(-1)
                self._begin_at(self._final if first is None else first)
            return
        cursor = self._cursor
        assert cursor is not None
        if self._order is Order.SEQUENCE:
            drop = SubscribeDrop(cursor, end, StreamCode.DELIVERY_TIMEOUT)
            insort(self._dropped, drop, key=_drop_start)
        else:
            self._queue_gaps(cursor, end, StreamCode.DELIVERY_TIMEOUT)

    @property
    def _end_is_unknown(self) -> bool:
        """Whether the publisher has finished without a word of where the track ended."""
        return self._finished and self._final is None and not self._tells_range

    def _queue_gaps(self, start: int, end: int, code: int) -> None:
        """What has not come of ``[start, end)`` will not come (arrival order)."""
        at = start
        while at < end:
            seen = self._seen.end_of(at)
            if seen is None:
                seen = min(self._seen.next_start(at) or end, end)
                self._queue.append(Gap(at, seen, code))
            at = seen
        self._seen.add(start, end)

    def _skip_to(self, start: int) -> None:
        assert self._cursor is not None
        if start <= self._cursor:
            return
        self._cursor = start
        self._stop_below(start)

    def _stop_below(self, start: int) -> None:
        for sequence in [s for s in self._arrived if s < start]:
            self._arrived.pop(sequence).stop(StreamCode.OLD)

    def _stop_from(self, end: int) -> None:
        for sequence in [s for s in self._arrived if s >= end]:
            self._stop_beyond_end(self._arrived.pop(sequence))

    def _stop_beyond_end(self, group: StreamGroupConsumer) -> None:
        group.stop(StreamCode.CANCEL)
        # The end may be raised again, and the publisher sends nothing twice.
        drop = SubscribeDrop(group.sequence, group.sequence + 1, StreamCode.CANCEL)
        insort(self._dropped, drop, key=_drop_start)

    def _hand_out(self, group: StreamGroupConsumer) -> None:
        if len(self._reading) >= 64:
            self._reading = {s: g for s, g in self._reading.items() if not g.over}
        self._reading[group.sequence] = group

    # The publisher's side

    def group_arrived(self, group: StreamGroupConsumer) -> None:
        """A group's stream has begun. One that is not wanted (any more) is stopped."""
        sequence = group.sequence
        if sequence >= self._came_until:
            self._came_until = sequence + 1
        if self._closed:
            group.stop(StreamCode.CANCEL)
        elif self._is_late(sequence):
            logger.debug("group %d came too late, or twice", sequence)
            group.stop(StreamCode.OLD)
        elif len(self._arrived) + len(self._dropped) + len(self._queue) >= _MAX_WAITING:
            group.stop(StreamCode.TOO_FAR_BEHIND)
        elif self._order is Order.ARRIVAL:
            self._seen.add(sequence, sequence + 1)
            self._queue.append(group)
        elif self._request.end is not None and sequence >= self._request.end:
            self._stop_beyond_end(group)
        else:
            self._arrived[sequence] = group
        self._wakeup.set()

    def datagram_arrived(self, group: DatagramGroup) -> None:
        """A group has come as a datagram. It is lost where too many have not been read."""
        self._has_datagrams = True
        if len(self._arrived) + len(self._queue) < MAX_UNREAD:
            self.group_arrived(group)

    def _is_late(self, sequence: int) -> bool:
        if self._cursor is not None and sequence < self._cursor:
            return True
        return sequence in (self._seen if self._order is Order.ARRIVAL else self._arrived)

    async def follow(self, task_status: trio.TaskStatus[None]) -> None:
        """Ask for it, and follow what the publisher says of it until it ends the stream.

        What goes wrong before it has started is raised, what goes wrong later is for
        :meth:`receive` to raise.
        """
        started = _Started(task_status)
        try:
            await self._stream.run(self, started)
            self._finished = True
        except trio.ClosedResourceError:
            pass  # unsubscribed meanwhile
        except (RequestError, SessionClosed, DecodeError, ProtocolError) as error:
            self._owner.forget_track(self._request.broadcast, self._request.track)
            if isinstance(error, DecodeError | ProtocolError):
                logger.warning(
                    "subscription to %s: bad response: %s", self._stream.description, error
                )
                self._stream.reset(StreamCode.MALFORMED)
            if not started.is_set:
                raise
            self._failure = error
        self._wakeup.set()
        started.started()

    def accepted(self, answer: SubscribeOk) -> None:
        """See ``subscribing.Listener``."""
        if self._accepted:
            raise ProtocolError("a second SUBSCRIBE_OK")
        self._accepted = True
        self._info = TrackInfo(
            priority=answer.priority, ordered=answer.ordered, max_latency=answer.max_latency
        )
        asked = self._asked
        start = answer.start if asked is None else max(asked, answer.start or 0)
        if start is not None:
            self.started(start)
        self._wakeup.set()

    def started(self, start: int) -> None:
        """See ``subscribing.Listener``."""
        if self._start is not None:
            raise ProtocolError(f"a second SUBSCRIBE_OK: {start} after {self._start}")
        if self._asked is not None and start < self._asked:
            raise ProtocolError(f"SUBSCRIBE_OK names group {start}, below {self._asked}")
        self._begin_at(start)
        if self._request.start is not None:  # it may have been raised meanwhile
            self._skip_to(self._request.start)
        self._wakeup.set()

    def _begin_at(self, start: int) -> None:
        self._start = self._cursor = start
        self._stop_below(start)
        queue, self._queue = self._queue, deque()
        for item in queue:
            if isinstance(item, StreamGroupConsumer) and item.sequence < start:
                item.stop(StreamCode.OLD)
            else:
                self._queue.append(item)

    def ended(self, final: int) -> None:
        """See ``subscribing.Listener``."""
        if self._final is not None:
            raise ProtocolError(f"a second SUBSCRIBE_END: {final} after {self._final}")
        self._final = final
        if self._cursor is None:  # the track ended with nothing to send
            self._begin_at(final)
        self._owner.forget_track(self._request.broadcast, self._request.track)
        self._wakeup.set()

    def dropped(self, drop: SubscribeDrop) -> None:
        """See ``subscribing.Listener``."""
        cursor = drop.start if self._accepted and self._cursor is None else self._cursor
        if cursor is None:
            raise ProtocolError("SUBSCRIBE_DROP came before SUBSCRIBE_OK")
        if drop.end <= cursor:
            return
        if len(self._dropped) + len(self._queue) >= _MAX_WAITING:
            raise ProtocolError(f"more than {_MAX_WAITING} drops that were not read yet")
        if self._order is Order.ARRIVAL:
            self._queue_gaps(max(drop.start, cursor), drop.end, drop.code)
        else:
            insort(self._dropped, drop, key=_drop_start)
        self._came_until = max(self._came_until, drop.end)
        self._wakeup.set()


class _Started:
    """Tells that a task has started, once."""

    def __init__(self, task_status: trio.TaskStatus[None]) -> None:
        self._task_status = task_status
        self.is_set = False

    def started(self, value: None = None) -> None:
        if not self.is_set:
            self.is_set = True
            self._task_status.started()


def _drop_start(drop: SubscribeDrop) -> int:
    return drop.start
