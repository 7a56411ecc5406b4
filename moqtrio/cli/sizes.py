"""Sizes as people type and read them: ``500MB``, ``10GB``, ``2GiB``."""

from __future__ import annotations

import re

_UNITS = {
    "": 1,
    "b": 1,
    **{f"{letter}b": 1000**power for power, letter in enumerate("kmgt", 1)},
    **{f"{letter}ib": 1024**power for power, letter in enumerate("kmgt", 1)},
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([a-z]*)", re.ASCII)


def parse_size(text: str) -> int:
    """Bytes. A bare number counts as bytes. Raises ValueError, saying what is expected."""
    found = _SIZE.fullmatch(text.strip().lower())
    if found is None or found[2] not in _UNITS:
        raise ValueError(
            f"expected a size such as 500MB, 10GB or 2GiB, not {text!r} "
            "(the units are kB MB GB TB and KiB MiB GiB TiB)"
        )
    return int(float(found[1]) * _UNITS[found[2]])


def format_size(size: int) -> str:
    """Like ``12.3 MB``."""
    if size < 1000:
        return f"{size} bytes"
    scaled = size / 1000
    for unit in ("kB", "MB", "GB"):
        if scaled < 999.95:
            return f"{scaled:,.1f} {unit}"
        scaled /= 1000
    return f"{scaled:,.1f} TB"
