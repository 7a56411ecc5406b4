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

from ..errors import (
    DecodeError,
    ProtocolError,
    RequestError,
    SessionClosed,
    SessionCode,
    StreamCode,
    StreamReset,
    describe_stream_code,
)
from ..model import GroupConsumer, Origin, TrackInfo
from ..scope import open_scope
from ..transport.connection import BidiStream, Connection, ConnectionStatistics, ReceiveStream
from ..wire import Version, lite
from .announcements import Announcements
from .control import ControlStream
from .goaway import GRACE, Departure, GoingAway
from .group_stream import StreamGroupConsumer
from .latency import to_wire
from .patience import patiently
from .publisher import Publisher
from .serving import ServingLimits
from .subscription import Order, Subscription
from .timeline import find_time

logger: logging.Logger = logging.getLogger("moqtrio.session")

_HEADER_BYTES = 64
_ACCEPTED_PER_TURN = 64


@attrs.frozen(kw_only=True)
class SessionSettings:
    """How a session behaves.

    Attributes:
        max_frame_bytes: the largest frame that is accepted.
        serving: what each of the peer's subscriptions may hold of our memory.
    """

    max_frame_bytes: int = 16 * 2**20
    serving: ServingLimits = attrs.Factory(ServingLimits)


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
        self._version = version
        self._settings = SessionSettings() if settings is None else settings
        self._origin = publish
        self._path = path
        self._publisher = Publisher(connection, version, publish, self._settings.serving)
        self._subscriptions: dict[int, Subscription] = {}
        self._next_subscribe_id = count()
        self._peer_setup: lite.Setup | None = None

    @property
    def version(self) -> str:
        """The protocol version both sides agreed on, such as ``"moq-lite-05"``."""
        return self._version.name

    @property
    def remote_address(self) -> str:
        """The peer's address."""
        return self._connection.remote_address

    @property
    def peer_path(self) -> str | None:
        """The path a client asked for in its URL, once it has said."""
        return None if self._peer_setup is None else self._peer_setup.path

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
            subscribe_id=next(self._next_subscribe_id),
            broadcast=broadcast,
            track=track,
            priority=priority,
            ordered=wanted_order is Order.SEQUENCE,
            max_latency=to_wire(max_latency),
            start=start,
            end=end,
        )
        payload = request.encode(self._version)
        info = await self.track_info(broadcast, track)
        control = await self._open(lite.BidiStreamType.SUBSCRIBE)
        subscription = Subscription(
            self,
            control,
            request,
            info,
            order=wanted_order,
            gap_timeout=gap_timeout,
            max_frame_bytes=self._settings.max_frame_bytes,
        )
        # Known before it is asked for: a group may overtake the answer.
        self._subscriptions[request.subscribe_id] = subscription
        try:
            await control.send.send_all(payload)
            async with open_scope() as nursery:
                nursery.start_soon(subscription.read_responses)
                yield subscription
        finally:
            subscription.close()

    async def fetch(
        self, broadcast: str, track: str, sequence: int, *, priority: int = 127
    ) -> GroupConsumer:
        """Get one group of a track, from memory or history.

        Returns it as soon as its first bytes have come. Close it if it is not read to
        its end.

        Raises RequestError where there is no such group, track or broadcast. Cancelling it
        gives the request up.
        """
        request = lite.Fetch(broadcast, track, priority, sequence).encode(self._version)
        info = await self.track_info(broadcast, track)
        control = await self._open(lite.BidiStreamType.FETCH)
        group = StreamGroupConsumer(
            sequence,
            control.receive,
            timescale=info.timescale,
            max_frame_bytes=self._settings.max_frame_bytes,
        )
        try:
            # No FIN: to moq-rs the end of a request is its cancellation.
            await control.send.send_all(request)
            group.preload(await control.receive.receive_some())
        except StreamReset as error:
            raise _refused(f"group {sequence} of {broadcast}/{track}", error) from None
        except BaseException:
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
        return await find_time(self, broadcast, track, when)

    async def track_info(self, broadcast: str, track: str) -> TrackInfo:
        """What the publisher has fixed about a track.

        Raises RequestError where there is no such broadcast or track.
        """
        control = await self._open(lite.BidiStreamType.TRACK)
        try:
            # No FIN: to moq-rs the end of a request is its cancellation.
            await control.send_all(lite.Track(broadcast, track))
            info = await control.require(lite.TrackInfo)
        except StreamReset as error:
            raise _refused(f"{broadcast}/{track}", error) from None
        except BaseException:
            control.reset(StreamCode.CANCEL)
            raise
        control.finish()
        return TrackInfo(
            priority=info.priority,
            ordered=info.ordered,
            max_latency=info.max_latency,
            timescale=info.timescale,
        )

    @asynccontextmanager
    async def announced(self, prefix: str = "") -> AsyncGenerator[Announcements, None]:
        """Follow the peer's broadcasts at or below ``prefix``, those there now first."""
        control = await self._open(lite.BidiStreamType.ANNOUNCE)
        try:
            # Peers that relay leave out what came from us.
            exclude = None if self._origin is None else self._origin.hop_id
            await control.send_all(lite.AnnounceRequest(prefix, exclude))
            try:
                hello = await control.require(lite.AnnounceOk)
            except StreamReset as error:
                raise _refused("the announcements", error) from None
            yield Announcements(control, prefix, hello)
        finally:
            control.finish()

    async def _open(self, kind: lite.BidiStreamType) -> ControlStream:
        control = ControlStream(await self._connection.open_bidi(), self._version)
        control.send.send_nowait(bytes([kind]))
        return control

    def forget(self, subscription: Subscription) -> None:
        """Groups for ``subscription`` are not wanted any more."""
        self._subscriptions.pop(subscription.subscribe_id, None)

    # Serving

    async def run(self) -> None:
        """Do the session's work until the connection is over. Returns, never raises, then.

        Cancelling it leaves the connection open: closing it is its owner's business.
        """
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_setup)
                nursery.start_soon(self._accept_requests, nursery)
                nursery.start_soon(self._accept_groups, nursery)
        except* SessionClosed:
            pass
        except* ProtocolError as group:
            error = group.exceptions[0]
            logger.warning("%s: the session ends: %s", self.remote_address, error)
            self.close(SessionCode.PROTOCOL_VIOLATION, str(error))

    async def _send_setup(self) -> None:
        stream = await self._connection.open_uni()
        origin = None if self._origin is None else self._origin.hop_id
        setup = lite.Setup(path=self._path, origin=origin)
        await stream.send_all(bytes([lite.UniStreamType.SETUP]) + setup.encode(self._version))
        stream.finish()

    async def _accept_requests(self, nursery: trio.Nursery) -> None:
        while True:
            stream: BidiStream = await self._connection.accept_bidi()
            nursery.start_soon(self._publisher.handle, stream)

    async def _accept_groups(self, nursery: trio.Nursery) -> None:
        """Hand each stream to whom it is for, many in one go."""
        while True:
            self._route(await self._connection.accept_uni(), nursery)
            try:
                for _ in range(_ACCEPTED_PER_TURN):
                    self._route(self._connection.accept_uni_nowait(), nursery)
            except trio.WouldBlock:
                pass

    def _route(self, stream: ReceiveStream, nursery: trio.Nursery) -> None:
        """Look at the start of a stream; where that is not all there, do so later."""
        try:
            header = lite.decode_group_header(stream.peek_nowait(), self._version)
        except trio.WouldBlock:
            header = None
        except StreamReset:
            return
        if header is None:
            nursery.start_soon(self._route_slowly, stream)
        else:
            subscribe_id, sequence, _, consumed = header
            self._group(subscribe_id, sequence, stream, skip=consumed)

    async def _route_slowly(self, stream: ReceiveStream) -> None:
        """A stream whose first bytes come one by one, or that is no group at all."""
        data = bytearray()
        try:
            header = await patiently(
                self._connection, partial(_read_header, stream, data, self._version)
            )
            if header.stream_type == lite.UniStreamType.SETUP:
                await self._receive_setup(data[header.consumed :], stream)
                return
        except StreamReset:
            return
        except trio.TooSlowError:
            self._refuse_uni(stream, DecodeError("the stream's header did not come"))
            return
        except DecodeError as error:
            self._refuse_uni(stream, error)
            return
        group = header.group
        if group is None:
            logger.info("%s: unknown stream type %d", self.remote_address, header.stream_type)
            stream.stop(StreamCode.CANCEL)
            return
        rest = bytes(data[header.consumed :])
        self._group(group.subscribe_id, group.sequence, stream, preload=rest)

    async def _receive_setup(self, data: bytearray, stream: ReceiveStream) -> None:
        decoder = lite.MessageDecoder(self._version)
        decoder.feed(data)
        setup = await patiently(self._connection, partial(_read_setup, stream, decoder))
        if self._peer_setup is not None:
            raise ProtocolError("a second SETUP")
        self._peer_setup = setup
        stream.stop(StreamCode.INTERNAL)

    def _refuse_uni(self, stream: ReceiveStream, error: DecodeError) -> None:
        logger.warning("%s: bad stream %d: %s", self.remote_address, stream.stream_id, error)
        stream.stop(StreamCode.MALFORMED)

    def _group(
        self,
        subscribe_id: int,
        sequence: int,
        stream: ReceiveStream,
        *,
        skip: int = 0,
        preload: bytes = b"",
    ) -> None:
        subscription = self._subscriptions.get(subscribe_id)
        if subscription is None:
            stream.stop(StreamCode.CANCEL)  # A group that was under way when we unsubscribed.
            return
        group = StreamGroupConsumer(
            sequence,
            stream,
            skip=skip,
            timescale=subscription.info.timescale,
            max_frame_bytes=self._settings.max_frame_bytes,
        )
        if preload:
            try:
                group.preload(preload)
            except DecodeError as error:
                self._refuse_uni(stream, error)
        subscription.group_arrived(group)


async def _read_header(stream: ReceiveStream, data: bytearray, version: Version) -> lite.UniHeader:
    """The start of a stream, whose bytes go to ``data`` as they come."""
    while (header := lite.decode_uni_header(data, version)) is None:
        more = await stream.receive_some(_HEADER_BYTES)
        if not more:
            raise DecodeError("the stream ended within its header")
        data += more
    return header


async def _read_setup(stream: ReceiveStream, decoder: lite.MessageDecoder) -> lite.Setup:
    while (setup := decoder.next_message(lite.Setup)) is None:
        more = await stream.receive_some()
        if not more:
            raise DecodeError("the stream ended within SETUP")
        decoder.feed(more)
    return setup


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
        finally:
            # Before the session's tasks end: the peer hears that the session is over, not
            # that each of its requests has failed.
            session.close()
