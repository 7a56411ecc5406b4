"""Listens to the bytes between two sessions, with a decoder of its own.

Every byte either side hands to the transport goes through here first, in the order in which
it does. What a publisher says is judged by that, and not by what the subscriber's half of the
same code makes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import attrs

from moqtrio.transport import memory
from moqtrio.wire import Version

_SUBSCRIBE = 2


@attrs.frozen
class Wishes:
    """What a subscriber asks for.

    Attributes:
        start: the first group wanted.
        end: the first not wanted any more.
        max_latency: in seconds.
        is_latest: whether it starts with the latest group, if that is at or above ``start``.
    """

    start: int
    end: int | None
    max_latency: float
    is_latest: bool


class Listener(Protocol):
    """What one subscription's publisher says."""

    def ok(self, start: int) -> None: ...
    def track_end(self, end: int) -> None: ...
    def drop(self, start: int, end: int, code: int) -> None: ...
    def group_begun(self, sequence: int) -> None: ...
    def group_over(self, sequence: int, code: int | None) -> None: ...
    def group_taken_back(self, sequence: int, code: int) -> None: ...
    def group_stopped(self, sequence: int) -> None: ...
    def update(self, wishes: Wishes) -> None: ...
    def left(self) -> None: ...
    def over(self, code: int | None) -> None: ...


NewListener = Callable[[Wishes], Listener]
"""Called for each SUBSCRIBE, in the context of the task that sends it."""


class Fields:
    """Takes varints from bytes; None where there are not enough."""

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = data
        self.at = 0

    def varint(self) -> int | None:
        data, at = self._data, self.at
        if at >= len(data):
            return None
        size = 1 << (data[at] >> 6)
        if at + size > len(data):
            return None
        value = data[at] & 0x3F
        for byte in data[at + 1 : at + size]:
            value = value << 8 | byte
        self.at = at + size
        return value

    def must(self) -> int:
        value = self.varint()
        assert value is not None, f"a message that is too short: {bytes(self._data)!r}"
        return value

    def optional(self) -> int | None:
        """0 is nothing, and one more than a number stands for the number."""
        value = self.must()
        return value - 1 if value else None

    def skip(self, count: int) -> None:
        self.at += count

    def message(self) -> Fields | None:
        """A length and as many bytes."""
        length = self.varint()
        if length is None or self.at + length > len(self._data):
            return None
        body = Fields(self._data[self.at : self.at + length])
        self.at += length
        return body

    def rest(self) -> bytearray:
        return bytearray(self._data[self.at :])


class Tap:
    """Both directions of one pair of connections, which speak draft 05 or a later one."""

    def __init__(self, version: Version, new_listener: NewListener) -> None:
        self._wishes = _wishes_05 if version.draft < 6 else _wishes
        self._new_listener = new_listener
        self._buffers: dict[tuple[bool, int], bytearray] = {}
        self._subscriptions: dict[int, Listener] = {}  # by the id of the subscribe stream
        self._by_id: dict[int, Listener] = {}
        self._groups: dict[int, tuple[Listener, int]] = {}
        self._finished: dict[int, tuple[Listener, int]] = {}
        self._stopped: set[int] = set()
        self._request: set[int] = set()  # bidirectional streams that are something else

    def sent(self, by_server: bool, stream_id: int, data: bytes, finish: bool) -> None:
        if stream_id & 2:
            if by_server:
                self._group_sent(stream_id, data, finish)
        elif stream_id not in self._request:
            buffer = self._buffers.setdefault((by_server, stream_id), bytearray())
            buffer += data
            if by_server:
                self._responses(stream_id, buffer, finish)
            else:
                self._requests(stream_id, buffer, finish)

    def reset(self, by_server: bool, stream_id: int, code: int) -> None:
        if by_server and stream_id in self._groups:
            listener, sequence = self._groups.pop(stream_id)
            listener.group_over(sequence, code)
        elif by_server and stream_id in self._finished:
            listener, sequence = self._finished.pop(stream_id)
            listener.group_taken_back(sequence, code)
        elif stream_id in self._subscriptions:
            listener = self._subscriptions[stream_id]
            if by_server:
                listener.over(code)
            else:
                listener.left()

    def stopped(self, by_server: bool, stream_id: int) -> None:
        """One side reads no further."""
        if by_server:
            return
        if stream_id in self._groups:
            listener, sequence = self._groups.pop(stream_id)
            listener.group_stopped(sequence)
            self._stopped.add(stream_id)
        elif stream_id in self._subscriptions:
            self._subscriptions[stream_id].left()

    def _group_sent(self, stream_id: int, data: bytes, finish: bool) -> None:
        if stream_id in self._stopped:
            return
        known = self._groups.get(stream_id)
        if known is None:
            buffer = self._buffers.setdefault((True, stream_id), bytearray())
            buffer += data
            fields = Fields(buffer)
            if fields.varint() != 0 or (header := fields.message()) is None:
                return  # SETUP
            listener, sequence = self._by_id[header.must()], header.must()
            del self._buffers[True, stream_id]
            listener.group_begun(sequence)
            self._groups[stream_id] = known = (listener, sequence)
        if finish:
            self._finished[stream_id] = self._groups.pop(stream_id)
            known[0].group_over(known[1], None)

    def _requests(self, stream_id: int, buffer: bytearray, finish: bool) -> None:
        fields = Fields(buffer)
        listener = self._subscriptions.get(stream_id)
        if listener is None:
            kind = fields.varint()
            if kind is None:
                return
            if kind != _SUBSCRIBE:
                self._request.add(stream_id)
                return
            body = fields.message()
            if body is None:
                return
            subscribe_id = body.must()
            body.skip(body.must())
            body.skip(body.must())
            listener = self._new_listener(self._wishes(body))
            self._by_id[subscribe_id] = self._subscriptions[stream_id] = listener
        while (body := fields.message()) is not None:
            listener.update(self._wishes(body))
        buffer[:] = fields.rest()
        if finish:
            listener.left()

    def _responses(self, stream_id: int, buffer: bytearray, finish: bool) -> None:
        listener = self._subscriptions[stream_id]
        while True:
            fields = Fields(buffer)
            kind = fields.varint()
            if kind is None or (body := fields.message()) is None:
                break
            buffer[:] = fields.rest()
            if kind == 0:
                listener.ok(body.must())
            elif kind == 1:
                listener.track_end(body.must())
            else:
                assert kind == 2, f"a response of type {kind}"
                first, last = body.must(), body.must()
                listener.drop(first, last + 1, body.must())
        if finish:
            assert not buffer, "the subscribe stream ends within a message"
            listener.over(None)


def _wishes(body: Fields) -> Wishes:
    body.skip(1)  # priority
    max_latency = body.must() / 1000
    return Wishes(body.must(), body.must() or None, max_latency, is_latest=not max_latency)


def _wishes_05(body: Fields) -> Wishes:
    body.skip(2)  # priority, ordered
    max_latency = body.must() / 1000
    start = body.optional()
    return Wishes(start or 0, body.must() or None, max_latency, is_latest=start is None)


@contextmanager
def tapping() -> Iterator[None]:
    """While this is open, connections that have a ``tap`` are listened to."""
    half = memory._MemorySendHalf
    other = memory._MemoryReceiveHalf
    transmit, abandon, refuse = half._transmit, half._abandon, other._refuse

    def tapped_transmit(self: Any, data: bytes, finish: bool) -> None:
        tap = getattr(self._connection, "tap", None)
        if tap is not None:
            tap.sent(not self._connection.is_client, self._stream_id, data, finish)
        transmit(self, data, finish)

    def tapped_abandon(self: Any, code: int) -> None:
        tap = getattr(self._connection, "tap", None)
        if tap is not None:
            tap.reset(not self._connection.is_client, self._stream_id, code)
        abandon(self, code)

    def tapped_refuse(self: Any, code: int) -> None:
        tap = getattr(self._connection, "tap", None)
        if tap is not None:
            tap.stopped(not self._connection.is_client, self._stream_id)
        refuse(self, code)

    half._transmit, half._abandon = tapped_transmit, tapped_abandon  # type: ignore[method-assign]  # to listen
    other._refuse = tapped_refuse  # type: ignore[method-assign]  # to listen
    try:
        yield
    finally:
        half._transmit, half._abandon = transmit, abandon  # type: ignore[method-assign]  # to listen
        other._refuse = refuse  # type: ignore[method-assign]  # to listen


def attach(tap: Tap, *connections: Any) -> None:
    """Listen to a pair of connections."""
    for connection in connections:
        connection.tap = tap
