"""``moqtrio serve``: publish a track to whoever connects."""

from __future__ import annotations

import gc
from functools import partial
from typing import Annotated

import trio
from cyclopts import Parameter

import moqtrio

from .options import GENERAL, SERVER_TLS, GeneralOptions, ServerTlsOptions, SourceOptions, Url
from .output import open_output
from .publishing import open_publication
from .web import make_routes, page_url


async def serve(
    url: Url,
    /,
    *,
    source: Annotated[SourceOptions, Parameter(name="*")],
    web: bool = False,
    tls: Annotated[ServerTlsOptions, Parameter(name="*")] = SERVER_TLS,
    general: Annotated[GeneralOptions, Parameter(name="*")] = GENERAL,
) -> None:
    """Publish a track to whoever connects.

    Prints one JSON line with the URL and the certificate's fingerprint when it is ready, and
    with --json one with the track's statistics every second. The end of the input finishes
    the track, which stays available until Ctrl-C.

    Parameters
    ----------
    url
        Where to listen, as https://HOST:PORT or moqt://HOST:PORT, which is the same: raw QUIC and
        WebTransport over UDP, WebSocket over TCP. [::] is every address, port 0 picks a free
        one.
    web
        Serve a page for browsers too, that shows the track and goes back in its history. The
        printed line tells where to open it.
    """
    server_tls = tls.build()
    source.check()
    routes = make_routes(source.broadcast, source.track) if web else None
    async with (
        open_output() as output,
        open_publication(source) as publication,
        trio.open_nursery() as nursery,
    ):
        listener = await nursery.start(
            partial(moqtrio.serve, publication.origin, url, tls=server_tls, routes=routes)
        )
        # What there is now stays: looking through it for garbage takes tens of milliseconds,
        # in which nothing is sent.
        gc.freeze()
        page = {"web": page_url(listener.url)} if web else {}
        await output.write_json(
            {"type": "listening", "url": listener.url, "fingerprint": listener.fingerprint, **page}
        )
        await publication.run(output, json=general.json)
        nursery.cancel_scope.cancel()
