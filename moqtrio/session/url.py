"""The URLs of sessions."""

from __future__ import annotations

from urllib.parse import urlsplit

import attrs

SCHEMES = ("moqt", "moql")


@attrs.frozen
class SessionUrl:
    """Where a session goes, taken apart.

    Attributes:
        host: a name or an address, without brackets.
        port: the UDP port.
        path: path and query, as the server is told of them; None for the root.
    """

    host: str
    port: int
    path: str | None

    @classmethod
    def parse(cls, url: str) -> SessionUrl:
        """Take apart ``moqt://HOST:PORT/PATH?QUERY`` (raw QUIC; ``moql://`` is the same).

        Raises ValueError saying what is wrong with it.
        """
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES:
            raise ValueError(
                f"{url!r} is not a URL this can connect to: expected moqt://HOST:PORT, "
                f"got the scheme {parts.scheme or 'nothing'!r}"
            )
        try:
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{url!r} has a bad port: {error}") from None
        if not parts.hostname:
            raise ValueError(f"{url!r} has no host: expected moqt://HOST:PORT")
        if port is None:
            raise ValueError(f"{url!r} has no port: expected moqt://HOST:PORT, such as :4443")
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        return cls(parts.hostname, port, None if path in ("", "/") else path)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"moqt://{host}:{self.port}{self.path or ''}"
