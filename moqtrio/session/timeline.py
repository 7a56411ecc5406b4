"""Times of day over the wire, which knows only sequences: a track that answers for another.

Beside a track ``all`` there is a track ``all.timeline``. Its group ``N`` is one frame, made
when it is fetched: a JSON object whose ``sequence`` is where to start ``all`` to get
everything that was published at or after the Unix time ``N``, and whose ``now`` is the
publisher's time. So a FETCH is all that a client needs, in whatever language.
"""

from __future__ import annotations

import json
import logging
import math
from typing import TYPE_CHECKING

import attrs
import trio

from ..errors import (
    DecodeError,
    RequestError,
    StreamCode,
    StreamReset,
    describe_stream_code,
)
from ..model import Broadcast, Frame, GroupConsumer
from ..model.timeline import Timeline
from .answering import AnsweringTrack

if TYPE_CHECKING:
    from .session import Session

logger: logging.Logger = logging.getLogger("moqtrio.session")

SUFFIX = ".timeline"
_LARGEST_ANSWER = 4096
_LARGEST_SEQUENCE = 2**62 - 1


# The publisher's side.


class TimelineTrack(AnsweringTrack):
    """The timeline of a track."""

    def __init__(self, broadcast: str, name: str, timeline: Timeline) -> None:
        super().__init__(broadcast, name)
        self._timed = timeline

    async def answer(self, sequence: int) -> Frame:
        """Where to start to get everything from the second ``sequence`` on."""
        found = await self._timed.find(float(sequence))
        now_us = int(self._timed.now() * 1e6)
        return Frame(json.dumps({"sequence": found, "now": now_us / 1e6}).encode(), now_us)


def find_timeline(broadcast: Broadcast, name: str) -> TimelineTrack | None:
    """The timeline that goes by ``name``, if it is one's name, and the track has one."""
    if not name.endswith(SUFFIX):
        return None
    track = broadcast.tracks.get(name.removesuffix(SUFFIX))
    timeline = None if track is None else track.timeline
    return None if timeline is None else TimelineTrack(broadcast.path, name, timeline)


# The subscriber's side.


@attrs.frozen
class Answer:
    """What a publisher says: where to start, and what time it is there."""

    sequence: int
    now: float

    @classmethod
    def parse(cls, payload: bytes) -> Answer:
        """Raises DecodeError for anything that is not an answer."""
        if len(payload) > _LARGEST_ANSWER:
            raise DecodeError(
                f"expected a timeline's answer of at most {_LARGEST_ANSWER} bytes, "
                f"got {len(payload)}"
            )
        try:
            content = json.loads(payload)
            sequence, now = content["sequence"], content["now"]
        except (ValueError, RecursionError, TypeError, KeyError):
            sequence = now = None
        if type(sequence) is not int or not 0 <= sequence <= _LARGEST_SEQUENCE:
            sequence = None
        if type(now) not in (int, float):
            now = None
        if sequence is None or now is None:
            raise DecodeError(
                'expected a timeline\'s answer such as {"sequence": 7, "now": 1767225600.0}, '
                f"got {payload[:80]!r}"
            )
        return cls(sequence, now)


async def find_time(session: Session, broadcast: str, track: str, when: float) -> int:
    """See :meth:`Session.find_time`."""
    if not math.isfinite(when) or not 0 <= when <= _LARGEST_SEQUENCE:
        raise ValueError(
            f"expected a time in seconds since the Unix epoch, got {when}: ten minutes ago is "
            "time.time() - 600"
        )
    second = int(when)
    answer = await _ask(session, broadcast, track, second)
    if answer.now < second:
        logger.warning(
            "the clock of the publisher of %s/%s is %.0f s behind the time asked for: nothing "
            "is that young there, so it starts with what comes next",
            broadcast,
            track,
            second - answer.now,
        )
    return answer.sequence


async def _ask(session: Session, broadcast: str, track: str, second: int) -> Answer:
    try:
        group = await session.fetch(broadcast, track + SUFFIX, second)
    except RequestError as error:
        if error.code == StreamCode.NOT_FOUND:
            await session.track_info(broadcast, track)  # raises where that is not there either
            raise RequestError(
                f"{broadcast}/{track}: the publisher cannot find groups by time, for it has no "
                f"track {track + SUFFIX!r}: start at a sequence instead (0 is the oldest)",
                code=error.code,
            ) from None
        if error.code == StreamCode.UNROUTABLE:
            raise
        raise _unanswered(broadcast, track, error.code) from None
    return Answer.parse(await _read_frame(group, broadcast, track))


async def _read_frame(group: GroupConsumer, broadcast: str, track: str) -> bytes:
    try:
        frame = await group.receive()
    except trio.EndOfChannel:
        return b""
    except StreamReset as error:
        raise _unanswered(broadcast, track, error.code) from None
    finally:
        await group.aclose()
    return frame.payload


def _unanswered(broadcast: str, track: str, code: int) -> RequestError:
    return RequestError(
        f"{broadcast}/{track}: the publisher could not find a group by time: "
        f"{describe_stream_code(code)}",
        code=code,
    )
