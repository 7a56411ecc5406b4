"""The machine finds each bug that is planted: a net with holes would catch nothing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from .machine import confined, surroundings
from .mutants import MUTANTS, Mutant, Rotten
from .properties import PROPERTIES, Broken

HUNT = settings(
    max_examples=1_000,
    stateful_step_count=30,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
"""The same examples in every run; what is found need not be small."""


@pytest.fixture(autouse=True)
def _surroundings() -> Iterator[None]:
    with surroundings():
        yield


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_planted_bug_is_found(mutant: Mutant) -> None:
    with mutant.planted(), pytest.raises(Broken) as caught:
        run_state_machine_as_test(confined(mutant.world, mutant.rules), settings=HUNT)
    assert caught.value.name in mutant.breaks, str(caught.value)


def test_each_property_has_a_mutant() -> None:
    covered = {name for mutant in MUTANTS for name in mutant.breaks}
    assert covered >= PROPERTIES.keys() - {"P12"}  # which test_shared_loads has


def test_a_mutant_whose_code_has_changed_says_so() -> None:
    rotten = Mutant("nothing", (), Mutant.planted, "no such piece of code", "")
    with pytest.raises(Rotten, match="found it 0 times"), rotten.planted():
        pass
