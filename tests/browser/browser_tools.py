"""A real browser, and the real command it talks to."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import attrs
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Playwright

HERE = Path(__file__).parent
NODE_MODULES = HERE / "node_modules"
BROADCAST, TRACK = "host", "telemetry"
# Three seconds, of which memory keeps one.
HISTORY = 30

_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_STOP_SECONDS = 10
_IMPORTS = {
    "@moq/net": "@moq/net/index.js",
    "@moq/qmux": "@moq/qmux/index.js",
    "@moq/signals": "@moq/signals/index.js",
    "@moq/web-socket-stream": "@moq/web-socket-stream/index.js",
    "@zod/mini": "@zod/mini/index.js",
    "zod/mini": "zod/mini/index.js",
    "async-mutex": "async-mutex/index.mjs",
    "bowser": "bowser/bowser.mjs",
}


def find_chromium() -> str:
    """Where a Chromium is. Raises RuntimeError saying how to get one."""
    found = next(filter(None, map(shutil.which, _CHROMIUMS)), None)
    if found is None:
        raise RuntimeError(
            f"none of {', '.join(_CHROMIUMS)} is installed: `apt-get install chromium`, or any "
            "other way to get one onto PATH"
        )
    return found


def launch_chromium(playwright: Playwright) -> Browser:
    """A headless browser."""
    return playwright.chromium.launch(
        executable_path=find_chromium(),
        # Containers run tests as root, and give them little shared memory.
        args=["--no-sandbox", "--disable-dev-shm-usage"],
    )


@attrs.define
class Program:
    """A process that prints JSON lines."""

    process: subprocess.Popen[bytes]

    def read(self) -> dict[str, Any]:
        """The next line. Waits for it as long as the test may take."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended with {self.process.wait()}"
        message: dict[str, Any] = json.loads(line)
        return message

    def stop(self) -> None:
        """Press Ctrl-C, and wait until it has ended."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(_STOP_SECONDS)


@contextmanager
def running(*command: str) -> Iterator[Program]:
    """A Python program while inside."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process.stdout:
        try:
            yield Program(process)
        finally:
            process.kill()
            process.wait()


@attrs.define
class Server:
    """A running ``moqtrio serve --web``."""

    program: Program
    page: str
    fingerprint: str

    @property
    def port(self) -> str:
        return self.page.rstrip("/").rsplit(":", 1)[1]

    def wait_for_history(self, group: int = HISTORY) -> None:
        """Wait for this group; by default until there are some that only the store has."""
        subprocess.run(
            [
                *(sys.executable, "-m", "moqtrio", "subscribe", f"moqt://127.0.0.1:{self.port}"),
                *(BROADCAST, TRACK, "--from", str(group), "--until", str(group + 1)),
                *("--tls-fingerprint", self.fingerprint),
            ],
            stdout=subprocess.DEVNULL,
            check=True,
        )


@contextmanager
def serving(store: Path, *, port: str = "0", group_frames: int = 5) -> Iterator[Server]:
    """This machine's telemetry, 50 frames a second, of which memory keeps little."""
    with running(
        *("-W", "error", "-m", "moqtrio", "serve", f"moqt://127.0.0.1:{port}", "--web"),
        *("--broadcast", BROADCAST, "--track", TRACK, "--input", "telemetry"),
        *("--group-frames", str(group_frames), "--cache-age", "1s", "--store", str(store)),
        *("--tls-generate", "localhost"),
    ) as program:
        ready = program.read()
        yield Server(program, ready["web"], ready["fingerprint"])


@contextmanager
def opened(context: BrowserContext) -> Iterator[Page]:
    """A new page in which nothing must go wrong."""
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # Browsers ask for the latter where a page names no icon.
        asked = message.location["url"]
        if message.type in ("error", "warning") and not asked.endswith("/favicon.ico"):
            complaints.append(message.text)

    page = context.new_page()
    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("crash", lambda _: complaints.append("the page crashed"))
    yield page
    assert [each for each in complaints if not _comes_from_lost_server(each)] == []


def _comes_from_lost_server(complaint: str) -> bool:
    """Browsers say on the console what the page is told as well, and shows."""
    return complaint.startswith(
        (
            "Failed to load resource: net::ERR_CONNECTION_REFUSED",
            "Failed to establish a connection to https://",
        )
    )


@contextmanager
def serving_npm() -> Iterator[str]:
    """A web server, at the URL that comes out, whose page can import @moq/net.

    Routes of playwright would do without a server, but then browsers take the page for one
    from the internet, and keep it from servers on the local network.
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), _NpmHandler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


class _NpmHandler(SimpleHTTPRequestHandler):
    extensions_map: ClassVar[dict[str, str]] = {"": "text/javascript"}

    def __init__(self, *args: Any) -> None:
        super().__init__(*args, directory=str(NODE_MODULES))

    def do_GET(self) -> None:
        if self.path != "/":
            super().do_GET()
            return
        imports = {"imports": {name: f"/{path}" for name, path in _IMPORTS.items()}}
        html = f'<!doctype html><script type="importmap">{json.dumps(imports)}</script>'
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(html.encode())

    def log_message(self, *args: Any) -> None:
        """Say nothing."""
