"""Field sections: QPACK without its dynamic table, and what they may say."""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs
import pylsqpack

from .codes import FrameType, H3Code, H3Error, MessageError
from .frames import LARGEST_FIELD_SECTION
from .records import encode_record

Fields = list[tuple[bytes, bytes]]

AVAILABLE_PROTOCOLS = b"wt-available-protocols"
PROTOCOL = b"wt-protocol"
DRAFT = b"sec-webtransport-http3-draft"
DRAFT_02 = b"sec-webtransport-http3-draft02"

_LONGEST_SHOWN = 64  # of a name in an error
_FIELD_OVERHEAD = 32  # RFC 9114 section 4.2.2
_NAME = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+")
_VALUE = re.compile(rb"[\x21-\x7e\x80-\xff]([\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?|")
# RFC 9114 section 4.2.
_CONNECTION_SPECIFIC = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)


class FieldCoder:
    """Encodes and decodes the field sections of one connection."""

    def __init__(self) -> None:
        # Tables of size 0: no field section depends on another, or waits for one.
        self._encoder = pylsqpack.Encoder()
        self._decoder = pylsqpack.Decoder(0, 0)

    def encode(self, fields: Fields) -> bytes:
        """A HEADERS frame."""
        _, section = self._encoder.encode(0, fields)
        return encode_record(FrameType.HEADERS, section)

    def decode(self, stream_id: int, section: bytes) -> Fields:
        """Raises H3Error where it is no field section, MessageError where it is too large."""
        try:
            _, fields = self._decoder.feed_header(stream_id, section)
        except (pylsqpack.DecompressionFailed, pylsqpack.StreamBlocked, ValueError) as error:
            raise H3Error(
                H3Code.QPACK_DECOMPRESSION_FAILED, f"a field section makes no sense: {error}"
            ) from error
        size = sum(len(name) + len(value) + _FIELD_OVERHEAD for name, value in fields)
        if size > LARGEST_FIELD_SECTION:
            raise MessageError(f"a field section of {size} bytes", H3Code.EXCESSIVE_LOAD)
        return fields

    def feed_encoder_stream(self, data: bytes) -> None:
        """The peer's instructions for the dynamic table, of which there is none."""
        try:
            self._decoder.feed_encoder(data)
        except pylsqpack.EncoderStreamError as error:
            raise H3Error(
                H3Code.QPACK_ENCODER_STREAM_ERROR, "an instruction for a table that is not there"
            ) from error

    def feed_decoder_stream(self, data: bytes) -> None:
        """What the peer says about the instructions it got, which were none."""
        try:
            self._encoder.feed_decoder(data)
        except pylsqpack.DecoderStreamError as error:
            raise H3Error(
                H3Code.QPACK_DECODER_STREAM_ERROR, "an acknowledgement of nothing"
            ) from error


@attrs.frozen
class Message:
    """A request or an answer, checked for what makes one malformed (RFC 9114 section 4.1.2)."""

    pseudo: dict[bytes, bytes]
    fields: Fields

    @classmethod
    def parse(cls, fields: Fields) -> Message:
        """Raises MessageError where the peer must not have sent this."""
        pseudo: dict[bytes, bytes] = {}
        regular: Fields = []
        for name, value in fields:
            if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
                raise MessageError(f"a malformed field: {name[:_LONGEST_SHOWN]!r}")
            if name.startswith(b":"):
                if regular or name in pseudo:
                    raise MessageError(f"{name!r} came twice, or late")
                pseudo[name] = value
            elif name in _CONNECTION_SPECIFIC or (name == b"te" and value != b"trailers"):
                raise MessageError(f"{name!r} has no place in HTTP/3")
            else:
                regular.append((name, value))
        return cls(pseudo, regular)

    def get(self, name: bytes) -> bytes | None:
        """A field's value, or the combination of all it has (RFC 9110 section 5.2)."""
        values = [value for key, value in self.fields if key == name]
        return b", ".join(values) if values else None

    @property
    def status(self) -> int:
        """Of an answer. Raises MessageError where there is none."""
        text = self.pseudo.get(b":status", b"")
        if len(self.pseudo) != 1 or not re.fullmatch(rb"[1-9][0-9][0-9]", text):
            raise MessageError("an answer without a status")
        return int(text)


# RFC 8941 sections 3.1.2 and 3.3.3: a string, and parameters, which mean nothing here.
_STRING = rb'"((?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*)"'
_BARE = rb'(?:"(?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"|[^\s",;=()]+)'
_ITEM = re.compile(_STRING + rb"(?:; *[a-z*][a-z0-9_.*-]*(?:=" + _BARE + rb")?)*")
_SEPARATOR = re.compile(rb"[ \t]*,[ \t]*")


def encode_strings(strings: Sequence[str]) -> bytes:
    """A list of strings as a structured field (RFC 8941).

    Raises:
      ValueError: one has characters other than printable ASCII.
    """
    parts = []
    for text in strings:
        if not all(" " <= character <= "~" for character in text):
            raise ValueError(f"a protocol's name is printable ASCII, not {text!r}")
        escaped = text.replace("\\", "\\\\").replace('"', '\\"')
        parts.append(f'"{escaped}"')
    return ", ".join(parts).encode()


def decode_strings(value: bytes | None) -> list[str]:
    """The strings of a structured field; none where it is something else: such a field
    counts as absent (RFC 8941 section 1.2)."""
    if value is None:
        return []
    value = value.strip(b" ")
    strings: list[str] = []
    position = 0
    while True:
        item = _ITEM.match(value, position)
        if item is None:
            return []
        strings.append(re.sub(rb"\\(.)", rb"\1", item[1]).decode("ascii"))
        position = item.end()
        if position == len(value):
            return strings
        separator = _SEPARATOR.match(value, position)
        if separator is None:
            return []
        position = separator.end()
