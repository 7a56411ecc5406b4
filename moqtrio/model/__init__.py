"""The shared log: origins, broadcasts, tracks, groups and frames. No wire, no network."""

from .broadcast import Broadcast
from .clock import MediaClock
from .frame import Frame
from .group import (
    FINISHED,
    Aborted,
    Finished,
    Group,
    GroupConsumer,
    GroupEnd,
    GroupProducer,
    reset_for,
)
from .log import LogLimits, LogStatistics, TrackLog
from .notify import Wakeup, Watchers
from .origin import Announcement, Origin, OriginAnnouncements
from .path import join, strip_prefix
from .ranges import RangeSet
from .recording import RecordingMode, RecordingStatistics
from .requests import ReplayRequest, ReplayRequests, ReplayWriter
from .route import Route
from .source import ReplaySource
from .track import Track, TrackInfo, TrackStore

__all__ = [
    "FINISHED",
    "Aborted",
    "Announcement",
    "Broadcast",
    "Finished",
    "Frame",
    "Group",
    "GroupConsumer",
    "GroupEnd",
    "GroupProducer",
    "LogLimits",
    "LogStatistics",
    "MediaClock",
    "Origin",
    "OriginAnnouncements",
    "RangeSet",
    "RecordingMode",
    "RecordingStatistics",
    "ReplayRequest",
    "ReplayRequests",
    "ReplaySource",
    "ReplayWriter",
    "Route",
    "Track",
    "TrackInfo",
    "TrackLog",
    "TrackStore",
    "Wakeup",
    "Watchers",
    "join",
    "reset_for",
    "strip_prefix",
]
