"""Sessions: moq-lite spoken over a connection, on behalf of an origin and an application."""

from .announcements import Announcements
from .connect import open_session
from .goaway import GoingAway
from .limits import SessionLimits
from .listening import Listener, serve
from .probe import ProbeReport, ProbeReports
from .reconnect import ReconnectingSession
from .reconnect_announcements import ResumingAnnouncements
from .reconnect_subscription import ResumingSubscription
from .serving import ServingLimits
from .session import Session, SessionSettings, open_session_over
from .subscription import Gap, Order, Subscription
from .url import SessionUrl

__all__ = [
    "Announcements",
    "Gap",
    "GoingAway",
    "Listener",
    "Order",
    "ProbeReport",
    "ProbeReports",
    "ReconnectingSession",
    "ResumingAnnouncements",
    "ResumingSubscription",
    "ServingLimits",
    "Session",
    "SessionLimits",
    "SessionSettings",
    "SessionUrl",
    "Subscription",
    "open_session",
    "open_session_over",
    "serve",
]
