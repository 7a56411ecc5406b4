"""P1 to P15 over a SQLite store: see the package's docstrings, and docs/testing.md."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from .sqlite_machine import SqliteMachine, sqlite_surroundings

EXTENDED = os.environ.get("MOQTRIO_HYPOTHESIS_PROFILE") == "extended"

pytestmark = pytest.mark.timeout(3600 if EXTENDED else 300)


@pytest.fixture(autouse=True)
def _surroundings(tmp_path: Path) -> Iterator[None]:
    with sqlite_surroundings(tmp_path):
        yield


def test_the_properties_hold() -> None:
    run_state_machine_as_test(
        SqliteMachine,
        settings=settings(
            max_examples=2_000 if EXTENDED else 80,
            stateful_step_count=25,
            suppress_health_check=list(HealthCheck),
            deadline=None,
        ),
    )
