"""The page that ``serve --web`` shows: what is served, and where it is opened."""

from __future__ import annotations

import ipaddress
import json
from importlib.resources import files

from ..session.url import SessionUrl
from ..transport.http import Resource, Routes

_CONTENT_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Nothing from elsewhere, nothing inline, in nobody's frame. 127.0.0.1 is where the page goes
# over WebTransport when it was opened as localhost.
_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self' https://127.0.0.1:*",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = (
    ("Content-Security-Policy", _SECURITY_POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
)
_START = "index.html"
_THIS_MACHINE = "127.0.0.1"
_EVERYWHERE = ("localhost", "::", "0.0.0.0")


def make_routes(broadcast: str, track: str) -> Routes:
    """The page's files at ``/``, and which track it begins with. Reads files."""
    routes = {
        f"/{file.name}": Resource(
            body=file.read_bytes(),
            content_type=_CONTENT_TYPES[file.name[file.name.rindex(".") :]],
            headers=_HEADERS,
        )
        for file in (files("moqtrio.web") / "page").iterdir()
    }
    stream = json.dumps({"broadcast": broadcast, "track": track}).encode()
    return {
        **routes,
        "/": routes[f"/{_START}"],
        "/stream.json": Resource(
            body=stream, content_type="application/json; charset=utf-8", headers=_HEADERS
        ),
    }


def page_url(listening: str) -> str:
    """Where to open the page of a server that listens at the URL ``listening``.

    Browsers allow WebTransport on secure pages only: those over TLS, or of this machine itself.
    """
    url = SessionUrl.parse(listening)
    host = _THIS_MACHINE if url.host in _EVERYWHERE else url.host
    scheme = "http" if _is_loopback(host) else "https"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{url.port}/"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
