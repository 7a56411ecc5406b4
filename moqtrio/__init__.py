"""Media over QUIC for Trio: live tracks, deep replay, no silent gap.

Publish with :class:`Origin` and :func:`serve`, follow with :func:`open_session`, record
with :class:`SqliteStore`. The packages beneath (``wire``, ``transport``, ``model``,
``replay``, ``session``) may be used by themselves.
"""

from .errors import (
    ConnectError,
    DecodeError,
    MoqError,
    ProtocolError,
    ReplayError,
    RequestError,
    SessionClosed,
    SessionCode,
    StreamCode,
    StreamReset,
)
from .model import (
    Announcement,
    Broadcast,
    Frame,
    GroupConsumer,
    GroupProducer,
    Origin,
    ReplayRequest,
    ReplayRequests,
    ReplayWriter,
    Track,
    TrackInfo,
)
from .replay import (
    BlockingStore,
    MemoryStore,
    Missing,
    ObjectStore,
    ReplaySource,
    SqliteStore,
    TieredStore,
    from_async,
    from_blocking,
)
from .session import (
    Gap,
    Listener,
    Session,
    SessionSettings,
    Subscription,
    open_session,
    serve,
)
from .transport.settings import TransportSettings
from .transport.tls import ClientTls, ServerTls, generate_certificate

__all__ = [
    "Announcement",
    "BlockingStore",
    "Broadcast",
    "ClientTls",
    "ConnectError",
    "DecodeError",
    "Frame",
    "Gap",
    "GroupConsumer",
    "GroupProducer",
    "Listener",
    "MemoryStore",
    "Missing",
    "MoqError",
    "ObjectStore",
    "Origin",
    "ProtocolError",
    "ReplayError",
    "ReplayRequest",
    "ReplayRequests",
    "ReplaySource",
    "ReplayWriter",
    "RequestError",
    "ServerTls",
    "Session",
    "SessionClosed",
    "SessionCode",
    "SessionSettings",
    "SqliteStore",
    "StreamCode",
    "StreamReset",
    "Subscription",
    "TieredStore",
    "Track",
    "TrackInfo",
    "TransportSettings",
    "from_async",
    "from_blocking",
    "generate_certificate",
    "open_session",
    "serve",
]
