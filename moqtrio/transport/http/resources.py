"""What a server has to show, by path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import attrs

from ..tls import ServerTls

FINGERPRINT_PATH = "/certificate.sha256"
"""Where clients look for the fingerprint of a development certificate, over plain HTTP."""


@attrs.frozen(kw_only=True)
class Resource:
    """The answer to a GET.

    Attributes:
        body: what is there.
        content_type: its media type, with the charset of a text.
        cache_control: how long whoever got it may keep it (RFC 9111 section 5.2).
        any_origin: whether pages of other sites may read it.
        headers: further header fields, such as a content security policy.
    """

    body: bytes
    content_type: str = "text/plain; charset=utf-8"
    cache_control: str = "no-cache"
    any_origin: bool = False
    headers: tuple[tuple[str, str], ...] = ()


Routes: TypeAlias = Mapping[str, Resource | Callable[[], Resource]]
"""Resources by path, without a query. A function is called for each request, and must not
block."""


def fingerprint_route(tls: ServerTls) -> Callable[[], Resource]:
    """The SHA-256 of the certificate that new connections get, in hexadecimal."""

    def fingerprint() -> Resource:
        return Resource(
            body=tls.fingerprint.encode("ascii"), cache_control="no-store", any_origin=True
        )

    return fingerprint
