"""A session: both halves of moq-lite over one connection.

Either side of a connection may publish, subscribe, or do both: what a session serves is
its origin, what it asks for goes through its methods.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count
from typing import Literal

import attrs
import trio
from cryptography import x509

from ..errors import (
    ProtocolError,
    RequestError,
    SessionClosed,
    SessionCode,
    StreamCode,
    StreamReset,
    describe_stream_code,
)
from ..model import Announcement, GroupConsumer, Origin, TrackInfo
from ..scope import is_wholly, open_scope
from ..transport.connection import BidiStream, Connection, ConnectionStatistics
from ..wire import Version, lite
from .announcements import Announcements, read_hello, wait_announced
from .control import ControlStream
from .datagrams import receive_datagrams
from .goaway import GRACE, Departure, GoingAway
from .incoming import IncomingStreams
from .latency import to_wire
from .limits import Guard, SessionLimits
from .probe import ProbeReports
from .publisher import Publisher
from .receiving import Subscriptions
from .serving import ServingLimits
from .setup import DEFAULT_COST, PeerSetup, send_setup
from .subscription import Order, Subscription
from .timeline import find_time
from .track_infos import TrackInfos

logger: logging.Logger = logging.getLogger("moqtrio.session")

_SETUP_PATIENCE = 1.0
"""Seconds to wait for the SETUP of a peer that has answered a request, and sent it before."""


@attrs.frozen(kw_only=True)
class SessionSettings:
    """How a session behaves.

    Attributes:
        max_frame_bytes: the largest frame that is accepted.
        serving: what each of the peer's subscriptions may hold of our memory.
        limits: how many requests of the peer are served at once.
        cost: what subscribing from this side costs, in units of the deployment's choice, for
            peers that relay; None for the usual 1. Since moq-lite-05.
    """

    max_frame_bytes: int = 16 * 2**20
    serving: ServingLimits = attrs.Factory(ServingLimits)
    limits: SessionLimits = attrs.Factory(SessionLimits)
    cost: int | None = None


class Session:
    """One peer. Made by :func:`moqtrio.open_session`, or by :func:`moqtrio.serve` for each
    client.

    Every method that waits raises :exc:`~moqtrio.SessionClosed` once the session is over.
    """

    def __init__(
        self,
        connection: Connection,
        version: Version,
        *,
        publish: Origin | None = None,
        path: str | None = None,
        settings: SessionSettings | None = None,
    ) -> None:
        self._connection = connection
        connection.translate_codes(
            partial(lite.stream_code_from, draft=version.draft),
            partial(lite.session_code_from, draft=version.draft),
        )
        self._version = version
        self._settings = SessionSettings() if settings is None else settings
        self._origin = publish
        self._path = path
        self._peer_setup = PeerSetup(version)
        self._guard = Guard(connection, self._settings.limits)
        self._publisher = Publisher(
            connection, version, publish, self._settings.serving, self._peer_setup, self._guard
        )
        self._subscriptions = Subscriptions(version, self._settings.max_frame_bytes)
        self._subscribe_ids = count()
        self._track_infos = TrackInfos()

    @property
    def version(self) -> str:
        """The protocol version both sides agreed on, such as ``"moq-lite-05"``."""
        return self._version.name

    @property
    def remote_address(self) -> str:
        """The peer's address."""
        return self._connection.remote_address

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        """What the peer presented to say who it is, checked as this side's TLS settings
        want it; None for a client that was not asked, or had none."""
        return self._connection.peer_certificate

    @property
    def peer_path(self) -> str | None:
        """Path and query of the URL a client asked for; None for the root, or until it has
        said. Before moq-lite-05 there is none on raw QUIC."""
        path = self._connection.request_path or self._peer_setup.now.path or "/"
        if path == "/":
            return None
        return path if path.startswith("/") else f"/{path}"

    @property
    def peer_role(self) -> Literal["publisher", "subscriber"] | None:
        """The one direction a client means to use; None for both, or until it has said."""
        role = self._peer_setup.now.role
        if role is None:
            return None
        return "publisher" if role is lite.Role.PUBLISHER else "subscriber"

    @property
    def peer_cost(self) -> int | None:
        """What the peer says subscribing from it costs; None if it has not said."""
        return self._peer_setup.now.cost

    @property
    def peer_origin(self) -> int | None:
        """The peer's own identifier in announcements; None if it has not said."""
        return self._peer_setup.now.origin

    def statistics(self) -> ConnectionStatistics:
        """A snapshot of the connection's counters."""
        return self._connection.statistics()

    def close(self, code: int = SessionCode.NO_ERROR, reason: str = "") -> None:
        """End the session now. Never blocks; idempotent."""
        self._connection.close(code, reason)

    @property
    def closed(self) -> SessionClosed | None:
        """Why the session is over; None while it is not."""
        return self._connection.closed

    async def wait_closed(self) -> SessionClosed:
        """Wait until the session is over; returns why."""
        return await self._connection.wait_closed()

    @property
    def going_away(self) -> GoingAway | None:
        """What the peer has said of leaving (GOAWAY); None while it has said nothing.

        The session works on until it is closed, but the peer may refuse new requests.
        """
        return self._publisher.departure.peer

    async def wait_going_away(self) -> GoingAway:
        """Wait until the peer says that it leaves; raises SessionClosed where it never does."""
        return await self._publisher.departure.wait_heard()

    async def go_away(self, uri: str = "", *, grace: float = GRACE) -> None:
        """End the session in good order (GOAWAY).

        From now on the peer's new requests are refused and no new groups begun. Returns when
        those that are under way have arrived, or the peer has closed the session, or
        ``grace`` seconds have passed; then the session is closed. Versions before 04 have
        no GOAWAY: such a peer is not told, all else is the same.

        Args:
            uri: where the peer should go; it then has all of ``grace`` to do so.
            grace: the most seconds this takes.

        Cancelling it leaves the session open, but leaving.
        """
        await self._publisher.departure.leave(uri, grace)

    @property
    def departure(self) -> Departure:
        """For servers, which close many sessions together."""
        return self._publisher.departure

    # Asking

    @asynccontextmanager
    async def subscribe(
        self,
        broadcast: str,
        track: str,
        *,
        start: int | None = None,
        start_time: float | None = None,
        end: int | None = None,
        order: Literal["sequence", "arrival"] = "sequence",
        priority: int = 127,
        max_latency: float = math.inf,
        gap_timeout: float = 2.0,
    ) -> AsyncGenerator[Subscription, None]:
        """Follow a track, from history if asked to.

        Args:
            broadcast: the broadcast's path.
            track: the track's name.
            start: the first group wanted; the first that is available from there on is
                what comes. 0 is the oldest there is, None the latest.
            start_time: instead of ``start``, a time in seconds since the Unix epoch (what
                :meth:`datetime.datetime.timestamp` returns): everything that was published
                from then on comes, and what shares a group with it. See :meth:`find_time`.
            end: where to stop (half-open); None follows the track to its end.
            order: by ``"sequence"``, waiting for a group that is late, or by ``"arrival"``.
            priority: 0 to 255; higher is sent first.
            max_latency: seconds a group may lag behind the latest before it is not worth
                sending; by default all of them are.
            gap_timeout: seconds to wait for a group that was overtaken before it is
                reported as a :class:`~moqtrio.Gap`.

        Raises:
            RequestError: there is no such broadcast or track, or it was refused; or the
                publisher cannot find groups by time.
            ValueError: the range or a number is impossible.

        Leaving the block unsubscribes; unread groups are stopped. Cancelling is leaving.
        """
        wanted_order = Order(order)
        if start_time is not None:
            if start is not None:
                raise ValueError("start and start_time exclude each other: give one")
            start = await self.find_time(broadcast, track, start_time)
        request = lite.Subscribe(
            subscribe_id=self.next_subscribe_id(),
            broadcast=broadcast,
            track=track,
            priority=priority,
            ordered=wanted_order is Order.SEQUENCE,
            max_latency=to_wire(max_latency),
            start=start,
            end=end,
        )
        known = TrackInfo()
        if lite.Track.exists_in(self._version):
            known = await self.track_info(broadcast, track)
        subscription = Subscription(
            self, self._version, request, known, order=wanted_order, gap_timeout=gap_timeout
        )
        # Known before it is asked for: a group may overtake the answer.
        self._subscriptions[request.subscribe_id] = subscription
        try:
            async with open_scope() as nursery:
                await nursery.start(subscription.follow)
                yield subscription
        finally:
            subscription.close()

    async def fetch(
        self,
        broadcast: str,
        track: str,
        sequence: int,
        *,
        frame_start: int = 0,
        frame_end: int | None = None,
        priority: int = 127,
    ) -> GroupConsumer:
        """Get one group of a track, from memory or history.

        Returns it as soon as its first bytes have come. Close it if it is not read to
        its end.

        Args:
            broadcast: the broadcast's path.
            track: the track's name.
            sequence: the group.
            frame_start: the first frame wanted. What lies beyond its end is an empty group.
            frame_end: the first frame not wanted any more; None for all that follow.
            priority: 0 to 255; higher is sent first.

        Raises:
            RequestError: there is no such group, track or broadcast, or the protocol version
                (before moq-lite-05) cannot be asked.
            ValueError: a number is impossible, or only some frames are wanted and the
                protocol version (before moq-lite-06) has no way to say so.

        Cancelling it gives the request up.
        """
        request = lite.Fetch(broadcast, track, priority, sequence, frame_start, frame_end)
        self._require_requests("fetch a group: subscribe to a range of one instead")
        request.encode(self._version)
        info = await self.track_info(broadcast, track)
        # No FIN: to moq-rs the end of a request is its cancellation.
        control = await self.open_request(lite.BidiStreamType.FETCH, request)
        group = self._subscriptions.make_group(sequence, control.receive, info)
        try:
            group.preload(await control.receive.receive_some())
        except StreamReset as error:
            self.forget_track(broadcast, track)
            raise _refused(f"group {sequence} of {broadcast}/{track}", error) from None
        except BaseException:
            self.forget_track(broadcast, track)
            control.reset(StreamCode.CANCEL)
            raise
        return group

    async def find_time(self, broadcast: str, track: str, when: float) -> int:
        """Ask where to start a track to get everything published at or after ``when``.

        The publisher answers in whole seconds, by the clock that stamped what it recorded.
        Where nothing is that young, it is the sequence of the group that comes next; where
        its clock has not even reached that time, there is a warning in the log.

        Args:
            broadcast: the broadcast's path.
            track: the track's name.
            when: seconds since the Unix epoch.

        Raises:
            RequestError: there is no such broadcast or track, or its publisher cannot find
                groups by time, or its store failed.
            DecodeError: the answer makes no sense.
            ValueError: ``when`` is not such a time.

        Cancelling it gives the request up.
        """
        self._require_requests("find groups by time: start at a sequence (0 is the oldest)")
        return await find_time(self, broadcast, track, when)

    async def track_info(self, broadcast: str, track: str) -> TrackInfo:
        """What the publisher has fixed about a track. Asked for once while it is sure to be
        true: until the subscription to the track or its announcement ends.

        Raises RequestError where there is no such broadcast or track, or the protocol version
        (before moq-lite-05) cannot be asked.
        """
        known = self._track_infos.get(broadcast, track)
        if known is not None:
            return known
        self._require_requests("tell about tracks: a subscription has its info")
        # No FIN: to moq-rs the end of a request is its cancellation.
        control = await self.open_request(lite.BidiStreamType.TRACK, lite.Track(broadcast, track))
        try:
            answer = await control.require(lite.TrackInfo)
        except StreamReset as error:
            raise _refused(f"{broadcast}/{track}", error) from None
        except BaseException:
            control.reset(StreamCode.CANCEL)
            raise
        control.finish()
        info = TrackInfo(
            priority=answer.priority,
            ordered=answer.ordered,
            max_latency=answer.max_latency,
            timescale=answer.timescale,
        )
        self._track_infos.put(broadcast, track, info)
        return info

    @asynccontextmanager
    async def announced(self, prefix: str = "") -> AsyncGenerator[Announcements, None]:
        """Follow the peer's broadcasts at or below ``prefix``, those there now first.

        What has come through this side's own origin is left out: it would be a loop.

        Raises RequestError where the peer refuses. Leaving the block, or cancelling it, ends
        the stream.
        """
        # Peers that relay leave out what came from us.
        own_hop = None if self._origin is None else self._origin.hop_id
        control = await self.open_request(
            lite.BidiStreamType.ANNOUNCE, lite.AnnounceRequest(prefix, own_hop)
        )
        try:
            try:
                hello = await read_hello(control)
            except StreamReset as error:
                raise _refused("the announcements", error) from None
            yield Announcements(
                control,
                prefix,
                hello,
                own_hop=own_hop,
                link_cost=await self._link_cost(),
                on_gone=self._track_infos.forget_broadcast,
            )
        finally:
            control.finish()

    async def wait_announced(self, broadcast: str, *, within: float = math.inf) -> Announcement:
        """Wait until the peer announces a broadcast.

        Subscribing does not need it: a peer may have broadcasts it does not announce.

        Args:
            broadcast: the broadcast's whole path.
            within: seconds to wait at most.

        Raises RequestError where that takes longer than that, or the peer ends its
        announcements. It says what was waited for and what is announced instead.
        """
        return await wait_announced(self, broadcast, within)

    @asynccontextmanager
    async def probe(self) -> AsyncGenerator[ProbeReports, None]:
        """Follow what the publisher says of the connection: how fast it can send to us, by
        its estimate, and the round trip. It tells when that changes.

        Raises RequestError where it does not offer that (a moq-lite-05 publisher says so
        before; older ones refuse). Leaving the block, or cancelling it, ends the reports.
        """
        setup = await self._peer_setup.wait()
        if lite.Setup.exists_in(self._version) and not setup.probe:
            raise RequestError(
                "the publisher does not report how fast the connection is", code=StreamCode.CANCEL
            )
        control = await self.open_request(lite.BidiStreamType.PROBE)
        try:
            yield ProbeReports(control)
        finally:
            control.finish()

    async def _link_cost(self) -> int:
        """What is added to the cost of all that the peer announces."""
        if self._version.draft < 6:
            return 0  # Where nothing has a cost, a part of it would only mislead.
        cost = (await self._peer_setup.wait(_SETUP_PATIENCE)).cost
        return DEFAULT_COST if cost is None else cost

    def _require_requests(self, what: str) -> None:
        if not lite.Track.exists_in(self._version):
            raise RequestError(
                f"{self._version} cannot {what} (both sides need moq-lite-05 or later)",
                code=StreamCode.CANCEL,
            )

    async def open_request(
        self, kind: lite.BidiStreamType, request: lite.Message | None = None
    ) -> ControlStream:
        """Open a stream, and ask on it. Cancelling it has not asked."""
        message = b"" if request is None else request.encode(self._version)
        control = ControlStream(await self._connection.open_bidi(), self._version)
        # In one piece: a peer counts requests that break off.
        control.send.send_nowait(bytes([kind]) + message)
        return control

    def next_subscribe_id(self) -> int:
        """A number no subscription of this session has had."""
        return next(self._subscribe_ids)

    def forget(self, subscription: Subscription) -> None:
        """Groups for ``subscription`` are not wanted any more."""
        self._subscriptions.pop(subscription.subscribe_id, None)

    def forget_track(self, broadcast: str, track: str) -> None:
        """What is known of a track may not be true any more."""
        self._track_infos.forget(broadcast, track)

    # Serving

    async def run(self) -> None:
        """Do the session's work until the connection is over. Returns, never raises, then.

        Cancelling it leaves the connection open: closing it is its owner's business.
        """
        streams = IncomingStreams(
            self._connection, self._version, self._peer_setup, self._subscriptions, self._guard
        )
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_setup, self._connection, self._version, self._own_setup())
                nursery.start_soon(self._accept_requests, nursery)
                nursery.start_soon(streams.run, nursery)
                if lite.has_datagrams(self._version):
                    nursery.start_soon(receive_datagrams, self._connection, self._subscriptions)
        except* SessionClosed:
            pass
        except* ProtocolError as group:
            error = group.exceptions[0]
            logger.warning("%s: the session ends: %s", self.remote_address, error)
            self.close(SessionCode.PROTOCOL_VIOLATION, str(error))

    def _own_setup(self) -> lite.Setup:
        # Where the connection itself has carried the path, SETUP must not repeat it.
        has_path = self._connection.is_client and self._connection.request_path is None
        only_reads = self._connection.is_client and self._origin is None
        return lite.Setup(
            probe=lite.ProbeLevel.REPORT,
            path=self._path if has_path else None,
            role=lite.Role.SUBSCRIBER if only_reads else None,
            cost=self._settings.cost,
            origin=None if self._origin is None else self._origin.hop_id,
        )

    async def _accept_requests(self, nursery: trio.Nursery) -> None:
        while True:
            stream: BidiStream = await self._connection.accept_bidi()
            nursery.start_soon(self._publisher.handle, stream)


def _refused(what: str, error: StreamReset) -> RequestError:
    return RequestError(
        f"{what}: the publisher refused: {describe_stream_code(error.code)}", code=error.code
    )


@asynccontextmanager
async def open_session_over(
    connection: Connection,
    version: Version,
    *,
    publish: Origin | None = None,
    path: str | None = None,
    settings: SessionSettings | None = None,
) -> AsyncGenerator[Session, None]:
    """A session over a connection that is there already.

    Leaving the block closes the connection; an exception of the block's own comes out
    as it is.
    """
    session = Session(connection, version, publish=publish, path=path, settings=settings)
    async with open_scope() as nursery:
        nursery.start_soon(session.run)
        try:
            yield session
        except (SessionClosed, BaseExceptionGroup) as error:
            # Cancelled, the session's own tasks close it, and the block may see that first.
            if is_wholly(error, (SessionClosed, trio.Cancelled)):
                await trio.lowlevel.checkpoint_if_cancelled()
            raise
        finally:
            # Before the session's tasks end: the peer hears that the session is over, not
            # that each of its requests has failed.
            session.close()
