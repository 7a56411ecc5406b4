"""The subscriptions of a session, and what arrives for each of them."""

from __future__ import annotations

import logging

from ..errors import DecodeError, StreamCode
from ..model import MediaClock, TrackInfo
from ..transport.connection import ReceiveStream
from ..wire import Version, lite
from .datagrams import group_of
from .group_stream import StreamGroupConsumer
from .subscription import Subscription

logger: logging.Logger = logging.getLogger("moqtrio.session")


class Subscriptions(dict[int, Subscription]):
    """Those that are open, by their numbers; hands each what is for it.

    Args:
        version: what the session speaks.
        max_frame_bytes: the largest frame that is accepted.
    """

    def __init__(self, version: Version, max_frame_bytes: int) -> None:
        super().__init__()
        self._max_frame_bytes = max_frame_bytes
        self._timed = lite.has_timestamps(version)
        self._now_us = MediaClock().now_us

    def take_group(
        self,
        subscribe_id: int,
        sequence: int,
        frame_start: int,
        stream: ReceiveStream,
        skip: int = 0,
        preload: bytes = b"",
    ) -> None:
        """See ``incoming.GroupTaker``."""
        subscription = self.get(subscribe_id)
        if subscription is None:
            stream.stop(StreamCode.CANCEL)  # A group that was under way when we unsubscribed.
            return
        if frame_start:  # What comes would look like the whole group.
            raise DecodeError(f"expected all frames of group {sequence}, got {frame_start} and up")
        group = self.make_group(sequence, stream, subscription.info, skip)
        if preload:
            try:
                group.preload(preload)
            except DecodeError as error:
                logger.warning("bad group %d of subscription %d: %s", sequence, subscribe_id, error)
        subscription.group_arrived(group)

    def take_datagram(self, datagram: lite.Datagram) -> None:
        """See ``datagrams.DatagramTaker``."""
        subscription = self.get(datagram.subscribe_id)
        if subscription is not None:
            subscription.datagram_arrived(group_of(datagram, subscription.info.timescale))

    def make_group(
        self, sequence: int, stream: ReceiveStream, info: TrackInfo, skip: int = 0
    ) -> StreamGroupConsumer:
        """What reads a group from its stream, whose first ``skip`` bytes are not frames."""
        return StreamGroupConsumer(
            sequence,
            stream,
            skip=skip,
            timescale=info.timescale if self._timed else None,
            now_us=self._now_us,
            max_frame_bytes=self._max_frame_bytes,
        )
