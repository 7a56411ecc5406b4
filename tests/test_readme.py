"""What the README says works: its example runs as it stands, over real QUIC on loopback."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def test_the_example_runs_and_prints_what_the_readme_says(tmp_path: Path) -> None:
    (example,) = code_blocks("python")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    promised = re.search(r"It prints (.*)\.$", README, re.MULTILINE)
    assert promised is not None
    assert done.stdout.splitlines() == re.findall(r"`(.*?)`", promised[1])
    assert done.stdout.splitlines() == ["0 one", "1 two", "2 three"]


def test_the_commands_name_sessions_that_exist() -> None:
    commands = [block for block in code_blocks("sh") if "nox -s" in block]
    sessions = {name for block in commands for name in re.findall(r"nox -s (\w+)", block)}
    assert sessions == {"demo", "tests"}
    noxfile = (ROOT / "noxfile.py").read_text(encoding="utf-8")
    for name in sessions:
        assert re.search(rf"^@nox\.session\ndef {name}\(", noxfile, re.MULTILINE)


def test_ci_runs_the_readmes_test_command() -> None:
    (command,) = [block.strip() for block in code_blocks("sh") if "nox -s tests" in block]
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for part in command.removeprefix("python3 ").split(" && "):
        assert part.removeprefix(".venv/bin/pip install ") in ci
