"""Opening a session is given up at every step there is: nothing is left of it, on either side."""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import psutil
import pytest
import trio
from e2e_tools import end_process, start_python
from test_e2e_slow_readers import Process

import moqtrio

STRIDE = int(os.environ.get("MOQTRIO_CANCEL_STRIDE", "7"))


@attrs.define(eq=False)
class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope at one step of all that any task makes."""

    scope: trio.CancelScope
    left: int

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    script = Path(__file__).with_name("hostile_web_server.py").read_text()
    process = start_python(script, ())
    try:
        yield Process(process)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=20)
    finally:
        process.kill()
        errors = end_process(process)
        assert "Traceback" not in errors, errors


_WHERE: list[dict[str, Any]] = []


@pytest.mark.parametrize("scheme", ["moqt", "https", "http", "ws", "wss"])
async def test_opening_is_given_up(scheme: str, server: Process) -> None:
    if not _WHERE:
        _WHERE.append(await server.line())
    url = f"{scheme}://127.0.0.1:{_WHERE[0]['port']}/"
    tls = moqtrio.ClientTls(fingerprint=_WHERE[0]["fingerprint"])

    async def attempt(steps: int) -> bool:
        """Whether it got to the end before that many steps."""
        with trio.CancelScope() as scope:
            instrument = CancelAtStep(scope, steps)
            trio.lowlevel.add_instrument(instrument)
            try:
                async with moqtrio.open_session(
                    url, tls=None if scheme == "http" else tls
                ) as session:
                    group = await session.fetch("b", "t", 0)
                    await group.read_all()
            finally:
                trio.lowlevel.remove_instrument(instrument)
        return not scope.cancelled_caught

    assert await attempt(-1)  # what is only made once is there
    files = psutil.Process().num_fds()
    there = (await server.ask("look"))["files"]
    with trio.fail_after(60):
        steps = 1
        while not await attempt(steps):
            assert psutil.Process().num_fds() == files, f"after {steps} steps"
            steps += STRIDE
    print(scheme, steps, "steps")
    gc.collect()

    async def all_gone() -> bool:
        look = await server.ask("look")
        assert not [line for line in look["log"] if not line.startswith("INFO")]
        return bool(look["files"] <= there)

    with trio.fail_after(20):
        while not await all_gone():  # noqa: ASYNC110  # it is another process
            await trio.sleep(0.05)


@pytest.fixture(scope="module")
def certificate() -> moqtrio.ServerTls:
    return moqtrio.generate_certificate()


async def visit(scheme: str, listener: moqtrio.Listener) -> None:
    """A client of a server that may go at any time."""
    tls = moqtrio.ClientTls(fingerprint=listener.fingerprint)
    settings = moqtrio.TransportSettings(connect_timeout=0.2)
    url = f"{scheme}://127.0.0.1:{listener.port}/"
    with suppress(moqtrio.ConnectError, moqtrio.SessionClosed):
        async with moqtrio.open_session(url, tls=tls, transport=settings) as session:
            await session.wait_closed()


@pytest.mark.parametrize("steps", range(1, 300, 4 * STRIDE))
async def test_serving_is_given_up(
    steps: int, certificate: moqtrio.ServerTls, caplog: pytest.LogCaptureFixture
) -> None:
    files = psutil.Process().num_fds()
    with trio.fail_after(20):
        async with trio.open_nursery() as clients:
            with trio.CancelScope() as scope:
                instrument = CancelAtStep(scope, steps)
                trio.lowlevel.add_instrument(instrument)
                async with trio.open_nursery() as nursery:
                    listener = await nursery.start(
                        partial(
                            moqtrio.serve, moqtrio.Origin(), "https://127.0.0.1:0", tls=certificate
                        )
                    )
                    for scheme in ("moqt", "https", "ws", "wss"):
                        clients.start_soon(visit, scheme, listener)
            trio.lowlevel.remove_instrument(instrument)
            assert scope.cancelled_caught
    gc.collect()
    assert psutil.Process().num_fds() <= files
    assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
