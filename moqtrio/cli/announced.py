"""``moqtrio announced``: what a server offers, as it comes and goes."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

import moqtrio

from .options import (
    CLIENT_TLS,
    GENERAL,
    PROTOCOL,
    ClientTlsOptions,
    GeneralOptions,
    ProtocolOptions,
    Url,
)
from .output import open_output


async def announced(
    url: Url,
    prefix: str = "",
    /,
    *,
    tls: Annotated[ClientTlsOptions, Parameter(name="*")] = CLIENT_TLS,
    protocol: Annotated[ProtocolOptions, Parameter(name="*")] = PROTOCOL,
    general: Annotated[GeneralOptions, Parameter(name="*")] = GENERAL,
) -> None:
    """List the broadcasts a server announces, and follow their coming (+) and going (-).

    Runs until Ctrl-C.

    Parameters
    ----------
    url
        The server, as https://HOST:PORT/PATH, or moqt://HOST:PORT for raw QUIC.
    prefix
        Only broadcasts whose path begins so.
    """
    client_tls = tls.build(url)
    async with (
        open_output() as output,
        moqtrio.open_session(url, tls=client_tls, versions=protocol.build()) as session,
        session.announced(prefix) as announcements,
    ):
        async for announcement in announcements:
            if general.json:
                await output.write_json(
                    {
                        "type": "announced",
                        "path": announcement.path,
                        "active": announcement.active,
                    }
                )
            else:
                sign = "+" if announcement.active else "-"
                await output.write(f"{sign} {announcement.path}\n".encode())
