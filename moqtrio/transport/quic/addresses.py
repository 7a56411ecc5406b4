"""Addresses as people write them."""

from __future__ import annotations

from typing import Any


def format_address(address: Any) -> str:
    """Host and port, with brackets around IPv6, and IPv4 as such on IPv6 sockets too."""
    host, port = address[0].removeprefix("::ffff:"), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
