"""Versions to test with."""

from __future__ import annotations

import pytest
import session_pairs
from trio.testing import MockClock

from moqtrio.wire import VERSIONS, Version


@pytest.fixture(params=VERSIONS, ids=str)
def each_version(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> Version:
    """Sessions that are joined in the test speak each of the versions in turn. Older ones wait
    for stragglers at the end, so the clock is one that does not keep us waiting."""
    version: Version = request.param
    monkeypatch.setattr(session_pairs, "spoken", version)
    return version
