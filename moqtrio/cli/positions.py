"""Where a subscription begins: a sequence, ``oldest`` or ``latest``."""

from __future__ import annotations

from .failures import UsageError

OLDEST = 0
LATEST = None


def parse_start(text: str) -> int | None:
    """The ``start`` of a subscription. Raises UsageError, saying what is expected."""
    match text.strip().lower():
        case "oldest":
            return OLDEST
        case "latest":
            return LATEST
        case digits if digits.isascii() and digits.isdigit():
            return int(digits)
    raise UsageError(f"--from expects a group's sequence, oldest or latest, not {text!r}")


def check_range(start: int | None, end: int | None) -> None:
    """Raises UsageError for a range that is empty."""
    if end is None:
        return
    if end < 1 or (start is not None and end <= start):
        raise UsageError(
            f"--until {end} leaves nothing: it is the first sequence that is not wanted, "
            f"so it must be above {'0' if start is None else f'--from {start}'}"
        )
