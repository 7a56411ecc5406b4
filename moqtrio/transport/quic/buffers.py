"""The bytes of one stream: what is to be sent, and what arrived out of order.

Bytes stay the objects they came as. A frame's bytes travel with the record of the packet
that carried it and come back only if that packet is lost, so nothing is copied, and no
set of ranges is kept, for the ordinary case that nothing is.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque

from ..chunks import cut

# A window of 16 MiB in packets of 1200 bytes, every other one lost, makes 7,000 pieces.
# More than this, on all streams of a connection, is a peer sending crumbs to use up memory.
MAX_PIECES = 16384

Frame = tuple[int, bytes, bool]


class TooManyPieces(Exception):
    """The peer sent more disjoint pieces than any loss explains."""


class WrongFinalSize(Exception):
    """The peer changed its mind about where the stream ends (RFC 9000 section 4.5)."""


class SendBuffer:
    """The sending part of a stream (RFC 9000 section 3.1).

    Every byte is in exactly one place: not sent yet, in one packet in flight, or lost
    and to be sent again.
    """

    __slots__ = (
        "_chunks",
        "_end_pending",
        "_head",
        "_in_flight",
        "_lost",
        "end_sent",
        "highest_offset",
        "is_finished",
        "reset_code",
        "reset_pending",
        "unsent",
    )

    def __init__(self) -> None:
        self._chunks: deque[bytes] = deque()
        self._head = 0  # bytes of the first chunk that were sent
        self._lost: deque[Frame] = deque()
        self._end_pending = False
        self._in_flight = 0  # frames
        self.end_sent: bool = False
        self.highest_offset: int = 0
        self.is_finished: bool = False
        self.reset_code: int | None = None
        self.reset_pending: bool = False
        self.unsent: int = 0

    @property
    def has_frames(self) -> bool:
        """Whether there is anything to send, if the windows allow."""
        return bool(self.unsent or self._end_pending or self._lost)

    def write(self, data: bytes, end: bool) -> None:
        """Take ``data``, and the end of the stream if ``end``."""
        if data:
            self._chunks.append(data)
            self.unsent += len(data)
        if end:
            self._end_pending = True

    def next_offset(self) -> int:
        """Where the next frame starts."""
        return self._lost[0][0] if self._lost else self.highest_offset

    def take(self, room: int, max_offset: int) -> Frame | None:
        """The next frame of at most ``room`` bytes that stays below ``max_offset``."""
        if self._lost:
            return self._take_lost(room)
        size = min(self.unsent, room, max_offset - self.highest_offset)
        end = self._end_pending and size == self.unsent
        if room < 0 or (size <= 0 and not end):
            return None
        offset = self.highest_offset
        data = self._cut(size) if size > 0 else b""
        self.highest_offset = offset + len(data)
        self.unsent -= len(data)
        if end:
            self._end_pending = False
            self.end_sent = True
        self._in_flight += 1
        return offset, data, end

    def _take_lost(self, room: int) -> Frame | None:
        offset, data, end = self._lost[0]
        if len(data) <= room:
            self._lost.popleft()
        elif room <= 0:
            return None
        else:
            self._lost[0] = (offset + room, data[room:], end)
            data, end = data[:room], False
        self._in_flight += 1
        return offset, data, end

    def _cut(self, size: int) -> bytes:
        chunks, head = self._chunks, self._head
        first = chunks[0]
        if len(first) - head >= size:
            if not head and len(first) == size:
                return chunks.popleft()
            stop = head + size
            if stop == len(first):
                chunks.popleft()
                self._head = 0
            else:
                self._head = stop
            return first[head:stop]
        data, self._head = cut(chunks, head, size)
        return data

    def on_acked(self) -> bool:
        """One frame was acknowledged; True if this finished the stream."""
        self._in_flight -= 1
        if self._in_flight or self.is_finished or self.reset_code is not None:
            return False
        if not self.end_sent or self._lost:
            return False
        self.is_finished = True
        return True

    def on_lost(self, frame: Frame) -> bool:
        """One frame was lost; True if it has to be sent again."""
        self._in_flight -= 1
        if self.is_finished or self.reset_code is not None:
            return False
        self._lost.append(frame)
        return True

    def reset(self, error_code: int) -> None:
        """Abandon the stream; the first call counts."""
        if self.reset_code is None and not self.is_finished:
            self.reset_code = error_code
            self.reset_pending = True
            self._chunks.clear()
            self._lost.clear()
            self._head = 0
            self.unsent = 0
            self._end_pending = False


class PieceCount:
    """How many pieces that came out of order the streams of a connection hold."""

    __slots__ = ("held",)

    def __init__(self) -> None:
        self.held: int = 0


class ReceiveBuffer:
    """The receiving part of a stream (RFC 9000 section 3.2)."""

    __slots__ = (
        "_count",
        "_final_size",
        "_offsets",
        "_pieces",
        "delivered",
        "highest_offset",
        "is_finished",
        "stop_code",
        "stop_pending",
    )

    def __init__(self, count: PieceCount) -> None:
        self._count = count
        self._final_size: int | None = None
        self._offsets: list[int] = []  # sorted; the keys of _pieces
        self._pieces: dict[int, bytes] = {}  # disjoint, all beyond `delivered`
        self.delivered: int = 0
        self.highest_offset: int = 0
        self.is_finished: bool = False
        self.stop_code: int | None = None
        self.stop_pending: bool = False

    def feed(self, offset: int, data: bytes, end: bool) -> bytes | None:
        """Take one frame; the bytes that are in order now, or None for no news.

        ``is_finished`` says whether the stream is complete. Raises
        :exc:`WrongFinalSize` and :exc:`TooManyPieces`.
        """
        stop = offset + len(data)
        if end and not offset and not self.highest_offset and self._final_size is None:
            # A stream in one frame: most of them are, where groups are small.
            self._final_size = self.highest_offset = self.delivered = stop
            self.is_finished = True
            return data
        if end or self._final_size is not None:
            self._check_final_size(stop, end)
        if stop > self.highest_offset:
            self.highest_offset = stop
        if self.is_finished:
            return None
        if offset != self.delivered or self._pieces:
            data = self._reassemble(offset, data)
        else:
            self.delivered = stop
        if self.delivered == self._final_size:
            self.is_finished = True
            return data
        return data or None

    def _check_final_size(self, stop: int, end: bool) -> None:
        final_size = self._final_size
        if final_size is not None and (stop > final_size or (end and stop != final_size)):
            raise WrongFinalSize(f"the stream ends at byte {final_size}, not {stop}")
        if end:
            if stop < self.highest_offset:
                raise WrongFinalSize(
                    f"the stream cannot end at byte {stop}: {self.highest_offset} came already"
                )
            self._final_size = stop

    def _reassemble(self, offset: int, data: bytes) -> bytes:
        """Store what is new of ``data``; return what became contiguous."""
        if offset < self.delivered:
            data = data[self.delivered - offset :]
            offset = self.delivered
        offsets, pieces = self._offsets, self._pieces
        stop = offset + len(data)
        index = bisect_right(offsets, offset)
        if index:
            before = offsets[index - 1]
            known = before + len(pieces[before]) - offset
            if known > 0:
                data = data[known:]
                offset += known
        while data:
            after = offsets[index] if index < len(offsets) else stop
            gap = data[: after - offset] if after < stop else data
            if gap:
                if self._count.held >= MAX_PIECES:
                    raise TooManyPieces
                self._count.held += 1
                offsets.insert(index, offset)
                pieces[offset] = gap
                index += 1
            if after >= stop:
                break
            covered = after + len(pieces[after])
            data = data[covered - offset :]
            offset = covered
            index += 1
        return self._contiguous()

    def _contiguous(self) -> bytes:
        parts: list[bytes] = []
        for offset in self._offsets:
            if offset != self.delivered:
                break
            piece = self._pieces.pop(offset)
            parts.append(piece)
            self.delivered += len(piece)
        if parts:
            del self._offsets[: len(parts)]
            self._count.held -= len(parts)
        return b"".join(parts)

    def reset(self, final_size: int) -> bool:
        """The peer abandoned the stream; True if it was not over already."""
        self._check_final_size(final_size, True)
        self.highest_offset = final_size
        if self.is_finished:
            return False
        self.is_finished = True
        self._count.held -= len(self._offsets)
        self._pieces.clear()
        self._offsets.clear()
        return True

    def stop(self, error_code: int) -> None:
        """Ask for STOP_SENDING; the first call counts."""
        if self.stop_code is None and not self.is_finished:
            self.stop_code = error_code
            self.stop_pending = True
