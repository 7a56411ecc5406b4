"""Whether a track is still the one it was, where its publisher does not tell its epoch."""

from __future__ import annotations

import trio

from ..errors import DecodeError, EpochChanged, RequestError, StreamReset
from ..model import Frame, GroupConsumer
from .reconnect_group import as_sent, is_same_frame
from .session import Session
from .subscription import Gap

_PATIENCE = 5.0
"""Seconds to wait for a group to compare."""


class Evidence:
    """Remembers the first frame of the latest group of a track, to compare it.

    It can tell that a track is another one, and cannot tell that it is the same.

    Args:
        broadcast, track: the track.
    """

    def __init__(self, broadcast: str, track: str) -> None:
        self._broadcast = broadcast
        self._track = track
        self._sequence = -1
        self._first: Frame | None = None

    def saw(self, sequence: int, first: Frame) -> None:
        """The first frame of a group has come."""
        if sequence >= self._sequence:
            self._sequence, self._first = sequence, first

    async def check(self, session: Session, last: int | None) -> None:
        """Raise EpochChanged where the track ends before group ``last``, which has come, or the
        group that is remembered begins otherwise now. Where nothing has come (None), nothing
        can be told.

        Waits for the track's latest group. Raises RequestError and SessionClosed.
        """
        if last is None:
            return
        async with session.subscribe(self._broadcast, self._track, order="arrival") as latest:
            try:
                item = await latest.receive()
            except trio.EndOfChannel:
                return
            if isinstance(item, Gap):
                return
            if item.sequence < last:
                raise self.changed(f"its latest group is {item.sequence}, and {last} had come")
            with trio.move_on_after(_PATIENCE):
                if item.sequence == self._sequence:
                    await self._compare(item, session)
                else:
                    await self._fetch_and_compare(session)

    async def _fetch_and_compare(self, session: Session) -> None:
        if self._first is None:
            return
        try:
            group = await session.fetch(self._broadcast, self._track, self._sequence)
        except (RequestError, DecodeError):
            return  # it is not there any more
        try:
            await self._compare(group, session)
        finally:
            await group.aclose()

    async def _compare(self, group: GroupConsumer, session: Session) -> None:
        try:
            first = as_sent(await group.receive(), session)
        except (trio.EndOfChannel, StreamReset, DecodeError):
            return
        if self._first is not None and not is_same_frame(self._first, first):
            raise self.changed(f"group {self._sequence} begins otherwise")

    def changed(
        self, how: str, previous: int | None = None, current: int | None = None
    ) -> EpochChanged:
        """What to raise; ``how`` says what has shown it."""
        return EpochChanged(
            f"{self._broadcast}/{self._track} is another track after the connection was lost: "
            f"{how}; its sequences mean other groups now, so subscribe again to follow it",
            previous=previous,
            current=current,
        )
