"""Skips these tests where moq-rs is not installed, and shows the matrix."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from .matrix import MATRIX, PAGE


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-matrix", action="store_true", help=f"put the matrix into docs/{PAGE.name}"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("moq") is None:
        reason = "moq-rs is not installed: run `nox -s interop`"
        for item in items:
            if "interop" in item.path.parts:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if not MATRIX:
        return
    terminalreporter.section("matrix")
    terminalreporter.write_line(str(MATRIX))
    if MATRIX.is_complete and config.getoption("--write-matrix", default=False):
        MATRIX.write()
