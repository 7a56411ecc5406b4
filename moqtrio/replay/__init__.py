"""History: the replay interface, the resolver, the recorder and the stores."""

from ..model.recording import RecordingMode, RecordingStatistics
from ..model.source import (
    END,
    Bounds,
    End,
    GroupReader,
    Missing,
    Pending,
    Ready,
    ReplaySource,
    TimeIndex,
)
from .adapters import BlockingStore, RequestedStore, from_async, from_blocking
from .expiry import Expiry
from .live import PARKED, LiveReader, Parked
from .memory import MemoryStore, MemoryTrack
from .objects import ObjectStore, ObjectTrack, TieredStore, TieredTrack
from .reading import read_group
from .recorder import Recorder, RecorderSettings
from .resolver import DONE, Done, Dropped, Resolver, resolve_group
from .retry import Retries, RetryPolicy, SourceTries
from .sqlite import SqliteStore, SqliteTrack
from .target import GapWrite, GroupWrite, ReplayTarget

__all__ = [
    "DONE",
    "END",
    "PARKED",
    "BlockingStore",
    "Bounds",
    "Done",
    "Dropped",
    "End",
    "Expiry",
    "GapWrite",
    "GroupReader",
    "GroupWrite",
    "LiveReader",
    "MemoryStore",
    "MemoryTrack",
    "Missing",
    "ObjectStore",
    "ObjectTrack",
    "Parked",
    "Pending",
    "Ready",
    "Recorder",
    "RecorderSettings",
    "RecordingMode",
    "RecordingStatistics",
    "ReplaySource",
    "ReplayTarget",
    "RequestedStore",
    "Resolver",
    "Retries",
    "RetryPolicy",
    "SourceTries",
    "SqliteStore",
    "SqliteTrack",
    "TieredStore",
    "TieredTrack",
    "TimeIndex",
    "from_async",
    "from_blocking",
    "read_group",
    "resolve_group",
]
