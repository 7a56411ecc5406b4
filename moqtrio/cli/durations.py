"""Durations as people type them: ``90s``, ``72h``, ``1d12h``, ``250ms``."""

from __future__ import annotations

import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds. A bare number counts as seconds. Raises ValueError, saying what is expected."""
    compact = text.strip().lower()
    if re.fullmatch(r"\d+(\.\d+)?", compact, re.ASCII):
        return float(compact)
    seconds = 0.0
    position = 0
    while position < len(compact):
        part = _PART.match(compact, position)
        if part is None:
            break
        seconds += float(part[1]) * _UNITS[part[2]]
        position = part.end()
    if position == 0 or position < len(compact):
        raise ValueError(
            f"expected a duration such as 90s, 15m, 72h or 1d12h, not {text!r} "
            "(the units are ms s m h d w)"
        )
    return seconds


def format_duration(seconds: float) -> str:
    """Like ``72h`` or ``1d12h30m``: units from the largest that fits, at most three."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    left = round(seconds)
    parts = []
    for unit in ("d", "h", "m", "s"):
        count, left = divmod(left, int(_UNITS[unit]))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts[:3])
