"""aioquic's state machine, bent to what moqtrio needs.

This package is the one place that touches aioquic's private names. It changes:

- **Flow control towards the application.** aioquic raises its limits as bytes arrive,
  read or not. Here they rise as the application takes bytes and streams.
- **Stream scheduling.** aioquic looks at every open stream for every packet. Here a heap
  holds those that have something to send, by priority and then by age.
- **Stream buffers** (:mod:`..buffers`) and pacing (:mod:`..pacing`).
- **Who the peer is**: pinned certificates, and clients' certificates.
- **Moving**: what is measured anew on another path, and a client that leaves its address.
- **Old keys** are kept for a while after an update.

Everything else (handshake, loss recovery, congestion control, connection ids, path
validation) is aioquic's own.
"""

from .authentication import PeerCheck
from .core import Engine
from .stream import EngineOwner, EngineStream

__all__ = ["Engine", "EngineOwner", "EngineStream", "PeerCheck"]
