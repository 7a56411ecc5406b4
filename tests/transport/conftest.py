from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from .pairs import PAIRS


@pytest.fixture(params=sorted(PAIRS))
def pair(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Opens two connected ends; the test runs once for each binding."""
    return PAIRS[request.param]
