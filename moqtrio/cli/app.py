"""The command line as a whole: the commands, interruption, and how failures are told."""

from __future__ import annotations

import inspect
import logging
import signal
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import cyclopts
import trio
from cyclopts import App, Parameter

from .announced import announced
from .demo import demo
from .failures import EXIT_SIGNAL, EXIT_SUCCESS, EXIT_USAGE, Verdict, judge
from .fetch import fetch
from .options import GENERAL, GeneralOptions
from .publish import publish
from .serve import serve
from .store import store
from .subscribe import subscribe

logger: logging.Logger = logging.getLogger("moqtrio.cli")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def build_app() -> App:
    """The commands and their options."""
    app = App(
        name="moqtrio",
        help="Media over QUIC: publish live tracks, follow them, replay their history.",
        version=version("moqtrio"),
        help_format="markdown",
        default_parameter=Parameter(negative=(), show_default=_shows_default),
        result_action="return_value",
    )
    for command in (serve, subscribe, publish, fetch, announced, demo):
        app.command(command)
    app.command(store)
    return app


def _shows_default(value: Any) -> str | None:
    return None if value is False or value is None else str(value)


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns its exit code. Never raises."""
    verbose = False
    try:
        command, bound, _ = build_app().parse_args(
            arguments, exit_on_error=False, print_error=False
        )
        general = bound.arguments.get("general", GENERAL)
        verbose = isinstance(general, GeneralOptions) and general.verbose
        _log_to_standard_error(verbose=verbose)
        call = partial(command, *bound.args, **bound.kwargs)
        if not inspect.iscoroutinefunction(command):
            call()
            return EXIT_SUCCESS
        return trio.run(_run_until_signal, call)
    except cyclopts.CycloptsError as error:
        names = " ".join(("moqtrio", *(error.command_chain or ())))
        return _tell(Verdict(EXIT_USAGE, str(error), f"{names} --help lists the options"))
    except BaseException as error:
        if verbose and not isinstance(error, KeyboardInterrupt):
            traceback.print_exc()
        return _tell(judge(error))


async def _run_until_signal(command: Callable[[], Awaitable[int | None]]) -> int:
    """Run ``command``; Ctrl-C or SIGTERM cancels it, so that it ends in good order.

    A second one meets Python's usual handling, should the good order take too long.
    """
    received: list[int] = []
    result = EXIT_SUCCESS

    async def watch(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            task_status.started()
            async for number in signals:
                received.append(number)
                break
        nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(watch)
            result = await command() or EXIT_SUCCESS
            nursery.cancel_scope.cancel()
    except Exception:
        if not received:
            raise
        logger.debug("failed while being interrupted", exc_info=True)
    return EXIT_SIGNAL + received[0] if received else result


def _log_to_standard_error(*, verbose: bool) -> None:
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.WARNING,
        format="moqtrio: %(levelname)s: %(message)s",
        stream=sys.stderr,
    )
    if not verbose:
        # aioquic's: what matters of it comes as an error of ours.
        logging.getLogger("quic").setLevel(logging.CRITICAL)


def _tell(verdict: Verdict) -> int:
    if verdict.message is not None:
        print(f"moqtrio: {verdict.message}", file=sys.stderr)
        if verdict.hint is not None:
            print(f"  hint: {verdict.hint}", file=sys.stderr)
    return verdict.exit_code
