"""HTTP/1.1 over TCP, and qmux over WebSocket, for where UDP is blocked."""

from .client import fetch_fingerprint, open_websocket
from .resources import FINGERPRINT_PATH, Resource, Routes, fingerprint_route
from .server import HttpListener, serve_http

__all__ = [
    "FINGERPRINT_PATH",
    "HttpListener",
    "Resource",
    "Routes",
    "fetch_fingerprint",
    "fingerprint_route",
    "open_websocket",
    "serve_http",
]
