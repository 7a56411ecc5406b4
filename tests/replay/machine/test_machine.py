"""P1 to P15 over the whole engine: see the package's docstrings, and docs/testing.md."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test

from .machine import ReplayMachine, surroundings


@pytest.fixture(autouse=True)
def _surroundings() -> Iterator[None]:
    with surroundings():
        yield


def test_the_properties_hold() -> None:
    run_state_machine_as_test(
        ReplayMachine, settings=settings(max_examples=200, stateful_step_count=30)
    )
