"""Shared by the tests of stores in objects: the tools of other tests, and object stores."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

for each in ("replay", "end_to_end", "cli"):
    sys.path.insert(0, str(Path(__file__).parents[1] / each))

from object_tools import Endpoint, MotoServer  # noqa: E402  # found by what is above


@pytest.fixture(scope="session")
def moto() -> Iterator[MotoServer]:
    """An S3 server in a process of its own."""
    with MotoServer.running() as server:
        yield server


@pytest.fixture
def endpoint(moto: MotoServer) -> Iterator[Endpoint]:
    """A bucket of that server behind a proxy that can fail in several ways."""
    with Endpoint.before(moto) as endpoint:
        yield endpoint
