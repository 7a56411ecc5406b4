"""``moqtrio subscribe``: follow a track."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

import moqtrio

from .failures import Failure, UsageError
from .options import (
    CLIENT_TLS,
    GENERAL,
    PROTOCOL,
    RECONNECT,
    ClientTlsOptions,
    GeneralOptions,
    ProtocolOptions,
    ReconnectOptions,
    SequenceNumber,
    Url,
)
from .output import open_output
from .positions import Moment, check_range, find_start, parse_start
from .progress import Progress
from .receiving import GroupPrinter, explain_refusal


async def subscribe(
    url: Url,
    broadcast: str,
    track: str,
    /,
    *,
    from_: Annotated[
        str,
        Parameter(name="--from", metavar="SEQ|oldest|latest|TIME", allow_leading_hyphen=True),
    ] = "latest",
    until: Annotated[SequenceNumber | None, Parameter(metavar="SEQ")] = None,
    frames: bool = False,
    reconnect: Annotated[ReconnectOptions, Parameter(name="*")] = RECONNECT,
    tls: Annotated[ClientTlsOptions, Parameter(name="*")] = CLIENT_TLS,
    protocol: Annotated[ProtocolOptions, Parameter(name="*")] = PROTOCOL,
    general: Annotated[GeneralOptions, Parameter(name="*")] = GENERAL,
) -> None:
    """Follow a track and print its frames, each followed by a newline.

    Groups come in order. A group that cannot be had is reported, never skipped in silence.
    Ends with the track.

    Parameters
    ----------
    url
        The server, as https://HOST:PORT/PATH, or moqt://HOST:PORT for raw QUIC.
    broadcast
        The broadcast's path.
    track
        The track's name.
    from_
        The first group: its sequence, the oldest there is, the latest, or by time: -10m is
        ten minutes ago, 2026-11-22T10:00:00Z that instant, without the Z by local time.
    until
        The first group that is not wanted any more.
    frames
        With --json, print each frame, its payload in base64.
    """
    wanted = parse_start(from_)
    check_range(None if isinstance(wanted, Moment) else wanted, until)
    if frames and not general.json:
        raise UsageError("--frames goes with --json; without it payloads are printed anyway")
    client_tls = tls.build(url)
    async with (
        open_output() as output,
        moqtrio.open_session(
            url, tls=client_tls, versions=protocol.build(), reconnect=reconnect.build()
        ) as session,
    ):
        printer = GroupPrinter(output, general, frames=frames)
        start = await find_start(session, broadcast, track, wanted)
        check_range(start, until)
        try:
            async with session.subscribe(broadcast, track, start=start, end=until) as subscription:
                await _print_items(subscription, printer)
                await printer.print_end(_end(subscription.final, until))
        except moqtrio.RequestError as error:
            failure = await explain_refusal(session, broadcast, error)
            failure.hint = failure.hint or _how_to_go_on(printer)
            raise failure from error
        except moqtrio.SessionClosed as error:
            raise Failure(str(error), _how_to_go_on(printer)) from error


async def _print_items(
    subscription: moqtrio.Subscription | moqtrio.ResumingSubscription, printer: GroupPrinter
) -> None:
    with Progress(beside_output=True) as progress:
        async for item in subscription:
            match item:
                case moqtrio.Gap(start, end, code):
                    await printer.print_gap(start, end, code)
                case moqtrio.GroupConsumer() as group:
                    try:
                        await printer.print_group(group)
                    except moqtrio.StreamReset as error:
                        await printer.print_gap(group.sequence, group.sequence + 1, error.code)
                    progress.update(printer.describe)


def _how_to_go_on(printer: GroupPrinter) -> str | None:
    if printer.next_sequence is None:
        return None
    return f"subscribe again --from {printer.next_sequence} to go on where it ended"


def _end(final: int | None, until: int | None) -> int | None:
    """Below which every sequence has been accounted for."""
    return min((end for end in (final, until) if end is not None), default=None)
