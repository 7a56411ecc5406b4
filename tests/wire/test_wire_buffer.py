"""The bounded reader and the writer of one message's body."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moqtrio.errors import DecodeError
from moqtrio.wire import MAX_VARINT, Reader, Writer

FIELDS: dict[str, Callable[[Reader], object]] = {
    "varint": lambda reader: reader.varint("x"),
    "u8": lambda reader: reader.u8("x"),
    "boolean": lambda reader: reader.boolean("x"),
    "optional": lambda reader: reader.optional("x"),
    "zigzag": lambda reader: reader.zigzag("x"),
    "take": lambda reader: reader.take(3, "x"),
    "length_prefixed": lambda reader: reader.length_prefixed("x"),
    "string": lambda reader: reader.string("x"),
    "rest": lambda reader: reader.rest(),
    "text": lambda reader: reader.text("x"),
    "finish": lambda reader: reader.finish(),
}


def test_every_field_in_turn() -> None:
    writer = Writer()
    writer.varint(70000)
    writer.u8(255)
    writer.boolean(True)
    writer.optional(None)
    writer.optional(0)
    writer.zigzag(-5)
    writer.length_prefixed(b"\x00\x01")
    writer.string("größe")
    writer.raw(b"rest")
    reader = Reader(writer.getvalue())
    assert reader.varint("a") == 70000
    assert reader.u8("b") == 255
    assert reader.boolean("c") is True
    assert reader.optional("d") is None
    assert reader.optional("e") == 0
    assert reader.zigzag("f") == -5
    assert reader.length_prefixed("g") == b"\x00\x01"
    assert reader.string("h") == "größe"
    assert reader.remaining == 4
    assert reader.rest() == b"rest"
    reader.finish()


@given(st.binary(max_size=40), st.lists(st.sampled_from(sorted(FIELDS)), max_size=8))
def test_only_decode_errors_escape(data: bytes, fields: list[str]) -> None:
    reader = Reader(data)
    offset: int | None = 0
    try:
        for name in fields:
            FIELDS[name](reader)
    except DecodeError as error:
        offset = error.offset
    assert offset in range(len(data) + 1)
    assert reader.offset + reader.remaining == len(data)


@pytest.mark.parametrize(
    ("data", "field", "message", "offset"),
    [
        ("", "u8", "expected x (one byte), got the end of the message", 0),
        ("40", "varint", "expected x (a varint), got the end of the message after 1 bytes", 0),
        ("02", "boolean", "expected x to be 0 or 1, got 2", 0),
        ("0361", "string", "expected x (3 bytes), got the end of the message after 1 bytes", 1),
        ("0361ff62", "string", "expected x to be UTF-8, got invalid start byte", 2),
        ("03eda080", "string", "expected x to be UTF-8", 1),  # a lone surrogate
        ("0102", "finish", "expected the end of the message, got 2 more bytes", 0),
    ],
)
def test_errors_say_what_was_expected_and_where(
    data: str, field: str, message: str, offset: int
) -> None:
    with pytest.raises(DecodeError) as caught:
        FIELDS[field](Reader(bytes.fromhex(data)))
    assert str(caught.value).startswith(message)
    assert caught.value.offset == offset


@pytest.mark.parametrize(
    "write",
    [
        lambda writer: writer.varint(-1),
        lambda writer: writer.varint(MAX_VARINT + 1),
        lambda writer: writer.u8(256),
        lambda writer: writer.u8(-1),
        lambda writer: writer.optional(-1),
        lambda writer: writer.optional(MAX_VARINT),
        lambda writer: writer.zigzag(2**61),
        lambda writer: writer.zigzag(-(2**61) - 1),
        lambda writer: writer.string("\ud800"),
    ],
)
def test_values_out_of_range(write: Callable[[Writer], None]) -> None:
    with pytest.raises(ValueError, match=r"expected|surrogates"):
        write(Writer())
