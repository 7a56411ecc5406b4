"""Answers a peer's requests: the publisher half of a session."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from ..errors import DecodeError, ReplayError, RequestError, StreamCode
from ..model import Origin, Track
from ..replay import Resolver, resolve_group
from ..scope import open_scope
from ..transport.connection import BidiStream, Connection
from ..wire import Version, lite
from .announcing import serve_announcements
from .answering import AnsweringTrack, refuse_subscription
from .control import ControlStream
from .epoch import find_epoch
from .fetching import send_group
from .frame_slice import FrameSlice
from .goaway import Departure
from .latency import track_latency
from .limits import Guard
from .patience import REQUEST_TIMEOUT, patiently
from .pins import PinLimit
from .priorities import request_priority, stream_priority
from .probe import serve_probe
from .serving import ServingLimits, SubscriptionServer
from .setup import PeerSetup
from .timeline import find_timeline

logger: logging.Logger = logging.getLogger("moqtrio.session")


class Publisher:
    """Serves one origin to one peer.

    Args:
        connection: the peer.
        version: what it speaks.
        origin: what it may have; None for nothing.
        limits: what each subscription may hold.
        peer_setup: what the peer says of itself.
        guard: counts what the peer asks for.

    Attributes:
        departure: whether this side or the peer is about to leave.
    """

    def __init__(
        self,
        connection: Connection,
        version: Version,
        origin: Origin | None,
        limits: ServingLimits,
        peer_setup: PeerSetup,
        guard: Guard,
    ) -> None:
        self._connection = connection
        self._version = version
        self._origin = origin
        self._limits = limits
        self._peer_setup = peer_setup
        self._guard = guard
        self._subscribe_ids: set[int] = set()
        self.departure: Departure = Departure(connection, version)

    async def handle(self, stream: BidiStream) -> None:
        """Serve one stream the peer opened, to its end.

        Raises nothing but Cancelled: whatever goes wrong ends the stream, with a code
        that says what, and a line in the log.
        """
        control = ControlStream(stream, self._version)
        try:
            await self._answer(control)
        except DecodeError as error:
            logger.warning("%s: bad request: %s", self._connection.remote_address, error)
            control.reset(StreamCode.MALFORMED)
            self._guard.offended(str(error))
        except (RequestError, ReplayError) as error:
            logger.info("%s: request refused: %s", self._connection.remote_address, error)
            control.reset(error.code)
        except trio.BrokenResourceError:
            control.reset(StreamCode.CANCEL)  # The peer has given up its request.
        except Exception:
            logger.exception("%s: a request failed", self._connection.remote_address)
            control.reset(StreamCode.INTERNAL)
        except BaseException:  # Cancelled, or a nursery's group of them
            control.reset(StreamCode.SESSION_CLOSED)
            raise

    async def _answer(self, control: ControlStream) -> None:
        try:
            kind = await patiently(self._connection, control.read_varint)
            message = lite.request_type(kind, self._version)
            handler = None if message is None else _HANDLERS.get(message)
            if message is None or handler is None:
                raise RequestError(
                    f"no request is known by stream type {kind}", code=StreamCode.CANCEL
                )
            request: lite.Message | None = None
            if message is not lite.Probe:  # whose subscriber may have nothing to say
                request = await patiently(self._connection, partial(control.require, message))
        except trio.TooSlowError:
            self._guard.offended("it did not come in time")
            raise RequestError(
                f"the peer did not say what it wants within {REQUEST_TIMEOUT} s",
                code=StreamCode.DELIVERY_TIMEOUT,
            ) from None
        if message is not lite.Goaway:
            self.departure.check()
        with self._guard.serving(message):
            await handler(self, control, request)

    def _find(self, broadcast: str, track: str) -> Track:
        found = None if self._origin is None else self._origin.broadcasts.get(broadcast)
        if found is None:
            raise RequestError(f"there is no broadcast {broadcast!r}", code=StreamCode.UNROUTABLE)
        answer = found.tracks.get(track) or find_timeline(found, track) or find_epoch(found, track)
        if answer is None:
            raise RequestError(
                f"the broadcast {broadcast!r} has no track {track!r}", code=StreamCode.NOT_FOUND
            )
        return answer

    async def _subscribe(self, control: ControlStream, request: lite.Subscribe) -> None:
        track = self._find(request.broadcast, request.track)
        refuse_subscription(track)
        if request.subscribe_id in self._subscribe_ids:
            raise DecodeError(f"subscribe id {request.subscribe_id} is in use on this session")
        self._subscribe_ids.add(request.subscribe_id)
        server = SubscriptionServer(
            self._connection,
            control,
            track,
            request,
            self._limits,
            subscriptions=self._subscribe_ids,
            departure=self.departure,
        )
        try:
            with self.departure.standing():
                await server.run()
        finally:
            self._subscribe_ids.discard(request.subscribe_id)

    async def _fetch(self, control: ControlStream, request: lite.Fetch) -> None:
        track = self._find(request.broadcast, request.track)
        priority = request_priority(request.priority, track.info)
        control.send.set_priority(stream_priority(priority, live=False))
        resolver = Resolver(
            track.log,
            track.source,
            start=request.sequence,
            end=request.sequence + 1,
            priority=priority,
            retry=self._limits.retry,
        )
        answered = False
        async with open_scope() as nursery:
            nursery.start_soon(_cancel_when_unwanted, control, nursery.cancel_scope)
            if isinstance(track, AnsweringTrack):
                await track.send_answer(control.send, request.sequence)
            else:
                reader = await resolve_group(resolver)
                pins = PinLimit(track.log, resolver, self._limits.pin_seconds)
                frames = None
                if request.frame_start or request.frame_end is not None:
                    frames = FrameSlice(request.frame_start, request.frame_end)
                await send_group(self._connection, control.send, track, reader, pins, frames)
            control.finish()
            answered = True
        # What the transport has taken is still on its way, and a reset would take it back.
        if not answered:
            control.reset(StreamCode.CANCEL)

    async def _track(self, control: ControlStream, request: lite.Track) -> None:
        track = self._find(request.broadcast, request.track)
        info = track.info
        answer = lite.TrackInfo(
            priority=info.priority,
            ordered=info.ordered,
            max_latency=track_latency(track),
            timescale=info.timescale,
        )
        await control.send_all(answer)
        control.finish()

    async def _goaway(self, control: ControlStream, request: lite.Goaway) -> None:
        with self.departure.standing():
            await self.departure.hear(control, request)

    async def _probe(self, control: ControlStream, request: None) -> None:
        await serve_probe(self._connection, control)

    async def _announce(self, control: ControlStream, request: lite.AnnounceRequest) -> None:
        origin = Origin() if self._origin is None else self._origin
        with self.departure.standing():
            await serve_announcements(control, origin, request, self._peer_setup.now.origin)


async def _cancel_when_unwanted(control: ControlStream, scope: trio.CancelScope) -> None:
    """Cancel ``scope`` when the peer stops reading the answer."""
    await control.send.wait_stopped()
    scope.cancel()


Handler = Callable[[Publisher, ControlStream, Any], Awaitable[None]]

_HANDLERS: dict[type[lite.Message], Handler] = {
    lite.AnnounceRequest: Publisher._announce,
    lite.Subscribe: Publisher._subscribe,
    lite.Fetch: Publisher._fetch,
    lite.Track: Publisher._track,
    lite.Goaway: Publisher._goaway,
    lite.Probe: Publisher._probe,
}
