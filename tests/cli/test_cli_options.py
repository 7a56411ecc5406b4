"""Wrong usage is told in one line, with what was expected, and exit code 2."""

from pathlib import Path

import pytest

from moqtrio.__main__ import main
from moqtrio.cli.app import run
from moqtrio.cli.failures import UsageError
from moqtrio.cli.positions import check_range, parse_start

SUBSCRIBE = ["subscribe", "moqt://localhost:1", "b", "t"]
SERVE = ["serve", "moqt://localhost:0", "--broadcast", "b", "--track", "t"]
GENERATE = ["--tls-generate", "localhost"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["dance"], 'Unknown command "dance"'),
        (["subscribe"], "URL"),
        ([*SUBSCRIBE, "--form", "oldest"], "Unknown option: --form"),
        ([*SUBSCRIBE, "--from", "yesterday"], "2026-11-22T10:00:00Z), not 'yesterday'"),
        ([*SUBSCRIBE, "--from=-1"], "sequence, oldest or latest, how long ago"),
        ([*SUBSCRIBE, "--from", "5", "--until", "5"], "must be above --from 5"),
        ([*SUBSCRIBE, "--until", "0"], "leaves nothing"),
        ([*SUBSCRIBE, "--until", "soon"], "soon"),
        ([*SUBSCRIBE, "--frames"], "--frames goes with --json"),
        ([*SUBSCRIBE, "--from", str(2**62)], "they are from 0 to 2**62 - 1"),
        ([*SUBSCRIBE, "--from", "9" * 5000], "they are from 0 to 2**62 - 1"),
        ([*SUBSCRIBE, "--until", str(2**62)], "from 0 to 2**62 - 1"),
        (["fetch", *SUBSCRIBE[1:], "--", "-1"], "from 0 to 2**62 - 1"),
        (["fetch", *SUBSCRIBE[1:], str(2**62)], "from 0 to 2**62 - 1"),
        ([*SUBSCRIBE, "--tls-insecure", "--tls-ca", "f"], "exclude each other"),
        ([*SUBSCRIBE, "--tls-fingerprint", "xyz"], "fingerprint"),
        ([*SUBSCRIBE, "--tls-cert", "f"], "--tls-cert and --tls-key belong together"),
        (["subscribe", "ftp://localhost:1", "b", "t"], "expected https://HOST:PORT or moqt://"),
        (["announced", "moqt://"], "has no host"),
        (["announced", "localhost:4443"], "has no scheme: expected https://HOST:PORT"),
        (["announced", "https://localhost:0"], "has port 0: expected the one the server prints"),
        (["announced", "https://u:p@localhost"], "a token goes into the query, as ?jwt=TOKEN"),
        (["announced", "ws://localhost", "--tls-ca", "f"], "use wss://"),
        (
            [*SUBSCRIBE, "--protocol", "moq-lite-02"],
            "expected one of moq-lite-06, moq-lite-05, moq-lite-04, moq-lite-03, not 'moq-lite-02'",
        ),
        (["serve", "ws://localhost:0", *SERVE[2:], *GENERATE], "got the scheme 'ws'"),
        (["serve", "https://localhost:0/a", *SERVE[2:], *GENERATE], "may ask for any path"),
        (SERVE, "a server needs a certificate"),
        ([*SERVE, "--tls-cert", "f"], "a server needs a certificate"),
        ([*SERVE, *GENERATE, "--tls-cert", "f"], "--tls-generate excludes"),
        ([*SERVE, *GENERATE, "--retention", "long"], "expected a duration such as"),
        ([*SERVE, *GENERATE, "--group-frames", "0"], "must be at least 1, not 0"),
        ([*SERVE, *GENERATE, "--seconds", "5"], "goes with --input telemetry"),
        ([*SERVE, *GENERATE, "--recording", "durable"], "durable needs a --store"),
        ([*SERVE, *GENERATE, "--recording", "later"], 'Choose from: "live", "durable"'),
        ([*SERVE, *GENERATE, "--retention", "1h"], "--retention needs a --store"),
        ([*SERVE, *GENERATE, "--disk-size", "1GB"], "--disk-size needs a --store"),
        ([*SERVE, *GENERATE, "--store", "d", "--disk-retention", "1h"], "a second --store"),
        (["store", "verify", "s3://b/p"], "expected a directory, not 's3://b/p'"),
        (["store", "export", "s3://b/p"], "only store info takes a URL"),
        (["store", "trim", "s3://b/p", "--before", "1"], "only store info takes a URL"),
        (["demo", "--seconds", "1"], "--seconds 5 or more"),
    ],
)
def test_wrong_usage(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    message, hint = captured.err.splitlines()
    assert message.startswith("moqtrio: ")
    assert expected in message
    assert "--help" in hint


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        *(
            [*command, "--help"]
            for command in (
                ["serve"],
                ["subscribe"],
                ["publish"],
                ["fetch"],
                ["announced"],
                ["store"],
                ["store", "info"],
                ["store", "verify"],
                ["store", "export"],
                ["store", "trim"],
                ["demo"],
            )
        ),
    ],
    ids=" ".join,
)
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 0
    captured = capsys.readouterr()
    assert "Usage: moqtrio" in captured.out
    assert captured.err == ""


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.strip()


def test_an_input_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run([*SERVE, *GENERATE, "--input", str(tmp_path / "absent")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"{tmp_path / 'absent'}: No such file or directory" in captured.err


@pytest.mark.parametrize(
    ("text", "start"), [("oldest", 0), ("latest", None), ("0", 0), ("12", 12), ("Oldest", 0)]
)
def test_where_to_begin(text: str, start: int | None) -> None:
    assert parse_start(text) == start


def test_ranges_that_hold_something_are_accepted() -> None:
    check_range(None, 1)
    check_range(0, 1)
    check_range(7, None)
    with pytest.raises(UsageError):
        check_range(7, 7)


def test_without_the_extra_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import builtins
    import sys

    real_import = builtins.__import__

    def without_rich(name: str, *arguments: object, **keywords: object) -> object:
        if name.partition(".")[0] == "rich":
            raise ModuleNotFoundError("No module named 'rich'", name="rich")
        return real_import(name, *arguments, **keywords)  # type: ignore[arg-type]  # passed on

    for name in [name for name in sys.modules if name.startswith(("moqtrio.cli", "rich"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without_rich)
    assert main() == 1
    assert capsys.readouterr().err == (
        "moqtrio: the command needs rich, which is not installed; "
        "pip install 'moqtrio[cli]' brings it\n"
    )
