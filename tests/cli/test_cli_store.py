"""``moqtrio store``: what a person who runs a store is told."""

from __future__ import annotations

import base64
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from cli_commands import run_moqtrio, serving

from moqtrio import Frame, SqliteStore
from moqtrio.cli.app import run
from moqtrio.cli.bars import Meter, run_with_bar
from moqtrio.cli.sizes import format_size, parse_size
from moqtrio.model.group import FINISHED, Aborted
from moqtrio.replay import GapWrite, GroupWrite

EPOCH = 1_700_000_000.0
LINES = [f"line {number}".encode() for number in range(60)]

Capture = pytest.CaptureFixture[bytes]


async def record(directory: Path) -> None:
    """Three slices: groups of two lines; 20 to 24 were never used, 35 to 37 are lost."""
    for first in (0, 10, 25):
        clock = EPOCH + 360 * first
        async with SqliteStore.open(directory, wall_clock=lambda clock=clock: clock) as store:
            track = store.track("logs", "syslog")
            groups = []
            for sequence in range(first, first + 10):
                pair = LINES[2 * sequence % 60 :][:2]
                time = int(clock * 1e6) + sequence
                groups.append(
                    GroupWrite(sequence, 0, [Frame(line, time) for line in pair], FINISHED)
                )
            await track.write(groups)
            if first == 25:
                await track.write_gaps([GapWrite(35, 38, 53)])
                await track.write([GroupWrite(38, 0, [Frame(b"half", 0)], Aborted(77))])


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cli-store") / "store"
    trio.run(record, directory)
    return directory


@pytest.fixture
def directory(recorded: Path, tmp_path: Path) -> str:
    shutil.copytree(recorded, tmp_path / "store")
    return str(tmp_path / "store")


@pytest.fixture
def moqtrio(capfdbinary: Capture) -> Callable[..., tuple[int, str, str]]:
    """Run a store command in this process: exit code, standard output, standard error."""

    def call(*arguments: str) -> tuple[int, str, str]:
        code = run(["store", *arguments])
        captured = capfdbinary.readouterr()
        return code, captured.out.decode(), captured.err.decode()

    return call


Call = Callable[..., tuple[int, str, str]]


def messages(out: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def damage(directory: str, number: int = 2) -> None:
    """Flip a bit of a payload in one slice."""
    path = Path(directory) / f"slice-{number:08d}.db"
    data = bytearray(path.read_bytes())
    data[data.index(b"line 2")] ^= 1
    path.write_bytes(data)


def test_info(moqtrio: Call, directory: str) -> None:
    code, out, err = moqtrio("info", directory)
    assert (code, err) == (0, "")
    for expected in (
        "logs syslog",
        "31, the oldest is 0, the latest 38",
        "8 sequences in between without a group",
        "groups 35 to 37 could not be recorded",
        "next     group 39",
        "1970-01-01 00:00:00Z to 2023-11-15 00:43:20Z",
        "in 3 files, format version 2",
    ):
        assert expected in out
    code, out, err = moqtrio("info", directory, "--json")
    assert (code, err) == (0, "")
    track, *slices, store = messages(out)
    assert track.pop("epoch") >= 0
    assert track == {
        "type": "track",
        "broadcast": "logs",
        "track": "syslog",
        "oldest": 0,
        "latest": 38,
        "next_sequence": 39,
        "groups": 31,
        "frames": 61,
        "bytes": sum(len(line) for line in LINES[:40] + LINES[50:] + LINES[:10]) + 4,
        "first_timestamp_us": 0,
        "last_timestamp_us": int((EPOCH + 9000) * 1e6) + 34,
        "missing": 8,
        "gaps": [{"start": 35, "end": 38, "code": 53}],
        "files": 3,
        "created": track["created"],
    }
    assert [each["state"] for each in slices] == ["sealed"] * 3
    assert sum(each["bytes"] for each in slices) == store["bytes"]
    assert (store["files"], store["format"], store["problems"]) == (3, 2, [])


def test_a_reader_that_does_not_want_it_all(directory: str) -> None:
    for command in ("info", "verify"):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [sys.executable, "-m", "moqtrio", "store", command, directory],
            stdout=writing,
            stderr=subprocess.PIPE,
            check=False,
        )
        os.close(writing)
        assert (done.returncode, done.stderr) == (0, b"")


def test_verify_in_order(moqtrio: Call, directory: str) -> None:
    code, out, err = moqtrio("verify", directory)
    assert (code, err) == (0, "")
    assert "31 groups" in out
    assert "everything is in order" in out
    assert "1 recorded gap" in out
    code, out, err = moqtrio("verify", directory, "--json")
    assert (code, err) == (0, "")
    (report,) = messages(out)
    assert report["type"] == "verified"
    assert (report["groups"], report["gaps"], report["problems"]) == (31, 1, 0)


def test_verify_damage(moqtrio: Call, directory: str) -> None:
    damage(directory)
    code, out, err = moqtrio("verify", directory)
    assert (code, err) == (1, "")
    assert out.startswith("slice-00000002.db, track logs/syslog, groups 10 to 19: damaged, its che")
    assert "1 problem" in out
    code, out, err = moqtrio("verify", directory, "--json", "--track", "syslog")
    assert (code, err) == (1, "")
    problem, report = messages(out)
    assert (problem["type"], problem["start"], problem["end"]) == ("problem", 10, 20)
    assert (problem["broadcast"], problem["track"]) == ("logs", "syslog")
    assert report["problems"] == 1


def test_verify_finds_what_is_no_groups_damage(moqtrio: Call, directory: str) -> None:
    shutil.copy(Path(directory) / "slice-00000001.db", Path(directory) / "slice-00000077.db")
    code, out, _ = moqtrio("verify", directory)
    assert code == 1
    assert "slice-00000077.db: the catalog does not have this file" in out
    assert "lost" not in out
    assert "the guide to operating a store" in out


def test_verify_without_a_catalog_to_go_by(moqtrio: Call, directory: str) -> None:
    (Path(directory) / "catalog.db").write_bytes(b"?" * 5000)
    code, out, _ = moqtrio("verify", directory)
    assert code == 1
    assert "catalog.db: file is not a database" in out
    assert "nothing of it can be served" in out


def test_export_lines(moqtrio: Call, directory: str) -> None:
    code, out, err = moqtrio("export", directory, "--until", "20")
    assert (code, err) == (0, "")
    assert out.encode() == b"".join(line + b"\n" for line in LINES[:40])
    code, out, err = moqtrio("export", directory)
    assert code == 1, "there are gaps"
    assert err.splitlines() == [
        "moqtrio: groups 20 to 24: not in the store",
        "moqtrio: groups 35 to 37: was published, but could not be recorded",
        "moqtrio: group 38: was aborted",
    ]


def test_export_json(moqtrio: Call, directory: str) -> None:
    span = ("--from", "18", "--until", "26")
    code, out, _ = moqtrio("export", directory, *span, "--json")
    assert code == 1
    sizes = [sum(map(len, LINES[2 * each % 60 :][:2])) for each in (18, 19, 25)]
    groups = [
        {"type": "group", "sequence": sequence, "frames": 2, "bytes": size}
        for sequence, size in zip((18, 19, 25), sizes, strict=True)
    ]
    gap = {"type": "gap", "start": 20, "end": 25, "code": 0}
    end = {"type": "end", "sequence": 26}
    assert messages(out) == [*groups[:2], gap, groups[2], end]
    assert moqtrio("export", directory, *span, "--format", "jsonl")[1] == out
    code, out, _ = moqtrio("export", directory, *span, "--format", "frames")
    first = messages(out)[0]
    assert first == {
        "type": "frame",
        "group": 18,
        "index": 0,
        "timestamp_us": int((EPOCH + 3600) * 1e6) + 18,
        "payload": base64.b64encode(LINES[36]).decode(),
    }
    assert [each for each in messages(out) if each["type"] != "frame"] == [
        *groups[:2],
        gap,
        groups[2],
        end,
    ]


def test_export_to_a_file(moqtrio: Call, directory: str, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    path.write_bytes(b"what was there before, and longer than what comes" * 100)
    code, out, err = moqtrio("export", directory, "--until", "20", "--output", str(path))
    assert (code, out) == (0, "")
    assert err == "moqtrio: exported 20 groups, 270 bytes\n"
    assert path.read_bytes() == b"".join(line + b"\n" for line in LINES[:40])
    damage(directory)
    arguments = ("--until", "20", "--output", str(path), "--json", "--format", "lines")
    code, out, err = moqtrio("export", directory, *arguments)
    assert code == 1
    (report,) = messages(out)
    assert (report["type"], report["groups"], report["missing"]) == ("exported", 10, 10)
    assert "groups 10 to 19" in err
    assert "checksum" in err
    assert path.read_bytes() == b"".join(line + b"\n" for line in LINES[:20])


@pytest.mark.parametrize("position", ["2023-11-14T23:13:20Z", "2023-11-15T00:13:20+01:00", "10"])
def test_export_from_a_time(moqtrio: Call, directory: str, position: str) -> None:
    code, out, _ = moqtrio("export", directory, "--from", position, "--until", "11", "--json")
    assert code == 0
    assert [each.get("sequence") for each in messages(out)] == [10, 11]


def test_export_of_the_latest(moqtrio: Call, directory: str) -> None:
    code, out, err = moqtrio("export", directory, "--from", "latest", "--until", "50")
    assert (code, out) == (1, "half\n")
    assert err.splitlines() == [
        "moqtrio: group 38: was aborted",
        "moqtrio: groups 39 to 49: not in the store",
    ]


def test_export_of_the_last_minutes(moqtrio: Call, directory: str) -> None:
    """Of what was recorded in 2023, nothing is that young."""
    code, out, err = moqtrio("export", directory, "--from", "-10m")
    assert (code, out) == (0, "")
    assert "nothing to export" in err


def test_trim(moqtrio: Call, directory: str) -> None:
    code, out, err = moqtrio("trim", directory, "--before", "15", "--dry-run")
    assert (code, err) == (0, "")
    assert "would remove 1 whole file" in out
    assert "logs syslog: groups 0 to 9 (10)" in out
    assert len(list(Path(directory).glob("slice-*.db"))) == 3
    code, out, err = moqtrio("trim", directory, "--before", "15", "--json")
    assert (code, err) == (0, "")
    (report,) = messages(out)
    assert (report["type"], report["dry_run"], report["files"]) == ("trimmed", False, 1)
    (track,) = report["tracks"]
    assert (track["track"], track["start"], track["end"]) == ("syslog", 0, 10)
    assert len(list(Path(directory).glob("slice-*.db"))) == 2
    code, out, err = moqtrio("trim", directory, "--before", "15")
    assert (code, err) == (0, "")
    assert out.startswith("nothing to remove")
    code, out, err = moqtrio("trim", directory, "--older-than", "1h", "--keep-bytes", "1GB")
    assert (code, err) == (0, "")
    assert "removed 2 whole files" in out
    assert moqtrio("verify", directory)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["info", "{}/none"], "none is not a store: there is no such directory", "serve --store"),
        (["verify", "{}/none"], "none is not a store: there is no such directory", "serve --sto"),
        (["trim", "{}/none", "--keep-bytes", "1"], "there is no such directory", "serve --store"),
        (["export", "{}/lock"], "lock is not a store: it is a file", ""),
        (["verify", "/"], "is not a store: it has no catalog.db", "serve --store"),
        (["verify", "{}", "--track", "x"], "no track 'x': it has 'logs' 'syslog'", ""),
        (["export", "{}", "--broadcast", "x"], "no broadcast 'x': it has 'logs' 'syslog'", ""),
        (["trim", "{}", "--before", "1", "--track", "x"], "no track 'x'", ""),
        (["trim", "{}"], "what is to go?", "--help"),
        (["trim", "{}", "--older-than", "1h", "--track", "syslog"], "go with --before", "--help"),
        (["trim", "{}", "--keep-bytes", "1XB"], "expected a size such as", "--help"),
        (
            ["export", "{}", "--from", "soon"],
            "--from expects a group's sequence, oldest or latest",
            "",
        ),
        (["export", "{}", "--from", "5", "--until", "5"], "--until 5 leaves nothing", ""),
        (["export", "{}", "--format", "xml"], "xml", "--help"),
        (["export", "{}", "--json", "--format", "lines"], "needs --output FILE", ""),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done(
    moqtrio: Call, directory: str, arguments: list[str], message: str, hint: str
) -> None:
    code, out, err = moqtrio(*(each.format(directory) for each in arguments))
    assert (code, out) == (2, "")
    said, *hints = err.splitlines()
    assert message in said
    assert hint in "".join(hints)
    assert "Traceback" not in err


def test_a_wrong_track_leaves_the_output_alone(
    moqtrio: Call, directory: str, tmp_path: Path
) -> None:
    path = tmp_path / "precious"
    path.write_bytes(b"precious")
    assert moqtrio("export", directory, "--track", "x", "--output", str(path))[0] == 2
    assert path.read_bytes() == b"precious"


def test_a_newer_version(moqtrio: Call, directory: str) -> None:
    catalog = sqlite3.connect(Path(directory) / "catalog.db")
    catalog.execute("PRAGMA user_version=99")
    catalog.close()
    for command in (["info"], ["verify"], ["export"], ["trim", "--keep-bytes", "1"]):
        code, out, err = moqtrio(command[0], directory, *command[1:])
        assert (code, out) == (2, "")
        assert "has format version 99" in err
        assert "use the newer moqtrio" in err


def test_verbose_shows_where(moqtrio: Call, directory: str) -> None:
    code, _, err = moqtrio("verify", f"{directory}/none", "--verbose")
    assert code == 2
    assert "Traceback" in err
    assert err.splitlines()[-2].startswith("moqtrio: ")


AS_NOBODY = """
import os, sys
import email.parser, encodings.idna
import rich.progress, rich.table
from moqtrio.cli.app import run
from moqtrio.cli.bars import Meter, run_with_bar
# What is imported late is imported now: it may be out of this user's sight.
run(["store", "info", sys.argv[2]])
run(["store", "info", sys.argv[2], "--nonsense"])
for command in (["info"], ["verify"], ["export", "--output", os.devnull]):
    run(["store", command[0], sys.argv[2], *command[1:]])
run(["store", "trim", sys.argv[2] + "/none", "--keep-bytes", "1"])
sys.stdout.flush()
print("--", flush=True)
print("--", flush=True, file=sys.stderr)
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
codes = [
    run(["store", "info", sys.argv[1]]),
    run(["store", "verify", sys.argv[1]]),
    run(["store", "export", sys.argv[1], "--until", "20"]),
    run(["store", "trim", sys.argv[1], "--keep-bytes", "1"]),
]
print(codes)
"""


def test_a_directory_that_cannot_be_written_to(directory: str, recorded: Path) -> None:
    """Looking needs no more than reading; removing says what it lacks."""
    for parent in [Path(directory), *list(Path(directory).parents)[:4]]:
        if parent.owner() == "root" and parent != Path("/tmp"):
            parent.chmod(0o755)
    os.chmod(directory, 0o555)
    for path in Path(directory).iterdir():
        path.chmod(0o444)
    done = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, directory, str(recorded)],
        capture_output=True,
        timeout=60,
    )
    os.chmod(directory, 0o755)
    out = done.stdout.decode().split("--\n")[-1]
    err = done.stderr.decode().split("--\n")[-1]
    assert "31, the oldest is 0" in out
    assert "everything is in order" in out
    assert "line 39\n" in out
    assert out.splitlines()[-1] == "[0, 0, 0, 2]"
    said, hint = err.splitlines()
    assert "access is refused: check the directory's permissions" in said
    assert "the user who owns the store" in hint


async def test_while_a_server_records_and_after_it_was_killed(tmp_path: Path) -> None:
    directory = str(tmp_path / "store")
    arguments = ("--store", directory, "--group-frames", "2", "--json")
    async with serving(*arguments, stdin=subprocess.PIPE) as server:
        stdin = server.running.process.stdin
        assert stdin is not None
        await stdin.send_all(b"one\ntwo\nthree\n")
        while (await server.running.read_message())["groups"] < 2:
            pass
        while True:
            done = await run_moqtrio("store", "export", directory)
            if b"two" in done.out:
                break
        assert done.code == 0
        assert done.out == b"one\ntwo\n"
        assert done.err == "" or "ends before group 1, which has no end yet" in done.err
        done = await run_moqtrio("store", "verify", directory)
        assert (done.code, done.err) == (0, "")
        info = await run_moqtrio("store", "info", directory)
        assert b"is being written" in info.out
        trim = await run_moqtrio("store", "trim", directory, "--keep-bytes", "0")
        assert (trim.code, trim.out) == (2, b"")
        assert f"in use by process {server.running.process.pid}" in trim.err
        assert "end that process first" in trim.err
        server.running.process.send_signal(signal.SIGKILL)
        await server.running.wait()
    for command in ("verify", "info", "export"):
        assert (await run_moqtrio("store", command, directory)).code == 0
    done = await run_moqtrio("store", "trim", directory, "--keep-bytes", "0")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(b"removed 1 whole file")


async def test_work_in_a_thread_is_cancelled_where_it_tells_how_far_it_is() -> None:
    def work(meter: Meter) -> None:
        trio.from_thread.run_sync(scope.cancel)
        meter.tell(1, 2, "never said")

    with trio.CancelScope() as scope:
        await run_with_bar(work, "working")
    assert scope.cancelled_caught


async def test_what_work_in_a_thread_raises_comes_out_as_it_is() -> None:
    def work(meter: Meter) -> None:
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        await run_with_bar(work, "working")


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("17", 17), ("1kB", 1000), ("1.5 GB", 1_500_000_000), ("2GiB", 2 * 2**30)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1", "1 XB", "1e3"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        parse_size(text)


def test_showing_sizes() -> None:
    assert [format_size(each) for each in (0, 999, 1000, 999_949, 10**6, 3 * 10**12)] == [
        "0 bytes",
        "999 bytes",
        "1.0 kB",
        "999.9 kB",
        "1.0 MB",
        "3.0 TB",
    ]
