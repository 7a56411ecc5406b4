"""``moqtrio publish``: publish a track through a relay."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

import moqtrio

from .options import CLIENT_TLS, GENERAL, ClientTlsOptions, GeneralOptions, SourceOptions, Url
from .output import open_output
from .publishing import open_publication


async def publish(
    url: Url,
    /,
    *,
    source: Annotated[SourceOptions, Parameter(name="*")],
    tls: Annotated[ClientTlsOptions, Parameter(name="*")] = CLIENT_TLS,
    general: Annotated[GeneralOptions, Parameter(name="*")] = GENERAL,
) -> None:
    """Connect to a relay and publish a track through it.

    Prints one JSON line when it is connected. The end of the input finishes the track, which
    stays available until Ctrl-C.

    Parameters
    ----------
    url
        The relay, as moqt://HOST:PORT.
    """
    client_tls = tls.build()
    source.check()
    async with (
        open_output() as output,
        open_publication(source) as publication,
        moqtrio.open_session(url, publish=publication.origin, tls=client_tls),
    ):
        await output.write_json({"type": "connected", "url": url})
        await publication.run(output, json=general.json)
