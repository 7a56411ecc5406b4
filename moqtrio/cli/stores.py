"""What the commands about stores share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token

import moqtrio

from .failures import EXIT_IMPOSSIBLE, Failure

BroadcastOption = Annotated[str | None, Parameter(metavar="PATH")]
TrackOption = Annotated[str | None, Parameter(metavar="NAME")]


def _directory(_type: Any, tokens: Sequence[Token]) -> Path:
    text = tokens[0].value
    if "://" in text:
        raise ValueError(f"expected a directory, not {text!r}: only store info takes a URL")
    return Path(text)


StoreDirectory = Annotated[Path, Parameter(converter=_directory)]
"""A store on this machine's disk, not one in objects."""

_HINTS = {
    "there is no such directory": "it is the directory that was given to serve --store",
    "it has no catalog.db": "it is the directory that was given to serve --store",
    "in use by process": "end that process first; info, verify and export work meanwhile",
    "permissions": "run it as the user who owns the store",
    "is malformed": "restore the file from a backup; the guide to operating a store says more",
    "file is not a database": "restore the file from a backup; the guide to operating a store "
    "says more",
    "it has no tracks at all": "nothing was recorded there yet",
}


@contextmanager
def judging_store() -> Iterator[None]:
    """Let a store that cannot be worked with end the command, with a hint."""
    try:
        yield
    except moqtrio.ReplayError as error:
        message = str(error)
        hint = next((hint for text, hint in _HINTS.items() if text in message), None)
        raise Failure(message, hint, exit_code=EXIT_IMPOSSIBLE) from error


def format_instant(seconds: float) -> str:
    """A time of day; as it is where it is none."""
    try:
        instant = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.6f} s"  # the publisher's clock need not be the calendar's
    return instant.strftime("%Y-%m-%d %H:%M:%SZ")


def format_groups(start: int, end: int) -> str:
    """Like ``group 7`` and ``groups 7 to 9``."""
    return f"group {start}" if end == start + 1 else f"groups {start} to {end - 1}"


def count(number: int, what: str) -> str:
    """Like ``1 file`` and ``1,234 files``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
