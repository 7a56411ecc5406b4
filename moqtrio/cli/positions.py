"""Where a subscription begins: a sequence, ``oldest``, ``latest``, or a time of day."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import datetime

import attrs

import moqtrio

from .durations import parse_duration
from .failures import Failure, UsageError
from .options import LARGEST_SEQUENCE
from .receiving import NOT_THERE, AnySession, explain_refusal

OLDEST = 0
LATEST = None


@attrs.frozen
class Moment:
    """Begin with what was published at ``when``, in seconds since the Unix epoch.

    ``remark`` is what to tell of how the text was understood, or None.
    """

    when: float
    remark: str | None = None


Start = int | Moment | None


def parse_start(text: str, clock: Callable[[], float] = time.time) -> Start:
    """Where to begin. Raises UsageError, saying what is expected."""
    compact = text.strip()
    match compact.lower():
        case "oldest":
            return OLDEST
        case "latest":
            return LATEST
        case digits if digits.isascii() and digits.isdigit():
            return _parse_sequence(digits)
    found = _parse_age(compact, clock) or _parse_instant(compact)
    if found is not None:
        return found
    raise UsageError(
        f"--from expects a group's sequence, oldest or latest, how long ago (-10m) or a time "
        f"(2026-11-22T10:00:00Z), not {text!r}"
    )


async def find_start(session: AnySession, broadcast: str, track: str, start: Start) -> int | None:
    """The ``start`` of a subscription; a time is looked up by the publisher.

    Raises Failure where it cannot.
    """
    if not isinstance(start, Moment):
        return start
    if start.remark is not None:
        print(f"moqtrio: {start.remark}", file=sys.stderr)
    try:
        return await session.find_time(broadcast, track, start.when)
    except moqtrio.RequestError as error:
        try:
            await session.track_info(broadcast, track)
        except moqtrio.RequestError as missing:
            if missing.code in NOT_THERE:
                raise await explain_refusal(session, broadcast, missing) from error
        raise Failure(str(error), "--from also takes a sequence, oldest or latest") from error


def check_range(start: int | None, end: int | None) -> None:
    """Raises UsageError for a range that is empty."""
    if end is None:
        return
    if end < 1 or (start is not None and end <= start):
        raise UsageError(
            f"--until {end} leaves nothing: it is the first sequence that is not wanted, "
            f"so it must be above {'0' if start is None else f'--from {start}'}"
        )


def _parse_sequence(digits: str) -> int:
    sequence = int(digits) if len(digits) < 20 else LARGEST_SEQUENCE + 1
    if sequence > LARGEST_SEQUENCE:
        raise UsageError(f"--from {digits} is no sequence: they are from 0 to 2**62 - 1")
    return sequence


def _parse_age(text: str, clock: Callable[[], float]) -> Moment | None:
    """``-10m``: so long ago."""
    digits = text.removeprefix("-")
    if digits.replace(".", "", 1).isdigit():  # a duration needs its unit here
        return None
    try:
        seconds = parse_duration(digits)
    except ValueError:
        return None
    if digits == text:
        raise UsageError(f"--from {text} is no time of day: -{text} is that long ago")
    return Moment(max(clock() - seconds, 0.0))


def _parse_instant(text: str) -> Moment | None:
    """A date, with a time or without, as ISO 8601 has it."""
    try:
        instant = datetime.fromisoformat(text)
        local = instant.astimezone()
        when = max(instant.timestamp(), 0.0)
    except (ValueError, OverflowError, OSError):
        return None
    if instant.tzinfo is not None:
        return Moment(when)
    return Moment(when, f"{text} has no time zone: taken as local time, {local.isoformat()}")
