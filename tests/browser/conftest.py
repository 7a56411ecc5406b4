"""Skips these tests where what they need is not installed, and starts the browser."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

_IS_INSTALLED = find_spec("playwright") is not None
collect_ignore_glob = [] if _IS_INSTALLED else ["test_*.py"]

if _IS_INSTALLED:
    from browser_tools import NODE_MODULES, Server, launch_chromium, opened, serving, serving_npm
    from playwright.sync_api import Browser, Page, expect, sync_playwright

    expect.set_options(timeout=15_000)

    @pytest.fixture(scope="session")
    def browser() -> Iterator[Browser]:
        with sync_playwright() as playwright, launch_chromium(playwright) as browser:
            yield browser

    @pytest.fixture(scope="session")
    def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        """One server for all tests that do it no harm."""
        with serving(tmp_path_factory.mktemp("store")) as server:
            yield server

    @pytest.fixture
    def page(browser: Browser) -> Iterator[Page]:
        with browser.new_context() as context, opened(context) as page:
            yield page

    @pytest.fixture
    def npm_page(browser: Browser) -> Iterator[Page]:
        """A page that can import @moq/net."""
        if not NODE_MODULES.is_dir():
            pytest.fail("@moq/net is not installed: run `npm ci` in tests/browser")
        with serving_npm() as url, browser.new_context() as context:
            page = context.new_page()
            page.goto(url)
            yield page
