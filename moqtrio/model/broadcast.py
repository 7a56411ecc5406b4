"""A broadcast: a named collection of tracks, as its publisher holds it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ..errors import ProtocolError, StreamCode
from .clock import MediaClock
from .log import LogLimits
from .recording import RecordingMode
from .route import Route
from .track import Track, TrackInfo, TrackStore


class Broadcast:
    """Publishes tracks under one path. Made by :meth:`moqtrio.Origin.create_broadcast`.

    Attributes:
        path: its name, as subscribers ask for it.
    """

    def __init__(
        self,
        path: str,
        clock: MediaClock,
        on_close: Callable[[Broadcast], None],
        *,
        route: Route,
        on_reroute: Callable[[], None],
    ) -> None:
        self.path = path
        self._clock = clock
        self._on_close = on_close
        self._route = route
        self._on_reroute = on_reroute
        self._tracks: dict[str, Track] = {}
        self._closed = False

    @property
    def tracks(self) -> Mapping[str, Track]:
        """Its tracks by name (a live view)."""
        return MappingProxyType(self._tracks)

    @property
    def closed(self) -> bool:
        """Whether it has been closed."""
        return self._closed

    @property
    def route(self) -> Route:
        """The way it comes by; empty for one of our own."""
        return self._route

    def reroute(self, route: Route) -> None:
        """Announce that the same broadcast comes by another way now, or at another cost."""
        self._route = route
        if not self._closed:
            self._on_reroute()

    def create_track(
        self,
        name: str,
        *,
        store: TrackStore | None = None,
        recording: RecordingMode = "live",
        info: TrackInfo | None = None,
        cache_age: float = 5.0,
        cache_bytes: int = 64 * 2**20,
        max_bytes: int = 256 * 2**20,
        first_sequence: int = 0,
        datagrams: bool = False,
    ) -> Track:
        """Create a track.

        Args:
            name: unique within the broadcast.
            store: where to record it, and where subscribers get what has left memory. The
                track goes on after the last sequence the store has for it.
            recording: ``"live"`` to publish at once and record beside it, ``"durable"`` to
                publish each frame only when it has been recorded. While the store fails,
                subscribers of a durable track get nothing.
            info: priority, order, latency and timescale.
            cache_age: seconds a group stays in memory after its last write. The latest
                group always stays.
            cache_bytes: payload bytes in memory beyond which older groups leave earlier.
            max_bytes: payload bytes in memory beyond which groups leave although the store
                does not have them yet; they are then lost, and counted.
            first_sequence: the number of the next group, where groups below it were
                published before (see :meth:`Track.requests`). A store that knows of a
                higher one goes on after that.
            datagrams: send groups of one frame, of up to about 1,150 bytes, as datagrams to
                subscribers that have reached the live edge: a little faster, and not again
                when one is lost. Then its subscriber is told of a gap. What does not fit or
                cannot be sent at once goes on a stream, as everything does where the
                connection or the protocol version (before moq-lite-05) has no datagrams.

        Raises:
            ProtocolError: there is such a track, or the broadcast is closed.
            ReplayError: the store cannot record it.
            ValueError: ``recording`` is durable, but there is no store that records.
        """
        if self._closed:
            raise ProtocolError(f"the broadcast {self.path!r} is closed")
        if name in self._tracks:
            raise ProtocolError(f"the broadcast {self.path!r} already has a track {name!r}")
        limits = LogLimits(
            cache_age=cache_age, cache_bytes=cache_bytes, max_bytes=max(max_bytes, cache_bytes)
        )
        track = Track(
            self.path,
            name,
            info=info,
            limits=limits,
            clock=self._clock,
            store=store,
            recording=recording,
            first_sequence=first_sequence,
            datagrams=datagrams,
        )
        self._tracks[name] = track
        return track

    def close(self) -> None:
        """Withdraw the broadcast: it is announced as ended and takes no new requests.

        Tracks that have not ended are aborted with :attr:`StreamCode.CANCEL`. Idempotent.
        """
        if self._closed:
            return
        self._closed = True
        for track in self._tracks.values():
            if not track.log.ended:
                track.abort(StreamCode.CANCEL)
        self._on_close(self)
