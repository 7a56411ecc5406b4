"""Skips these tests where moq-rs is not installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("moq") is None:
        reason = "moq-rs is not installed: run `nox -s interop`"
        for item in items:
            if "interop" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason=reason))
