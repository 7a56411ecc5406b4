"""The unidirectional streams of the peer: groups, and its SETUP."""

from __future__ import annotations

import logging
from functools import partial
from typing import Protocol

import attrs
import trio

from ..errors import DecodeError, StreamCode, StreamReset
from ..transport.connection import Connection, ReceiveStream
from ..wire import Version, lite
from .limits import Guard
from .patience import patiently
from .setup import PeerSetup

logger: logging.Logger = logging.getLogger("moqtrio.session")

_HEADER_BYTES = 64
_ACCEPTED_PER_TURN = 64


class GroupTaker(Protocol):
    """Whom groups are handed to."""

    def take_group(
        self,
        subscribe_id: int,
        sequence: int,
        frame_start: int,
        stream: ReceiveStream,
        skip: int = 0,
        preload: bytes = b"",
    ) -> None:
        """A group's stream has begun. Stops the stream where it is not wanted.

        Args:
            subscribe_id: whose group it is.
            sequence: which group.
            frame_start: which of its frames comes first.
            stream: its bytes.
            skip: how many of them, at the start, are not frames.
            preload: frames' bytes that were taken from ``stream`` already.

        Raises DecodeError for what is not a group that was asked for.
        """
        ...


class IncomingStreams:
    """Finds out what each stream is, and hands it to whom it is for."""

    def __init__(
        self,
        connection: Connection,
        version: Version,
        setup: PeerSetup,
        groups: GroupTaker,
        guard: Guard,
    ) -> None:
        self._connection = connection
        self._version = version
        self._setup = setup
        self._groups = groups
        self._guard = guard

    async def run(self, nursery: trio.Nursery) -> None:
        """Take all that come, many in one go; ``nursery`` is for those that are slow.

        Raises SessionClosed when the connection is over, ProtocolError for what ends the
        session.
        """
        while True:
            self._route(await self._connection.accept_uni(), nursery)
            try:
                for _ in range(_ACCEPTED_PER_TURN):
                    self._route(self._connection.accept_uni_nowait(), nursery)
            except trio.WouldBlock:
                pass

    def _route(self, stream: ReceiveStream, nursery: trio.Nursery) -> None:
        """Look at the start of a stream; where that is not all there, do so later."""
        try:
            header = lite.decode_group_header(stream.peek_nowait(), self._version)
        except trio.WouldBlock:
            header = None
        except StreamReset:
            return
        if header is None:
            nursery.start_soon(self._route_slowly, stream)
        else:
            subscribe_id, sequence, frame_start, consumed = header
            try:
                self._groups.take_group(subscribe_id, sequence, frame_start, stream, consumed)
            except DecodeError as error:
                self._refuse(stream, error)

    async def _route_slowly(self, stream: ReceiveStream) -> None:
        """A stream whose first bytes come one by one, or that is no group at all."""
        data = bytearray()
        try:
            header = await patiently(
                self._connection, partial(_read_header, stream, data, self._version)
            )
            rest = bytes(data[header.consumed :])
            if header.group is not None:
                subscribe_id, sequence, frame_start = attrs.astuple(header.group)
                self._groups.take_group(subscribe_id, sequence, frame_start, stream, preload=rest)
            elif header.stream_type == lite.UniStreamType.SETUP and not self._setup_is_unknown:
                await self._receive_setup(rest, stream)
            else:
                number = header.stream_type
                logger.info("%s: unknown stream type %d", self._connection.remote_address, number)
                stream.stop(StreamCode.CANCEL)
        except StreamReset:
            return
        except trio.TooSlowError:
            self._refuse(stream, DecodeError("the stream's header did not come"))
        except DecodeError as error:
            self._refuse(stream, error)

    @property
    def _setup_is_unknown(self) -> bool:
        return not lite.Setup.exists_in(self._version)

    async def _receive_setup(self, data: bytes, stream: ReceiveStream) -> None:
        decoder = lite.MessageDecoder(self._version)
        decoder.feed(data)
        self._setup.receive(
            await patiently(self._connection, partial(_read_setup, stream, decoder))
        )
        stream.stop(StreamCode.INTERNAL)

    def _refuse(self, stream: ReceiveStream, error: DecodeError) -> None:
        address = self._connection.remote_address
        logger.warning("%s: bad stream %d: %s", address, stream.stream_id, error)
        stream.stop(StreamCode.MALFORMED)
        self._guard.offended(str(error))


async def _read_header(stream: ReceiveStream, data: bytearray, version: Version) -> lite.UniHeader:
    """The start of a stream, whose bytes go to ``data`` as they come."""
    while (header := lite.decode_uni_header(data, version)) is None:
        more = await stream.receive_some(_HEADER_BYTES)
        if not more:
            raise DecodeError("the stream ended within its header")
        data += more
    return header


async def _read_setup(stream: ReceiveStream, decoder: lite.MessageDecoder) -> lite.Setup:
    while (setup := decoder.next_message(lite.Setup)) is None:
        more = await stream.receive_some()
        if not more:
            raise DecodeError("the stream ended within SETUP")
        decoder.feed(more)
    return setup
