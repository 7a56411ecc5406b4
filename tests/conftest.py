"""Shared by all tests."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

NOBODY = 65534

# Machines differ, and CI's are slow: a property fails for what it says, not for its speed. And
# what CI refuses is the change, not its luck: there the examples are the same each time. New
# ones are tried wherever somebody works, and by "nox -s machine".
settings.register_profile(
    "moqtrio",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    derandomize="CI" in os.environ,
)
settings.load_profile("moqtrio")


@pytest.fixture
def private_directory() -> Iterator[Path]:
    """A directory whose permissions count: root would be let in all the same, and so is
    nobody for the time being."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        if os.geteuid() != 0:
            yield directory
            return
        os.chown(directory, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            yield directory
        finally:
            os.seteuid(0)
