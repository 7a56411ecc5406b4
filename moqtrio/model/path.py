"""Broadcast paths: segments with slashes between them."""

from __future__ import annotations


def strip_prefix(path: str, prefix: str) -> str | None:
    """What follows ``prefix`` in ``path``, or None where it is not a prefix.

    Whole segments only: ``"room"`` is a prefix of ``"room/cam"``, not of ``"rooms"``.
    """
    prefix = prefix.strip("/")
    if not prefix:
        return path
    if path == prefix:
        return ""
    return path[len(prefix) + 1 :] if path.startswith(prefix + "/") else None


def join(prefix: str, suffix: str) -> str:
    """The path that :func:`strip_prefix` took apart."""
    prefix = prefix.strip("/")
    return f"{prefix}/{suffix}" if prefix and suffix else prefix or suffix
