"""What waits to be sent, and what goes first."""

from __future__ import annotations

import heapq
from collections import deque

from ..newest_first import NewestFirst
from ..send_queue import SendQueue
from .frames import (
    encode_close,
    encode_datagram,
    encode_max_data,
    encode_max_stream_data,
    encode_max_streams,
    encode_ping,
    encode_reset,
    encode_stop,
    stream_header,
    stream_header_size,
)
from .streams import PeerStreams, QmuxReceiveHalf, QmuxSendHalf
from .versions import QmuxVersion

# A stream is not begun at the end of a message for less than this.
_SMALLEST_PIECE = 64
# Released peers put up with no more of a stream in one frame, whatever they declare.
_LARGEST_PIECE = 16352


class _Packer:
    """Puts frames into messages: as many as fit, or one into each in old drafts."""

    def __init__(self, version: QmuxVersion) -> None:
        self._capacity = version.largest_message
        self._alone = not version.has_records
        self._messages: list[bytes] = []
        self._parts: list[bytes] = []
        self.room: int = self._capacity
        self.size: int = 0

    def add(self, *parts: bytes) -> None:
        """One frame, not larger than a message."""
        size = sum([len(part) for part in parts])
        if size > self.room or (self._alone and self._parts):
            self.next_message()
        self._parts += parts
        self.room -= size
        self.size += size
        if self._alone:
            self.next_message()

    def next_message(self) -> None:
        """Begin another message, if this one holds anything."""
        if self._parts:
            self._messages.append(b"".join(self._parts))
            self._parts.clear()
            self.room = self._capacity

    def finish(self) -> list[bytes]:
        """The messages."""
        self.next_message()
        return self._messages


class Outbox:
    """Frames of one connection until they are put into messages.

    Args:
      version: what messages hold.
      first: the frame that goes before everything else.

    Whatever a peer does that is to be answered takes bounded room here: a later answer of a
    kind takes the place of an earlier one, or there is one for each open stream.
    """

    def __init__(self, version: QmuxVersion, first: bytes) -> None:
        self._version = version
        self.queue: SendQueue[QmuxSendHalf] = SendQueue()
        self._out_of_credit: dict[QmuxSendHalf, None] = {}
        self._first = first
        self._control: list[bytes] = []
        self._windows: dict[QmuxReceiveHalf, None] = {}
        self._due_streams: list[tuple[bool, PeerStreams]] = []
        self._due_data: int | None = None
        self._due_answer: int | None = None
        self._due_ping: int | None = None
        self._close: bytes | None = None
        self._closed = False
        #: Streams whose end went into the messages last taken.
        self.ended: list[QmuxSendHalf] = []
        self.datagrams: deque[bytes] = deque()
        self.max_data: int = 0  # what the peer admits on all streams together
        self.data_sent: int = 0

    # Streams

    def written(self, half: QmuxSendHalf, size: int) -> None:
        """A stream took bytes, or its end."""
        if size:
            self.queue.count_unsent(half.counted_at, size)
        if half.entry is None:
            self.queue.add(half)

    def reprioritised(self, half: QmuxSendHalf) -> None:
        """A stream's priority changed."""
        self.queue.count_unsent(half.counted_at, -half.queued)
        half.counted_at = half.priority
        self.queue.count_unsent(half.counted_at, half.queued)
        if half.entry is not None:
            self.queue.add(half)

    def share_places(
        self, half: QmuxSendHalf, rivals: NewestFirst[QmuxSendHalf] | None, rank: int
    ) -> None:
        """Let the highest rank among ``rivals`` go first in the place of any that has not
        begun."""
        self.queue.share_places(half, rivals, rank)

    def forget(self, half: QmuxSendHalf) -> None:
        """Nothing more of this stream is sent."""
        self.queue.count_unsent(half.counted_at, -half.queued)
        self.queue.count_stuck(half, 0)
        self._out_of_credit.pop(half, None)
        self.queue.leave(half)
        half.drop()

    def admit(self, half: QmuxSendHalf, limit: int) -> None:
        """The peer admits so many bytes of a stream."""
        if limit > half.limit:
            half.limit = limit
            self.queue.count_stuck(half, 0)
            if half.entry is None and (half.queued or half.end_queued):
                self.queue.add(half)

    def admit_data(self, limit: int) -> None:
        """The peer admits so many bytes on all streams together."""
        if limit > self.max_data:
            self.max_data = limit
            for half in self._out_of_credit:
                if half.entry is None:
                    self.queue.add(half)
            self._out_of_credit.clear()

    # Control

    def reset(self, half: QmuxSendHalf, code: int) -> None:
        """Abandon a stream."""
        self.forget(half)
        self._control.append(encode_reset(half.stream_id, code, half.offset))

    def stop(self, stream_id: int, code: int) -> None:
        """Ask the peer to abandon a stream."""
        self._control.append(encode_stop(stream_id, code))

    def ping(self, sequence: int) -> None:
        """Ask whether the peer is there."""
        self._due_ping = sequence

    def answer(self, sequence: int) -> None:
        """Answer a ping; the latest is enough (draft-ietf-quic-qmux section 4.3)."""
        self._due_answer = sequence

    def announce_window(self, half: QmuxReceiveHalf) -> None:
        """Tell the peer a stream's limit."""
        self._windows[half] = None

    def announce_data(self, limit: int) -> None:
        """Tell the peer the connection's limit."""
        self._due_data = limit

    def announce_streams(self, uni: bool, streams: PeerStreams) -> None:
        """Tell the peer how many streams it may open."""
        if (uni, streams) not in self._due_streams:
            self._due_streams.append((uni, streams))

    def close(self, code: int, reason: str, *, by_application: bool) -> None:
        """Send nothing but the end."""
        self._close = encode_close(code, reason, by_application=by_application)

    def shut(self) -> None:
        """Send nothing more: the peer has closed."""
        self._closed = True

    # Sending

    def take(self, most: int) -> list[bytes]:
        """Messages of about ``most`` bytes in all: what is most urgent now."""
        if self._closed:
            return []
        packer = _Packer(self._version)
        if self._first:
            packer.add(self._first)
            self._first = b""
        if self._close is not None:
            self._closed = True
            packer.add(self._close)
            return packer.finish()
        self._take_control(packer)
        while self.datagrams and packer.size < most:
            packer.add(encode_datagram(self.datagrams.popleft()))
        while packer.size < most:
            half = self._first_sendable()
            if half is None:
                break
            self._take_piece(half, packer)
        return packer.finish()

    def _take_control(self, packer: _Packer) -> None:
        for frame in self._control:
            packer.add(frame)
        self._control.clear()
        if self._due_data is not None:
            packer.add(encode_max_data(self._due_data))
            self._due_data = None
        for uni, streams in self._due_streams:
            streams.announced = streams.limit
            packer.add(encode_max_streams(uni, streams.limit))
        self._due_streams.clear()
        for half in self._windows:
            if not half.is_over:
                packer.add(encode_max_stream_data(half.stream_id, half.limit))
        self._windows.clear()
        if self._due_answer is not None:
            packer.add(encode_ping(self._due_answer, is_answer=True))
            self._due_answer = None
        if self._due_ping is not None:
            packer.add(encode_ping(self._due_ping, is_answer=False))
            self._due_ping = None

    def _take_piece(self, half: QmuxSendHalf, packer: _Packer) -> None:
        size = min(half.queued, half.limit - half.offset, self.max_data - self.data_sent)
        if size <= 0 and half.queued:
            self._wait_for_credit(half)
            return
        header = stream_header_size(half.stream_id, half.offset, size)
        if packer.room < header + min(size, _SMALLEST_PIECE):
            packer.next_message()
        size = min(size, packer.room - header, _LARGEST_PIECE)
        ended = half.end_queued and size == half.queued
        data_header = stream_header(half.stream_id, half.offset, size, ended)
        if size:
            packer.add(data_header, half.take(size))
            self.queue.count_unsent(half.counted_at, -size)
            self.data_sent += size
        else:
            packer.add(data_header)
        if ended:
            half.end_queued = False
            half.end_sent = True
            self.ended.append(half)
        if not half.queued:
            self.queue.leave(half)

    def _wait_for_credit(self, half: QmuxSendHalf) -> None:
        self.queue.leave(half)
        if half.limit <= half.offset:
            self.queue.count_stuck(half, half.queued)
        else:
            self._out_of_credit[half] = None

    def _first_sendable(self) -> QmuxSendHalf | None:
        entries = self.queue.entries
        while entries:
            entry = entries[0]
            half = entry[2]
            if half.entry is not entry:
                heapq.heappop(entries)
                continue
            if half.rivals is not None and not half.offset:
                newest = half.rivals.newest
                if newest is not half and newest.priority == half.priority:
                    self.queue.change_places(half, newest)
                    continue
            return half
        return None
