"""The QUIC binding: a Trio driver under aioquic's state machine."""

from .client import open_quic
from .server import QuicListener, serve_quic

__all__ = ["QuicListener", "open_quic", "serve_quic"]
