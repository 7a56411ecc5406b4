"""``moqtrio publish``: publish a track through a relay."""

from __future__ import annotations

from typing import Annotated

import trio
from cyclopts import Parameter

import moqtrio

from .options import (
    CLIENT_TLS,
    GENERAL,
    PROTOCOL,
    RECONNECT,
    ClientTlsOptions,
    GeneralOptions,
    ProtocolOptions,
    ReconnectOptions,
    SourceOptions,
    Url,
)
from .output import open_output
from .publishing import open_publication
from .receiving import AnySession


async def publish(
    url: Url,
    /,
    *,
    source: Annotated[SourceOptions, Parameter(name="*")],
    reconnect: Annotated[ReconnectOptions, Parameter(name="*")] = RECONNECT,
    tls: Annotated[ClientTlsOptions, Parameter(name="*")] = CLIENT_TLS,
    protocol: Annotated[ProtocolOptions, Parameter(name="*")] = PROTOCOL,
    general: Annotated[GeneralOptions, Parameter(name="*")] = GENERAL,
) -> None:
    """Connect to a relay and publish a track through it.

    Prints one JSON line when it is connected. The end of the input finishes the track, which
    stays available until Ctrl-C.

    Parameters
    ----------
    url
        The relay, as https://HOST:PORT/PATH, or moqt://HOST:PORT for raw QUIC.
    """
    client_tls = tls.build(url)
    source.check()
    async with (
        open_output() as output,
        open_publication(source) as publication,
        moqtrio.open_session(
            url,
            publish=publication.origin,
            tls=client_tls,
            versions=protocol.build(),
            reconnect=reconnect.build(),
        ) as session,
        trio.open_nursery() as nursery,
    ):
        await output.write_json({"type": "connected", "url": url})
        nursery.start_soon(_fail_when_closed, session)
        await publication.run(output, json=general.json)
        nursery.cancel_scope.cancel()


async def _fail_when_closed(session: AnySession) -> None:
    raise await session.wait_closed()
