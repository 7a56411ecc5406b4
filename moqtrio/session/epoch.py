"""Which numbering a track has, over a wire that knows sequences only.

Beside a track ``all`` there is a track ``all.epoch``, as there is ``all.timeline``. Each of its
groups is one frame, made when it is fetched: a JSON object whose ``epoch`` is another number
when the sequences of ``all`` mean other groups. Which group is fetched does not matter; one
that nobody fetched before is not in the cache of a relay.
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING

import trio

from ..errors import DecodeError, RequestError, StreamReset
from ..model import Broadcast, Frame, Track
from .answering import AnsweringTrack

if TYPE_CHECKING:
    from .session import Session

SUFFIX = ".epoch"
_LARGEST_ANSWER = 4096
_LARGEST_SEQUENCE = 2**62 - 1
_PATIENCE = 5.0
"""Seconds to wait for a peer that may not know what it is asked for."""


class EpochTrack(AnsweringTrack):
    """Tells the epoch of a track."""

    def __init__(self, name: str, track: Track) -> None:
        super().__init__(track.broadcast, name)
        self._track = track

    async def answer(self, sequence: int) -> Frame:
        """The epoch, whichever group is asked for."""
        payload = json.dumps({"epoch": self._track.epoch}).encode()
        return Frame(payload, self._track.log.clock.now_us())


def find_epoch(broadcast: Broadcast, name: str) -> EpochTrack | None:
    """The track that goes by ``name``, if that is the name of an epoch's."""
    if not name.endswith(SUFFIX):
        return None
    track = broadcast.tracks.get(name.removesuffix(SUFFIX))
    return None if track is None else EpochTrack(name, track)


async def ask_epoch(session: Session, broadcast: str, track: str) -> int | None:
    """The epoch of a track; None where the publisher does not tell.

    Raises SessionClosed. Cancelling it gives the request up.
    """
    with trio.move_on_after(_PATIENCE):
        sequence = random.randint(0, _LARGEST_SEQUENCE)
        try:
            group = await session.fetch(broadcast, track + SUFFIX, sequence)
            try:
                return _parse((await group.receive()).payload)
            finally:
                await group.aclose()
        except (RequestError, StreamReset, DecodeError, trio.EndOfChannel):
            return None
    return None


def _parse(payload: bytes) -> int | None:
    """What the answer says; None where it is none."""
    if len(payload) > _LARGEST_ANSWER:
        return None
    try:
        epoch = json.loads(payload)["epoch"]
    except (ValueError, RecursionError, TypeError, KeyError):
        return None
    return epoch if type(epoch) is int else None
