"""``moqtrio serve``: publish a track to whoever connects."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Annotated

import trio
from cyclopts import Parameter

import moqtrio

from .options import (
    GENERAL,
    PROTOCOL,
    SERVER_TLS,
    GeneralOptions,
    ListeningUrl,
    ProtocolOptions,
    ServerTlsOptions,
    SourceOptions,
)
from .output import open_output
from .publishing import open_publication
from .web import make_routes, page_url

# Seconds for clients to get the rest, when the server has been told to stop.
_GRACE = 2.0


async def serve(
    url: ListeningUrl,
    /,
    *,
    source: Annotated[SourceOptions, Parameter(name="*")],
    web: bool = False,
    tls: Annotated[ServerTlsOptions, Parameter(name="*")] = SERVER_TLS,
    protocol: Annotated[ProtocolOptions, Parameter(name="*")] = PROTOCOL,
    general: Annotated[GeneralOptions, Parameter(name="*")] = GENERAL,
) -> None:
    """Publish a track to whoever connects.

    Prints one JSON line with the URL and the certificate's fingerprint when it is ready, and
    with --json one with the track's statistics every second. The end of the input finishes
    the track, which stays available until Ctrl-C. Then clients get what is on its way to them, for
    two seconds at most; a second Ctrl-C ends it at once.

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
        open_server(
            partial(
                moqtrio.serve,
                publication.origin,
                url,
                tls=server_tls,
                versions=protocol.build(),
                routes=routes,
            )
        ) as listener,
    ):
        # What there is now stays: looking through it for garbage takes tens of milliseconds,
        # in which nothing is sent.
        gc.freeze()
        page = {"web": page_url(listener.url)} if web else {}
        await output.write_json(
            {"type": "listening", "url": listener.url, "fingerprint": listener.fingerprint, **page}
        )
        await publication.run(output, json=general.json)


@asynccontextmanager
async def open_server(serve: Callable[..., Awaitable[None]]) -> AsyncIterator[moqtrio.Listener]:
    """Run a server for the block.

    When that ends, or is interrupted, clients are told (GOAWAY), and what is on its way to them
    has a short while to arrive.
    """
    async with trio.open_nursery() as nursery:
        listener, running = await nursery.start(_run_shielded, serve)
        try:
            yield listener
        finally:
            try:
                with trio.CancelScope(shield=True):
                    await listener.go_away(grace=_GRACE)
            finally:
                running.cancel()


async def _run_shielded(
    serve: Callable[..., Awaitable[None]],
    *,
    task_status: trio.TaskStatus[tuple[moqtrio.Listener, trio.CancelScope]],
) -> None:
    with trio.CancelScope(shield=True) as running:
        async with trio.open_nursery() as nursery:
            task_status.started((await nursery.start(serve), running))
