"""qmux: QUIC's streams over what delivers messages reliably and in order, a WebSocket above
all (draft-ietf-quic-qmux)."""

from .connection import QmuxConnection
from .driver import drive
from .link import LinkError, MessageLink
from .versions import VERSIONS, Agreement, QmuxVersion, agreements, choose

__all__ = [
    "VERSIONS",
    "Agreement",
    "LinkError",
    "MessageLink",
    "QmuxConnection",
    "QmuxVersion",
    "agreements",
    "choose",
    "drive",
]
