"""The URLs of sessions."""

from __future__ import annotations

from enum import Enum
from urllib.parse import quote, urlsplit

import attrs

_DEFAULT_PORTS = {"moqt": 443, "moql": 443, "https": 443, "wss": 443, "http": 80, "ws": 80}
SCHEMES: tuple[str, ...] = tuple(_DEFAULT_PORTS)
"""What a URL may start with."""

EXPECTED = "expected https://HOST:PORT or moqt://HOST:PORT (http, moql, wss and ws are known too)"
_LISTENING_SCHEMES = ("https", "http", "moqt", "moql")

# What a request's target may hold as it is (RFC 3986 sections 3.3 and 3.4); "%" because what
# is encoded already stays so.
_TARGET_CHARACTERS = "/?:@!$&'()*+,;=-._~%"


def _as_ascii(host: str) -> str:
    """A name as DNS, TLS and HTTP have it (RFC 3490, IDNA). Raises UnicodeError."""
    return host.encode("idna").decode("ascii")


class Binding(Enum):
    """What carries a session."""

    QUIC = "raw QUIC"
    WEB = "WebTransport, or WebSocket where UDP is blocked"
    WEBSOCKET = "WebSocket"


@attrs.frozen
class SessionUrl:
    """Where a session goes, taken apart.

    Attributes:
        scheme: one of :data:`SCHEMES`.
        host: a name or an address, without brackets.
        port: the UDP port of QUIC and WebTransport, the TCP port of WebSocket.
        path: path and query, as the server is told of them; None for the root.
    """

    scheme: str
    host: str
    port: int
    path: str | None = None

    @classmethod
    def parse(cls, url: str) -> SessionUrl:
        """Take apart ``SCHEME://HOST:PORT/PATH?QUERY``.

        The port is optional: 443, or 80 for ``http`` and ``ws``. A fragment is the client's
        own and left out.

        Raises ValueError saying what is wrong with it.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{url!r} is not a URL: {error}") from None
        if "://" not in url:
            raise ValueError(f"{url!r} has no scheme: {EXPECTED}")
        if parts.scheme not in _DEFAULT_PORTS:
            raise ValueError(
                f"{url!r} is not a URL this can connect to: {EXPECTED}, "
                f"got the scheme {parts.scheme!r}"
            )
        if not parts.hostname:
            raise ValueError(f"{url!r} has no host: {EXPECTED}")
        if "@" in parts.netloc:
            raise ValueError(
                f"the URL of {parts.hostname} has a user name: a token goes into the query, "
                "as ?jwt=TOKEN"
            )
        try:
            host = parts.hostname if ":" in parts.hostname else _as_ascii(parts.hostname)
        except UnicodeError as error:
            raise ValueError(f"{parts.hostname!r} is no name of a host: {error}") from None
        target = quote(parts.path + (f"?{parts.query}" if parts.query else ""), _TARGET_CHARACTERS)
        return cls(
            parts.scheme,
            host,
            _DEFAULT_PORTS[parts.scheme] if port is None else port,
            None if target in ("", "/") else target,
        )

    @classmethod
    def parse_to_connect(cls, url: str) -> SessionUrl:
        """The same, for a client, which needs a real port. Raises ValueError."""
        parsed = cls.parse(url)
        if parsed.port == 0:
            raise ValueError(f"{url!r} has port 0: expected the one the server prints")
        return parsed

    @classmethod
    def parse_to_listen(cls, url: str) -> SessionUrl:
        """The same, for a server, which has no path. Raises ValueError."""
        parsed = cls.parse(url)
        if parsed.scheme not in _LISTENING_SCHEMES:
            raise ValueError(
                f"{url!r} is not what a server listens on: expected https://HOST:PORT, which "
                f"takes WebSockets too, got the scheme {parsed.scheme!r}"
            )
        if parsed.path is not None:
            raise ValueError(
                f"{url!r} has a path: a server listens on https://HOST:PORT, and its clients "
                "may ask for any path"
            )
        return parsed

    @property
    def binding(self) -> Binding:
        """What carries a session to this URL."""
        if self.scheme in ("moqt", "moql"):
            return Binding.QUIC
        return Binding.WEBSOCKET if self.scheme in ("ws", "wss") else Binding.WEB

    @property
    def is_encrypted(self) -> bool:
        """Whether what goes over TCP to this URL goes through TLS. QUIC always does."""
        return self.scheme not in ("http", "ws")

    @property
    def authority(self) -> str:
        """``HOST:PORT``, with brackets around an IPv6 address."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def target(self) -> str:
        """Path and query as HTTP wants them: never empty, and starting with a slash."""
        path = self.path or "/"
        return path if path.startswith("/") else f"/{path}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path or ''}"
