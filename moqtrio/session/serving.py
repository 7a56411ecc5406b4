"""Serves one subscription: the publisher's side of a subscribe stream.

One task does the work: it asks the resolver what comes next, and moves every group that
is under way as far as flow control and store allow. Then it sleeps until the log has
changed, the peer has given credit, the store has answered or the subscriber has spoken.
Live and replayed groups take the same way.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sized

import attrs
import trio

from ..errors import DecodeError, ReplayError, StreamCode, StreamReset
from ..model import Track, Wakeup
from ..replay import Dropped, LiveReader, Pending, Ready, Resolver, RetryPolicy
from ..replay.resolver import Reader
from ..transport.connection import Connection, SendStream
from ..wire.lite import (
    Subscribe,
    SubscribeDrop,
    SubscribeEnd,
    SubscribeOk,
    SubscribeResponse,
    SubscribeStart,
    SubscribeUpdate,
    encode_group_header,
    has_datagrams,
    has_timestamps,
)
from .ahead import Ahead
from .control import ControlStream
from .datagrams import DatagramSender
from .goaway import Departure
from .group_sender import GroupSender, Progress
from .latency import from_wire, track_latency
from .outgoing import OutgoingStreams
from .pins import PinLimit
from .priorities import request_priority
from .wishes import ages_by_clock, frames_of, is_ordered, start_window

logger: logging.Logger = logging.getLogger("moqtrio.session")

_STARTS_PER_TURN = 64


@attrs.frozen
class ServingLimits:
    """What one subscription may hold of this side's memory.

    Attributes:
        groups_blocked: groups that may wait for the subscriber or for the store at once;
            each holds about 128 KiB. Groups that were wholly handed to the transport,
            which has limits of its own, do not count: a long round trip does not slow
            the replay of small groups.
        session_groups_blocked: groups that may wait so in all subscriptions of a session;
            each may have one in any case.
        bytes_ahead: what may be sent of groups behind one that is not complete, if the
            subscriber's window is large enough for twice that. It may read that one first,
            and must have room for it.
        pin_seconds: how long a subscriber that takes nothing may keep a group in memory that
            the track itself has let go of. Then it goes on from the store, or, where there is
            none, loses the group.
        retry: how a store that fails is asked again.
    """

    groups_blocked: int = 4
    session_groups_blocked: int = 128
    bytes_ahead: int = 8 * 2**20
    pin_seconds: float = 5.0
    retry: RetryPolicy = attrs.Factory(RetryPolicy)


class SubscriptionServer:
    """Runs one subscription from SUBSCRIBE to its end.

    Args:
        connection: where the groups go.
        control: the subscribe stream.
        track: what was asked for.
        request: how it was asked for.
        limits: what it may hold of this side's memory.
        subscriptions: those that share the connection.
        departure: says when no new groups are to begin.
    """

    def __init__(
        self,
        connection: Connection,
        control: ControlStream,
        track: Track,
        request: Subscribe,
        limits: ServingLimits | None = None,
        *,
        subscriptions: Sized = (0,),
        departure: Departure | None = None,
    ) -> None:
        self._connection = connection
        self._control = control
        self._track = track
        self._log = track.log
        self._id = request.subscribe_id
        priority = request_priority(request.priority, track.info)
        self._version = control.version
        self._timed = has_timestamps(self._version)
        self._wishes = request.wishes
        self._ordered = is_ordered(self._wishes, track.info, self._version)
        self._outgoing = OutgoingStreams(connection, priority, ordered=self._ordered)
        self._datagrams: DatagramSender | None = None
        if track.datagrams and has_datagrams(self._version):
            self._datagrams = DatagramSender(connection, self._id, track.info.timescale)
        self._limits = ServingLimits() if limits is None else limits
        self._resolver = Resolver(
            track.log,
            track.source,
            start=request.start,
            end=request.end,
            priority=priority,
            max_latency=from_wire(request.max_latency),
            by_clock=ages_by_clock(self._version),
            retry=self._limits.retry,
            window=start_window(self._wishes, self._version),
        )
        self._pins = PinLimit(track.log, self._resolver, self._limits.pin_seconds)
        self._wakeup = Wakeup()
        self._senders: list[GroupSender] = []
        self._subscriptions = subscriptions
        self._departure = Departure(connection, control.version) if departure is None else departure
        self._ahead = Ahead()
        self._blocked = 0
        self._started = False
        self._at_edge = True
        self._end_sent = False
        self._backlog = bytearray()
        self._resolver_waits: trio.CancelScope | None = None

    async def run(self) -> None:
        """Serve until everything was sent, or the subscriber leaves, or this is cancelled.

        Ends the stream itself, unless it raises: what is a bug, or Cancelled. Then the
        stream must be reset, for a FIN would say that everything was sent. Every group
        under way is reset in any case.
        """
        remove_log = self._log.watchers.add(self._log_changed)
        remove_writable = self._connection.on_writable(self._wakeup.set)
        end = StreamCode.SESSION_CLOSED  # unless it comes to an end of its own
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read_updates, nursery.cancel_scope)
                await self._serve(nursery)
                nursery.cancel_scope.cancel()
            end = StreamCode.CANCEL
        finally:
            remove_log()
            remove_writable()
            self._resolver.close()
            for sender in self._senders:
                sender.reset(end)
        await self._outgoing.wait_arrived()
        self._control.finish()

    async def _serve(self, nursery: trio.Nursery) -> None:
        try:
            while True:
                moved = self._turn(nursery)
                if self._is_over():
                    return
                if moved:
                    await trio.lowlevel.checkpoint()
                elif self._blocked:
                    await self._pins.wait(self._wakeup, self._senders)
                else:
                    await self._wakeup.wait()
        except trio.BrokenResourceError:
            pass  # The subscriber has reset its stream, or the connection is over.
        except ReplayError as error:
            logger.error("subscription to %s: %s", self._describe(), error)
            self._control.reset(error.code)

    def _turn(self, nursery: trio.Nursery) -> bool:
        """Do everything that can be done now; whether there may be more of it."""
        if self._log.aborted is not None:
            raise ReplayError("the track was aborted", code=self._log.aborted, retryable=False)
        if not self._started and not self._start(nursery):
            return False
        if self._resolver.expiry.is_limited:
            for sequence in self._outgoing.reset_expired(self._resolver.expiry):
                self._respond(SubscribeDrop(sequence, sequence + 1, StreamCode.OLD))
        moved = False
        self._blocked = 0
        for sender in tuple(self._senders):
            moved |= self._advance(sender, nursery)
        moved |= self._start_groups(nursery)
        self._announce_end()
        return self._flush() and moved

    def _start(self, nursery: trio.Nursery) -> bool:
        answer = self._resolver.poll_start()
        if isinstance(answer, Pending):
            self._resolver_wait(answer, nursery)
            return False
        self._started = True
        self._announce_start(answer.value)
        return True

    def _announce_start(self, start: int) -> None:
        if SubscribeOk.exists_in(self._version):
            info = self._track.info
            latency = track_latency(self._track)
            self._respond(SubscribeOk(info.priority, info.ordered, latency, start))
            return
        final = self._log.final_sequence
        if final is None or start < final:
            self._respond(SubscribeStart(start))

    def _start_groups(self, nursery: trio.Nursery) -> bool:
        """Begin groups while there are any and the subscriber keeps up; whether there is
        more to do at once."""
        moved = self._at_edge = False
        if self._departure.leaving:
            return False
        most_blocked = self._most_blocked()
        for _ in range(_STARTS_PER_TURN):
            if (
                self._resolver_waits is not None
                or self._blocked >= most_blocked
                or self._is_far_ahead()
                or not self._flush()
            ):
                return moved
            answer = self._resolver.poll_next()
            if isinstance(answer, Ready):
                if not isinstance(answer.value, LiveReader):
                    self._outgoing.fall_behind()
                elif self._datagrams is not None and self._send_datagram(answer.value):
                    moved = True
                    continue
                sender = self._make_sender(answer.value)
                self._senders.append(sender)
                self._ahead.begin(sender)
                moved |= self._advance(sender, nursery)
            elif isinstance(answer, Dropped):
                self._respond(SubscribeDrop(answer.start, answer.end, answer.code))
                if answer.end - answer.start > _STARTS_PER_TURN:
                    return True  # it took a turn's time to find how long that run is
            elif isinstance(answer, Pending):
                self._resolver_wait(answer, nursery)
                return moved
            else:  # parked at the edge, or at the subscription's end
                self._outgoing.catch_up()
                self._at_edge = True
                return moved
        return True  # there may be more, after the others had their turn

    def _send_datagram(self, reader: LiveReader) -> bool:
        assert self._datagrams is not None
        return (
            self._outgoing.is_caught_up
            # After the last that is wanted nothing comes by which a loss would be noticed.
            and self._resolver.end is None
            and frames_of(self._wishes, reader.sequence) is None
            and self._datagrams.send(reader)
        )

    def _make_sender(self, reader: Reader) -> GroupSender:
        sequence, version = reader.sequence, self._version
        frames = frames_of(self._wishes, sequence)
        first = 0 if frames is None else frames.start
        return GroupSender(
            reader,
            self._resolver.expiry,
            self._outgoing.open_stream,
            header=encode_group_header(self._id, sequence, version, first),
            timescale=self._track.info.timescale if self._timed else None,
            frames=frames,
        )

    def _advance(self, sender: GroupSender, nursery: trio.Nursery) -> bool:
        """Move one group on; whether it could go further at once."""
        if sender.is_waiting:
            self._block(sender)
            return False
        before = sender.sent
        try:
            if sender.blocked_since is not None:
                self._pins.enforce(sender)
            held_back = self._ahead.includes(sender) and self._is_far_ahead()
            progress = sender.hold_back() if held_back else sender.advance()
        except StreamReset:
            sender.reset(StreamCode.CANCEL)  # The subscriber does not want this group.
            self._senders.remove(sender)
            return False
        except ReplayError as error:
            self._give_up(sender, error)
            return False
        finally:
            self._ahead.count(sender, sender.sent - before)
        if progress is Progress.OVER:
            self._senders.remove(sender)
            self._outgoing.handed_over(sender)
        elif progress is Progress.PENDING:
            self._block(sender)
            nursery.start_soon(self._wait_for, sender.wait_for_store, sender.store_ready)
        elif progress is Progress.BLOCKED:
            self._block(sender)
        return progress is Progress.MORE

    def _streams(self) -> list[SendStream]:
        return [sender.stream for sender in self._senders if sender.stream is not None]

    def _is_far_ahead(self) -> bool:
        """Whether nothing more should be sent but the first group that is not complete.

        Who takes groups as they come may read that one and others side by side, and should
        have the others while nothing happens in it.
        """
        if not self._ahead.bytes or (not self._ordered and self._senders[0].is_parked):
            return False
        return self._ahead.bytes >= min(self._limits.bytes_ahead, self._share() // 2)

    def _share(self) -> int:
        """This subscription's part of what the peer takes without reading."""
        return self._connection.peer_window // max(len(self._subscriptions), 1)

    def _block(self, sender: GroupSender) -> None:
        """Count a group that waits. Until its stream is open no later group may begin:
        streams open in the order of their groups."""
        self._blocked += 1 if sender.stream is not None else self._limits.groups_blocked

    def _most_blocked(self) -> int:
        share = self._limits.session_groups_blocked // max(len(self._subscriptions), 1)
        return max(min(self._limits.groups_blocked, share), 1)

    def _give_up(self, sender: GroupSender, error: ReplayError) -> None:
        """The group cannot be completed: its stream must not look as if it were."""
        # That the subscriber wants nothing that is old is no trouble.
        level = logging.DEBUG if error.code == StreamCode.OLD else logging.WARNING
        logger.log(level, "group %d of %s: %s", sender.sequence, self._describe(), error)
        sender.reset(error.code)
        self._senders.remove(sender)
        # A drop with code 0 says that there is no such group.
        code = error.code or StreamCode.EVICTED
        self._respond(SubscribeDrop(sender.sequence, sender.sequence + 1, code))
        if error.retryable:
            self._resolver.retries.gave_up(sender.sequence, error)

    def _announce_end(self) -> None:
        final = self._log.final_sequence
        if final is not None and not self._end_sent:
            self._end_sent = True
            if SubscribeEnd.exists_in(self._version):
                self._respond(SubscribeEnd(final))

    def _is_over(self) -> bool:
        """Whether every group up to the track's end is accounted for.

        A subscription that ends before its track does is not over then: the subscriber may
        still move the end, and says itself when it has had enough. (A peer would take a FIN
        for the end of the track.)
        """
        final = self._log.final_sequence
        cursor = self._resolver.cursor
        return (
            self._started
            and final is not None
            and cursor is not None
            and cursor >= final
            and not self._senders
            and not self._backlog
        )

    # Waiting

    def _log_changed(self) -> None:
        """Somebody wrote to the log. Who is held up in history has no use for that: every
        frame would cost a turn of each of them."""
        if (
            self._at_edge
            or self._log.ended
            or self._resolver.expiry.is_limited
            or any(sender.is_live for sender in self._senders)
        ):
            self._wakeup.set()

    def _resolver_wait(self, pending: Pending, nursery: trio.Nursery) -> None:
        if self._resolver_waits is None:
            scope = self._resolver_waits = trio.CancelScope()
            nursery.start_soon(self._wait_for_resolver, pending, scope)

    async def _wait_for_resolver(self, pending: Pending, scope: trio.CancelScope) -> None:
        with scope:
            await pending.wait()
            if self._resolver_waits is scope:  # else an update has just begun another wait
                self._resolver_waits = None
                self._wakeup.set()

    def _stop_waiting_for_resolver(self) -> None:
        if self._resolver_waits is not None:
            self._resolver_waits.cancel()
            self._resolver_waits = None

    async def _wait_for(
        self, wait: Callable[[], Awaitable[None]], done: Callable[[], None]
    ) -> None:
        await wait()
        done()
        self._wakeup.set()

    # The subscribe stream

    def _respond(self, response: SubscribeResponse) -> None:
        """Send a response, or keep it for :meth:`_flush`.

        A response goes before the groups that follow it: a subscriber that reads in order
        would otherwise wait for what was dropped, while what it does not read yet fills the
        connection's window and keeps the news from it.
        """
        self._backlog += response.encode(self._version)
        self._flush()

    def _flush(self) -> bool:
        """Send the responses that are due; False where they must wait."""
        if self._backlog:
            try:
                self._control.send.send_nowait(bytes(self._backlog))
            except trio.WouldBlock:
                return False
            self._backlog.clear()
        return True

    async def _read_updates(self, scope: trio.CancelScope) -> None:
        """Follow the subscriber's wishes until it ends the stream, then end everything."""
        try:
            while (update := await self._control.read(SubscribeUpdate)) is not None:
                self._update(update)
                await trio.lowlevel.checkpoint()  # thousands may lie here
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # Either side has given the subscription up.
        except DecodeError as error:
            logger.warning("subscription to %s: a bad update: %s", self._describe(), error)
            self._control.reset(StreamCode.MALFORMED)
        scope.cancel()

    def _update(self, update: SubscribeUpdate) -> None:
        if update.start is not None:
            self._resolver.raise_start(update.start)
        self._resolver.end = update.end
        self._resolver.expiry.set_max_latency(from_wire(update.max_latency))
        self._wishes = update
        self._ordered = is_ordered(update, self._track.info, self._version)
        self._stop_waiting_for_resolver()  # what is wanted now may be there
        priority = request_priority(update.priority, self._track.info)
        self._resolver.priority = priority
        self._outgoing.set_request(priority, self._ordered, self._streams())
        self._wakeup.set()

    def _describe(self) -> str:
        return f"{self._track.broadcast}/{self._track.name}"
