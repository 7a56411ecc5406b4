"""The WebTransport binding: sessions within HTTP/3, over moqtrio's own QUIC."""

from .client import open_webtransport
from .server import WebTransportRequest, serve_webtransport
from .session import WebTransportSession

__all__ = [
    "WebTransportRequest",
    "WebTransportSession",
    "open_webtransport",
    "serve_webtransport",
]
