"""``serve --web``: the page is there, whole, and strict about what it may load."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from urllib.request import urlopen

import pytest
import trio
from cli_commands import running_moqtrio

from moqtrio.cli.web import make_routes, page_url
from moqtrio.transport.http import Resource

PAGE = files("moqtrio.web") / "page"
_REFERENCES = re.compile(r"""(?:from |href=|src=)"(?:\./)?([\w.]+)\"""")


async def test_serve_tells_where_the_page_is_and_serves_it() -> None:
    async with running_moqtrio(
        *("serve", "moqt://127.0.0.1:0", "--web", "--broadcast", "a/b", "--track", "t"),
        *("--tls-generate", "localhost"),
    ) as running:
        ready = await running.read_message()
        port = ready["url"].rpartition(":")[2]
        assert ready["web"] == f"http://127.0.0.1:{port}/"
        html, headers = await get(ready["web"])
        assert html == (PAGE / "index.html").read_bytes()
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        stream, _ = await get(f"{ready['web']}stream.json")
        assert json.loads(stream) == {"broadcast": "a/b", "track": "t"}
        fingerprint, _ = await get(f"{ready['web']}certificate.sha256")
        assert fingerprint.decode() == ready["fingerprint"]


async def get(url: str) -> tuple[bytes, dict[str, str]]:
    def blocking() -> tuple[bytes, dict[str, str]]:
        with urlopen(url, timeout=10) as answer:
            return answer.read(), dict(answer.headers)

    return await trio.to_thread.run_sync(blocking)


def test_everything_the_page_refers_to_is_served() -> None:
    routes = make_routes("b", "t")
    for file in PAGE.iterdir():
        for name in _REFERENCES.findall(file.read_text(encoding="utf-8")):
            assert f"/{name}" in routes, f"{file.name} refers to {name}"


def test_every_file_has_its_type_and_the_policy() -> None:
    routes = make_routes("b", "t")
    types = {}
    for path, resource in routes.items():
        assert isinstance(resource, Resource)
        types[path] = resource.content_type
        names = {name for name, _ in resource.headers}
        assert names == {"Content-Security-Policy", "X-Content-Type-Options", "Referrer-Policy"}
    assert types["/"] == "text/html; charset=utf-8"
    assert types["/app.js"] == "text/javascript; charset=utf-8"
    assert types["/style.css"] == "text/css; charset=utf-8"


@pytest.mark.parametrize(
    ("listening", "page"),
    [
        ("moqt://127.0.0.1:4443", "http://127.0.0.1:4443/"),
        ("moqt://localhost:4443", "http://127.0.0.1:4443/"),
        ("https://[::]:4443", "http://127.0.0.1:4443/"),
        ("moqt://0.0.0.0:4443", "http://127.0.0.1:4443/"),
        ("moqt://[::1]:4443", "http://[::1]:4443/"),
        ("moqt://example.org:4443", "https://example.org:4443/"),
        ("moqt://[2001:db8::1]:4443", "https://[2001:db8::1]:4443/"),
    ],
)
def test_the_page_is_opened_where_browsers_allow_webtransport(listening: str, page: str) -> None:
    assert page_url(listening) == page
