"""Groups of one small frame as QUIC datagrams (draft-lcurley-moq-lite, "Datagrams")."""

from __future__ import annotations

from collections import deque
from typing import Protocol

import trio

from ..errors import DecodeError
from ..model import Frame
from ..replay import LiveReader
from ..replay.resolver import Reader
from ..transport.connection import Connection
from ..wire.lite import Datagram, microseconds_to_ticks, ticks_to_microseconds
from .group_stream import StreamGroupConsumer

MAX_DATAGRAM = 1200
"""What a datagram may have altogether ("Datagrams")."""
MAX_UNREAD = 1024
"""Datagrams of one subscription that may wait for the application: nothing else holds their
sender up."""

_BACKLOG = 4096  # unsent bytes that say that not everything can be sent at once


class DatagramGroup(StreamGroupConsumer):
    """A group of one frame that has arrived as a datagram."""

    __slots__ = ()

    def __init__(self, sequence: int, frame: Frame) -> None:
        self._sequence = sequence
        self._frames: deque[Frame] = deque((frame,))
        self._ended = True
        self._error: Exception | None = None


class DatagramTaker(Protocol):
    """Whom datagrams are handed to."""

    def take_datagram(self, datagram: Datagram) -> None:
        """A datagram has arrived, perhaps one that nobody wants."""
        ...


async def receive_datagrams(connection: Connection, taker: DatagramTaker) -> None:
    """Hand over what arrives. What is too large or malformed is dropped, as the draft wants.

    Raises SessionClosed when the connection is over.
    """
    while True:
        data = await connection.receive_datagram()
        if len(data) <= MAX_DATAGRAM:
            try:
                datagram = Datagram.decode(data)
            except DecodeError:
                continue
            taker.take_datagram(datagram)


def group_of(datagram: Datagram, timescale: int) -> DatagramGroup:
    """The group a datagram is."""
    timestamp_us = ticks_to_microseconds(datagram.timestamp_ticks, timescale)
    return DatagramGroup(datagram.sequence, Frame(datagram.payload, timestamp_us))


class DatagramSender:
    """Sends groups of one subscription as datagrams, where that can be.

    Args:
        connection: the subscriber.
        subscribe_id: the subscription.
        timescale: timestamp units per second on the wire.
    """

    def __init__(self, connection: Connection, subscribe_id: int, timescale: int) -> None:
        self._connection = connection
        self._id = subscribe_id
        self._timescale = timescale

    def send(self, reader: Reader) -> bool:
        """Send a group that has just begun to be read; False where it needs a stream.

        It does unless it is a complete group of one frame, in memory, that fits and can be
        sent at once: what had to wait would be late, and lost if it waited too long.
        """
        frame = reader.only_frame if isinstance(reader, LiveReader) else None
        connection = self._connection
        largest = connection.max_datagram_size
        if frame is None or largest is None or len(frame.payload) > largest:
            return False
        ticks = microseconds_to_ticks(frame.timestamp_us, self._timescale)
        data = Datagram(self._id, reader.sequence, ticks, frame.payload).encode()
        if len(data) > min(largest, MAX_DATAGRAM):
            return False
        if connection.statistics().send_buffered > _BACKLOG:
            return False
        try:
            connection.send_datagram_nowait(data)
        except trio.WouldBlock:
            return False
        reader.close()
        return True
