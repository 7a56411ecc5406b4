"""Tracks beside a track, of which every group is made when it is fetched."""

from __future__ import annotations

import abc

from ..errors import RequestError, StreamCode
from ..model import Frame, Track
from ..transport.connection import SendStream
from ..wire.lite import encode_frames


class AnsweringTrack(Track, abc.ABC):
    """A track that answers FETCH by itself, for as long as one request needs it."""

    @abc.abstractmethod
    async def answer(self, sequence: int) -> Frame:
        """The one frame of a group. Raises ReplayError."""

    async def send_answer(self, stream: SendStream, sequence: int) -> None:
        """Send the one frame of a group. Raises ReplayError, and what the stream raises."""
        encoded, _ = encode_frames([await self.answer(sequence)])
        await stream.send_all(encoded)


def refuse_subscription(track: Track) -> None:
    """Raise RequestError for a track that is not one group after another."""
    if isinstance(track, AnsweringTrack):
        raise RequestError(
            f"the track {track.name!r} cannot be subscribed to: its groups are made when they "
            "are fetched",
            code=StreamCode.NOT_FOUND,
        )
