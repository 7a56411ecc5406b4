"""``moqtrio fetch``: one group."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

import moqtrio

from .failures import Failure, describe_code
from .options import (
    CLIENT_TLS,
    GENERAL,
    PROTOCOL,
    ClientTlsOptions,
    GeneralOptions,
    ProtocolOptions,
    SequenceNumber,
    Url,
)
from .output import open_output
from .receiving import GroupPrinter, explain_refusal

_WITHOUT_FETCH = (moqtrio.LITE_03.name, moqtrio.LITE_04.name)


async def fetch(
    url: Url,
    broadcast: str,
    track: str,
    sequence: SequenceNumber,
    /,
    *,
    frames: bool = False,
    tls: Annotated[ClientTlsOptions, Parameter(name="*")] = CLIENT_TLS,
    protocol: Annotated[ProtocolOptions, Parameter(name="*")] = PROTOCOL,
    general: Annotated[GeneralOptions, Parameter(name="*")] = GENERAL,
) -> None:
    """Get one group and print its frames, each followed by a newline.

    Parameters
    ----------
    url
        The server, as https://HOST:PORT/PATH, or moqt://HOST:PORT for raw QUIC.
    broadcast
        The broadcast's path.
    track
        The track's name.
    sequence
        The group's sequence.
    frames
        With --json, print each frame, its payload in base64.
    """
    client_tls = tls.build(url)
    async with (
        open_output() as output,
        moqtrio.open_session(url, tls=client_tls, versions=protocol.build()) as session,
    ):
        if session.version in _WITHOUT_FETCH:
            raise Failure(
                f"{session.version} cannot fetch a group (both sides need moq-lite-05 or later)",
                f"moqtrio subscribe --from {sequence} --until {sequence + 1} gets it",
            )
        printer = GroupPrinter(output, general, frames=frames)
        try:
            # Asked for by itself, to tell a track that is not there from a group.
            await session.track_info(broadcast, track)
        except moqtrio.RequestError as error:
            raise await explain_refusal(session, broadcast, error) from error
        try:
            group = await session.fetch(broadcast, track, sequence)
            await printer.print_group(group)
        except (moqtrio.RequestError, moqtrio.StreamReset) as error:
            raise Failure(
                f"group {sequence} of {broadcast}/{track} is not available: "
                f"{describe_code(error.code)}"
            ) from error
