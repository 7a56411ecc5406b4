"""``moqtrio announced``: what a server offers, as it comes and goes."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

import moqtrio

from .options import CLIENT_TLS, GENERAL, ClientTlsOptions, GeneralOptions, Url
from .output import open_output


async def announced(
    url: Url,
    prefix: str = "",
    /,
    *,
    tls: Annotated[ClientTlsOptions, Parameter(name="*")] = CLIENT_TLS,
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
    client_tls = tls.build()
    async with (
        open_output() as output,
        moqtrio.open_session(url, tls=client_tls) as session,
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
