"""``moqtrio demo``: a late subscriber replays from disk into live, checked byte for byte."""

from __future__ import annotations

import signal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import attrs
import trio
from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from .comparing import Received, count_mismatches
from .failures import Failure, UsageError
from .options import GENERAL, Duration, GeneralOptions
from .output import open_output
from .pages import open_page
from .processes import Command, open_command
from .progress import Progress
from .stored import digest_stored

BROADCAST = "demo"
TRACK = "telemetry"
_SHORTEST = 5.0
# The late subscriber comes when this part of the time has passed ...
_JOIN_AT = 0.6
# ... and memory keeps groups for this part, so it has forgotten the beginning by then.
_CACHE = 0.1
# What the processes may take longer than the telemetry lasts.
_ALLOWANCE = 30.0


async def demo(
    *,
    seconds: Annotated[Duration, Parameter(help="How long to publish.")] = 15.0,
    general: Annotated[GeneralOptions, Parameter(name="*")] = GENERAL,
) -> int:
    """Record this machine's telemetry, and replay it to a late subscriber into live.

    Three processes over loopback UDP: a server, an early subscriber, and a late one that asks
    for the oldest group after memory has forgotten it. Succeeds if the late one got every
    group, byte for byte as recorded, and some of them from the store.
    """
    if seconds < _SHORTEST:
        raise UsageError(f"the demo needs --seconds {_SHORTEST:g} or more, not {seconds:g}")
    with TemporaryDirectory(prefix="moqtrio-demo-") as directory:
        store = Path(directory) / "store"
        with trio.move_on_after(seconds + _ALLOWANCE) as scope:
            run = await _run_processes(store, seconds)
        if scope.cancelled_caught:
            raise Failure(f"the demo was not done {_ALLOWANCE:g} s after the telemetry ended")
        recorded = await digest_stored(store, BROADCAST, TRACK)
    result = assess(recorded, run)
    if general.json:
        async with open_output() as output:
            await output.write_json({"type": "demo", **attrs.asdict(result), "ok": result.ok})
    else:
        async with open_page() as page:
            _print_table(page, result)
    return 0 if result.ok else 1


@attrs.define
class Run:
    """What the processes did.

    Attributes:
        joined: the server's statistics just before the late subscriber was started.
        early: what the early subscriber received.
        late: what the late one received.
    """

    joined: dict[str, Any]
    early: Received
    late: Received


@attrs.frozen
class Result:
    """What the demo shows. Counts are of groups; see :func:`assess`."""

    recorded: int
    from_store: int
    from_memory: int
    live: int
    gaps: int
    mismatches: int
    early_mismatches: int
    replayed_bytes: int
    replay_mb_per_second: float

    @property
    def ok(self) -> bool:
        """Whether everything that was recorded came, and some of it from the store."""
        return (
            self.from_store > 0
            and self.gaps == 0
            and self.mismatches == 0
            and self.early_mismatches == 0
        )


async def _run_processes(store: Path, seconds: float) -> Run:
    run = Run({}, Received(), Received())
    with Progress(beside_output=False) as progress:
        progress.show("starting the server")
        async with open_command(*_serve(store, seconds)) as server:
            listening = await server.expect_message("listening")
            subscribe = _subscribe(listening["url"], listening["fingerprint"])
            async with open_command(*subscribe) as early, trio.open_nursery() as nursery:
                nursery.start_soon(run.early.read, early)
                progress.show(f"recording {seconds:g} s of telemetry, with an early subscriber")
                run.joined = await _wait_forgotten(server, seconds)
                nursery.start_soon(_discard, server)
                progress.show(
                    "a late subscriber asks for the oldest group; "
                    f"memory begins at group {run.joined['oldest']}"
                )
                async with open_command(*subscribe) as late:
                    await run.late.read(late)
                await early.process.wait()
                # Ends in good order, so that its store is complete and closed.
                server.process.send_signal(signal.SIGINT)
                await server.process.wait()
    return run


def _serve(store: Path, seconds: float) -> list[str]:
    return [
        *("serve", "moqt://127.0.0.1:0", "--tls-generate", "localhost"),
        *("--broadcast", BROADCAST, "--track", TRACK),
        *("--input", "telemetry", "--seconds", f"{seconds:g}s"),
        *("--store", str(store), "--cache-age", f"{seconds * _CACHE:g}s"),
    ]


def _subscribe(url: str, fingerprint: str) -> list[str]:
    return [
        *("subscribe", url, BROADCAST, TRACK, "--from", "oldest", "--frames"),
        *("--tls-fingerprint", fingerprint),
    ]


async def _wait_forgotten(server: Command, seconds: float) -> dict[str, Any]:
    """The server's statistics when it is time for the late subscriber."""
    started = trio.current_time()
    while True:
        statistics = await server.expect_message("statistics")
        elapsed = trio.current_time() - started
        if elapsed >= seconds * _JOIN_AT and statistics["oldest"]:
            return statistics


async def _discard(command: Command) -> None:
    while await command.receive_message() is not None:
        pass


def assess(recorded: dict[int, str], run: Run) -> Result:
    """Compare what was recorded with what was received.

    A group counts as from the store if it had left memory before the late subscriber was
    started, as from memory if it was there then, and as live if it came later. So groups
    that left memory while it was being served count as from memory: the store's part is a
    lower bound.
    """
    oldest, edge = run.joined["oldest"], run.joined["next_sequence"]
    end = len(recorded)
    late = run.late
    replayed = [arrival for sequence, arrival in late.groups.items() if sequence < edge]
    replayed_bytes = sum(arrival.bytes for arrival in replayed)
    took = max((arrival.at for arrival in replayed), default=0.0) - (late.began or 0.0)
    return Result(
        recorded=end,
        from_store=sum(sequence < oldest for sequence in late.groups),
        from_memory=sum(oldest <= sequence < edge for sequence in late.groups),
        live=sum(sequence >= edge for sequence in late.groups),
        gaps=late.gaps + (late.end != end),
        mismatches=count_mismatches(recorded, late, end),
        early_mismatches=count_mismatches(recorded, run.early, end),
        replayed_bytes=replayed_bytes,
        replay_mb_per_second=round(replayed_bytes / 1e6 / took, 1) if took > 0 else 0.0,
    )


def _print_table(console: Console, result: Result) -> None:
    table = Table(title="A late subscriber, from disk into live", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_row("groups recorded", f"{result.recorded:,}")
    table.add_section()
    table.add_row("received from the store", f"{result.from_store:,}")
    table.add_row("received from RAM", f"{result.from_memory:,}")
    table.add_row("received live", f"{result.live:,}")
    table.add_section()
    table.add_row("gaps", f"{result.gaps:,}")
    table.add_row("mismatches", f"{result.mismatches:,}")
    table.add_row("mismatches of the early subscriber", f"{result.early_mismatches:,}")
    table.add_section()
    table.add_row("replayed", f"{result.replayed_bytes / 1e6:.2f} MB")
    table.add_row("replay speed", f"{result.replay_mb_per_second:.1f} MB/s")
    console.print(table)
    if result.ok:
        console.print("every byte as recorded", style="green")
    else:
        console.print("NOT as recorded", style="red")
