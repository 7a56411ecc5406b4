"""The page's codec against moqtrio's own, in the browser."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from browser_tools import Server, opened
from playwright.sync_api import Browser, Error, Page

from moqtrio.wire import LITE_05, encode_varint
from moqtrio.wire.lite import (
    AnnounceOk,
    AnnounceRequest,
    Fetch,
    GroupHeader,
    Message,
    Role,
    Setup,
    Subscribe,
    SubscribeDrop,
    SubscribeEnd,
    SubscribeStart,
    Track,
    TrackInfo,
)

NUMBERS = [0, 63, 64, 16383, 16384, 2**30 - 1, 2**30, 2**32, 2**53 - 1]


def call(page: Page, function: str, *arguments: Any) -> Any:
    """Call a function of wire.js; bytes go there and come back as lists of numbers."""
    script = """async ({ name, values }) => {
        const wire = await import("/wire.js");
        const toBytes = (value) => (Array.isArray(value) ? Uint8Array.from(value) : value);
        const result = wire[name](...values.map(toBytes));
        return result instanceof Uint8Array ? [...result] : result;
    }"""
    values = [list(each) if isinstance(each, bytes) else each for each in arguments]
    return page.evaluate(script, {"name": function, "values": values})


@pytest.fixture(scope="module")
def page(browser: Browser, server: Server) -> Iterator[Page]:
    """One page for all: the codec has no state."""
    with browser.new_context() as context, opened(context) as page:
        page.goto(server.page)
        yield page


def body(message: Message) -> bytes:
    return message.encode_body(LITE_05)


def test_requests_are_written_as_moqtrio_writes_them(page: Page) -> None:
    wishes = {"start": 7, "end": 900, "priority": 200, "ordered": True, "maxLatency": 2.5}
    subscribe = Subscribe(
        70, "a/ü", "t", priority=200, ordered=True, max_latency=2.5, start=7, end=900
    )
    for written, message, stream_type in (
        (call(page, "encodeSubscribe", 70, "a/ü", "t", wishes), subscribe, 2),
        (call(page, "encodeAnnounceRequest", "a/"), AnnounceRequest("a/"), 1),
        (call(page, "encodeTrackRequest", "a/ü", "t"), Track("a/ü", "t"), 6),
        (call(page, "encodeFetch", "a/ü", "t", 2**40, 3), Fetch("a/ü", "t", 3, 2**40), 3),
        (call(page, "encodeSetup"), Setup(role=Role.SUBSCRIBER), 1),
    ):
        assert bytes(written) == encode_varint(stream_type) + message.encode(LITE_05)


def test_a_subscription_without_wishes_has_no_limits(page: Page) -> None:
    written = bytes(call(page, "encodeSubscribe", 0, "b", "t", {}))
    subscribe = Subscribe.decode(written[2:], LITE_05)
    assert (subscribe.start, subscribe.end) == (None, None)
    assert subscribe.max_latency > 10**9


def test_answers_are_read_as_moqtrio_writes_them(page: Page) -> None:
    announce_ok = body(AnnounceOk(2**61, 5))
    assert call(page, "decodeAnnounceOk", announce_ok) == {"activeCount": 5}
    assert call(page, "decodeTrackInfo", body(TrackInfo(9, True, 1.5, 1000))) == {
        "priority": 9,
        "ordered": True,
        "maxLatency": 1.5,
        "timescale": 1000,
    }
    assert call(page, "decodeResponse", 0, body(SubscribeStart(8))) == {"type": "start", "start": 8}
    assert call(page, "decodeResponse", 1, body(SubscribeEnd(9))) == {"type": "end", "end": 9}
    drop = {"type": "drop", "start": 3, "end": 6, "code": 5}
    assert call(page, "decodeResponse", 2, body(SubscribeDrop(3, 6, 5))) == drop
    header = {"subscription": 4, "sequence": 2**52}
    assert call(page, "decodeGroupHeader", body(GroupHeader(4, 2**52))) == header


def test_numbers(page: Page) -> None:
    assert [call(page, "decodeVarint", encode_varint(number)) for number in NUMBERS] == NUMBERS
    assert [call(page, "decodeZigzag", number) for number in range(5)] == [0, -1, 1, -2, 2]


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("decodeTrackInfo", (body(TrackInfo(9, True, 1.5, 1000))[:-1],)),
        ("decodeTrackInfo", (body(TrackInfo(9, True, 1.5, 1000)) + b"\0",)),
        ("decodeTrackInfo", (b"\0\0\0\0",)),  # a timescale of 0
        ("decodeResponse", (2, b"\5\4\0")),  # a drop that ends before it starts
        ("decodeResponse", (3, b"")),
        ("decodeGroupHeader", (b"\1" + encode_varint(2**53),)),
        ("decodeAnnounce", (b"\3\0\0",)),
        ("decodeAnnounce", (b"\1\1\xff\0",)),  # not UTF-8
        ("decodeAnnounce", (b"\1\0\x21",)),  # too many hops
    ],
)
def test_what_is_malformed_is_refused(page: Page, function: str, arguments: Any) -> None:
    with pytest.raises(Error, match="wire_error"):
        call(page, function, *arguments)
