"""Every message of moq-lite (draft-lcurley-moq-lite), in one place to import from."""

from __future__ import annotations

from .announce import Announce, AnnounceOk, AnnounceRequest
from .connection import Goaway, Probe
from .group import Datagram, GroupHeader
from .message import Message, TypedMessage
from .setup import Setup
from .subscribe import (
    Subscribe,
    SubscribeDrop,
    SubscribeEnd,
    SubscribeOk,
    SubscribeResponse,
    SubscribeStart,
    SubscribeUpdate,
)
from .track import Fetch, Track, TrackInfo

__all__ = [
    "Announce",
    "AnnounceOk",
    "AnnounceRequest",
    "Datagram",
    "Fetch",
    "Goaway",
    "GroupHeader",
    "Message",
    "Probe",
    "Setup",
    "Subscribe",
    "SubscribeDrop",
    "SubscribeEnd",
    "SubscribeOk",
    "SubscribeResponse",
    "SubscribeStart",
    "SubscribeUpdate",
    "Track",
    "TrackInfo",
    "TypedMessage",
]
