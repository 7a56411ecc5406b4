"""Old groups as requests that an application answers in its own time."""

from .buffer import FRAME_OVERHEAD
from .channel import ReplayRequest, ReplayRequests
from .queue import RequestLimits, RequestQueue, RequestStatistics
from .writer import ReplayWriter

__all__ = [
    "FRAME_OVERHEAD",
    "ReplayRequest",
    "ReplayRequests",
    "ReplayWriter",
    "RequestLimits",
    "RequestQueue",
    "RequestStatistics",
]
