"""The peer's control stream, and those of QPACK: they last as long as the connection."""

from __future__ import annotations

from collections.abc import Callable

import trio

from ...errors import StreamReset
from ..streams import ReceiveHalf
from .codes import FrameType, H3Code, H3Error, StreamType
from .fields import FieldCoder
from .frames import ControlFrames, decode_id, decode_settings
from .records import BITE

CRITICAL = (StreamType.CONTROL, StreamType.QPACK_ENCODER, StreamType.QPACK_DECODER)


class PeerControl:
    """What the peer says about the connection."""

    def __init__(
        self, fields: FieldCoder, *, is_client: bool, on_goaway: Callable[[int], None]
    ) -> None:
        self._is_client = is_client
        self._on_goaway = on_goaway
        self._last_goaway: int | None = None
        self._max_push_id = 0
        self._claimed: set[int] = set()
        self._frames = ControlFrames()
        self._consume: dict[int, Callable[[bytes], None]] = {
            StreamType.CONTROL: self._control_data,
            StreamType.QPACK_ENCODER: fields.feed_encoder_stream,
            StreamType.QPACK_DECODER: fields.feed_decoder_stream,
        }
        #: The peer's settings, once they have arrived.
        self.settings: dict[int, int] = {}
        self.settings_arrived: trio.Event = trio.Event()

    def claim(self, kind: int) -> None:
        """The peer opened a stream of one of the CRITICAL types. Raises H3Error where there
        is one already."""
        if kind in self._claimed:
            raise H3Error(H3Code.STREAM_CREATION_ERROR, f"a second stream of type {kind:#x}")
        self._claimed.add(kind)

    async def read(self, stream: ReceiveHalf, kind: int) -> None:
        """Heed one of them. Raises H3Error when it ends (RFC 9114 section 6.2.1)."""
        consume = self._consume[kind]
        try:
            while data := await stream._receive_idly(BITE):
                consume(data)
        except StreamReset:
            pass
        raise H3Error(H3Code.CLOSED_CRITICAL_STREAM, f"a stream of type {kind:#x} ended")

    def _control_data(self, data: bytes) -> None:
        for kind, value in self._frames.feed(data):
            if kind == FrameType.SETTINGS:
                self.settings = decode_settings(value)
                self.settings_arrived.set()
            else:
                self._numbered(kind, decode_id(value))

    def _numbered(self, kind: int, number: int) -> None:
        if kind == FrameType.GOAWAY:
            # RFC 9114 section 5.2.
            if self._last_goaway is not None and number > self._last_goaway:
                raise H3Error(H3Code.ID_ERROR, f"GOAWAY went up to {number}")
            self._last_goaway = number
            self._on_goaway(number)
        elif kind == FrameType.CANCEL_PUSH:
            raise H3Error(H3Code.ID_ERROR, f"CANCEL_PUSH of push {number}, which there is not")
        elif self._is_client:
            raise H3Error(H3Code.FRAME_UNEXPECTED, "MAX_PUSH_ID from a server")
        elif number < self._max_push_id:
            raise H3Error(H3Code.ID_ERROR, f"MAX_PUSH_ID went down to {number}")
        else:
            self._max_push_id = number
