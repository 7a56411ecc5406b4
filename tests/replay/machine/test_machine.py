"""P1 to P15 over the whole engine: see the package's docstrings, and docs/testing.md."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from .machine import ReplayMachine, surroundings

EXTENDED = os.environ.get("MOQTRIO_HYPOTHESIS_PROFILE") == "extended"

# As long as it takes on a machine that does other things beside.
pytestmark = pytest.mark.timeout(6 * 3600 if EXTENDED else 600)


@pytest.fixture(autouse=True)
def _surroundings() -> Iterator[None]:
    with surroundings():
        yield


def test_the_properties_hold() -> None:
    run_state_machine_as_test(
        ReplayMachine,
        settings=settings(
            max_examples=50_000 if EXTENDED else 2_000,
            stateful_step_count=22,
            suppress_health_check=list(HealthCheck),
            deadline=None,
        ),
    )
