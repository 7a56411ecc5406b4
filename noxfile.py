"""Every check of this project is one of these sessions; CI runs the same commands.

``nox -l`` lists them. Arguments after ``--`` go to the program a session runs, as in
``nox -s tests -- tests/wire -k varint`` or ``nox -s demo -- --seconds 10``.
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from pathlib import Path

import nox
import nox.project

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "typing", "tests"]

ROOT = Path(__file__).parent
IN_PARALLEL = ("--numprocesses=auto", "--dist=worksteal")
# They need other implementations, or a browser, and have sessions of their own.
WITHOUT_PEERS = ("--ignore=tests/interop", "--ignore=tests/browser")
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")


def locked_versions() -> list[str]:
    """What ``uv.lock`` pins, as constraints that pip and uv both read.

    A package the lock holds in several versions (one for each range of Pythons) is left
    to the installer.
    """
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    versions: defaultdict[str, set[str]] = defaultdict(set)
    for package in lock["package"]:
        if "registry" in package["source"]:
            versions[package["name"]].add(package["version"])
    return [
        f"{name}=={next(iter(found))}"
        for name, found in sorted(versions.items())
        if len(found) == 1
    ]


def install(session: nox.Session, *groups: str, project: bool = True) -> None:
    """Install dependency groups at their locked versions, and the project in place."""
    constraints = Path(session.create_tmp()) / "constraints.txt"
    constraints.write_text("\n".join(locked_versions()) + "\n", encoding="utf-8")
    requirements = nox.project.dependency_groups(PYPROJECT, *groups)
    editable = ("--editable", ".[cli,objects]") if project else ()
    session.install("--constraint", str(constraints), *requirements, *editable)


@nox.session
def demo(session: nox.Session) -> None:
    """A late subscriber replays from disk into live, in three processes."""
    install(session)
    session.run("python", "-m", "moqtrio", "demo", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Everything but interoperability with other implementations, and with browsers."""
    install(session, "test")
    session.run("python", "-m", "pytest", *WITHOUT_PEERS, *IN_PARALLEL, *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """The tests once more, measured."""
    install(session, "test")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *WITHOUT_PEERS, *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def lint(session: nox.Session) -> None:
    """Style, format, and which room may import which."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")


@nox.session(name="typing")
def typing_(session: nox.Session) -> None:
    """Types inside (mypy) and types as users of the package see them (pyright)."""
    install(session, "test", "typing")
    session.run("mypy", *session.posargs)
    session.run("pyright", "--verifytypes", "moqtrio", "--ignoreexternal")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    install(session, "docs")
    session.run(
        "sphinx-build", "-W", "--keep-going", "-b", "html", "--quiet", "docs", "docs/_build/html"
    )


@nox.session
def interop(session: nox.Session) -> None:
    """Talk to moq-rs, both ways, on loopback."""
    install(session, "test", "interop")
    session.run("python", "-m", "pytest", "tests/interop", *session.posargs)


@nox.session
def browser(session: nox.Session) -> None:
    """npm's @moq/net and the page of serve --web, in Chromium. Needs Chromium and npm."""
    install(session, "test", "browser")
    with session.chdir("tests/browser"):
        quiet = ("--no-audit", "--no-fund", "--ignore-scripts")
        session.run("npm", "ci", *quiet, external=True)
    session.run("python", "-m", "pytest", "tests/browser", *IN_PARALLEL, *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure, beside aioquic and moq-rs in the same run. Never part of the tests."""
    install(session, "test", "interop")
    session.run("python", "-m", "benchmarks", *session.posargs)


@nox.session(venv_backend="uv")
def lowest(session: nox.Session) -> None:
    """The tests with the lowest versions pyproject.toml admits. Needs uv."""
    requirements = nox.project.dependency_groups(PYPROJECT, "test")
    session.install("--resolution", "lowest-direct", *requirements, "--editable", ".[cli,objects]")
    session.run("python", "-m", "pytest", *WITHOUT_PEERS, *session.posargs)


@nox.session
def machine(session: nox.Session) -> None:
    """The state machine over the replay engine, with 50,000 examples: about half an hour."""
    install(session, "test")
    environment = {"MOQTRIO_HYPOTHESIS_PROFILE": "extended"}
    session.run("python", "-m", "pytest", "tests/replay/machine", *session.posargs, env=environment)
