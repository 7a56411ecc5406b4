"""The public names: what users may rely on changes on purpose, and is documented."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import moqtrio

PUBLIC = [
    "LITE_03",
    "LITE_04",
    "LITE_05",
    "LITE_06",
    "OFFERED",
    "VERSIONS",
    "Announcement",
    "Announcements",
    "Backoff",
    "BlockingStore",
    "Broadcast",
    "ClientTls",
    "ConnectError",
    "ConnectionStatistics",
    "DecodeError",
    "EpochChanged",
    "Frame",
    "Gap",
    "GoingAway",
    "GroupConsumer",
    "GroupProducer",
    "Listener",
    "MemoryStore",
    "Missing",
    "MoqError",
    "ObjectStore",
    "Origin",
    "ProbeReport",
    "ProbeReports",
    "ProtocolError",
    "ReconnectingSession",
    "ReplayError",
    "ReplayRequest",
    "ReplayRequests",
    "ReplaySource",
    "ReplayWriter",
    "RequestError",
    "Resource",
    "ResumingAnnouncements",
    "ResumingSubscription",
    "Route",
    "Routes",
    "ServerTls",
    "ServingLimits",
    "Session",
    "SessionClosed",
    "SessionCode",
    "SessionLimits",
    "SessionSettings",
    "SqliteStore",
    "StreamCode",
    "StreamReset",
    "Subscription",
    "TieredStore",
    "Track",
    "TrackInfo",
    "TransportSettings",
    "Version",
    "from_async",
    "from_blocking",
    "generate_certificate",
    "open_session",
    "serve",
]

REFERENCE = Path(__file__).parent.parent / "docs" / "api.md"


def test_the_public_names_are_these() -> None:
    assert sorted(moqtrio.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name: str) -> None:
    assert inspect.getdoc(getattr(moqtrio, name))
    assert re.search(
        rf"^\.\. (auto|py:)(class|function|exception|data):: {name}\b",
        REFERENCE.read_text(),
        re.MULTILINE,
    )


def test_errors_are_in_one_tree() -> None:
    public = [getattr(moqtrio, name) for name in PUBLIC]
    errors = [each for each in public if inspect.isclass(each) and issubclass(each, Exception)]
    assert len(errors) == 9
    assert all(issubclass(error, moqtrio.MoqError) for error in errors)


def test_importing_the_library_brings_none_of_the_command_lines_dependencies() -> None:
    check = (
        "import sys, moqtrio; "
        "print(sorted({'cyclopts', 'rich', 'psutil', 'asyncio'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", check], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
