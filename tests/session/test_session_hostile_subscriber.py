"""A publisher whose subscriber is wrong, slow or malicious, byte by byte."""

from __future__ import annotations

import logging

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from session_pairs import (
    assert_nothing_left,
    payload_of,
    publish,
    reset_code,
    stop_code,
    stored_track,
)
from session_raw import (
    ANNOUNCE,
    FETCH,
    GOAWAY,
    SUBSCRIBE,
    TRACK,
    RawSubscriber,
    ended,
    raw_subscriber,
    received,
    responses,
)
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio.errors import ReplayError, SessionClosed, SessionCode, StreamCode
from moqtrio.model import Origin
from moqtrio.replay import Missing, Pending, Ready
from moqtrio.replay.memory import MemoryGroupReader
from moqtrio.session import Session
from moqtrio.session.serving import SubscriptionServer
from moqtrio.session.session import open_session_over
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.transport.settings import TransportSettings
from moqtrio.wire import LITE_05, encode_varint, lite
from moqtrio.wire.lite import (
    AnnounceRequest,
    Fetch,
    Goaway,
    Setup,
    Subscribe,
    SubscribeUpdate,
    UniStreamType,
)

REQUESTS = {
    ANNOUNCE: AnnounceRequest("", 7),
    SUBSCRIBE: Subscribe(1, "b", "t", 1, True, 2.0, 70, 20_000),
    FETCH: Fetch("b", "t", 1, 70),
    GOAWAY: Goaway("https://elsewhere"),
    TRACK: lite.Track("b", "t"),
}


# Requests that are none


@pytest.mark.parametrize("kind", [0, 7, 63, 64, 2**62 - 1])
async def test_an_unknown_request_is_reset(kind: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "moqtrio.session")
    async with raw_subscriber() as raw:
        stream = await raw.request(kind, b"whatever")
        assert reset_code(stream.receive) == StreamCode.CANCEL
        assert stop_code(stream.send) == StreamCode.CANCEL
        assert f"stream type {kind}" in caplog.text
        await raw.assert_works()


@pytest.mark.parametrize("kind", REQUESTS)
async def test_a_request_that_is_cut_short_at_every_byte(
    kind: int, caplog: pytest.LogCaptureFixture
) -> None:
    whole = REQUESTS[kind].encode(LITE_05)
    async with raw_subscriber() as raw:
        for cut in range(len(whole)):
            caplog.clear()
            stream = await raw.request(kind, whole[:cut], finish=True)
            assert reset_code(stream.receive) == StreamCode.MALFORMED
            assert "bad request" in caplog.text
            stream = await raw.request(kind, whole[:cut])
            stream.send.reset(9)
            stream.receive.stop(9)
        await wait_all_tasks_blocked()
        assert raw.server_connection.statistics().streams_open == 0
        await raw.assert_works()


@pytest.mark.parametrize("kind", REQUESTS)
async def test_a_request_whose_length_lies(kind: int, caplog: pytest.LogCaptureFixture) -> None:
    body = REQUESTS[kind].encode_body(LITE_05)
    wrong = [
        encode_varint(len(body) + 1) + body + b"\x00",
        encode_varint(len(body) - 1) + body[:-1],
        encode_varint(0),
        encode_varint(65537),
        encode_varint(2**61),
    ]
    async with raw_subscriber() as raw:
        for data in wrong:
            caplog.clear()
            stream = await raw.request(kind, data)
            assert reset_code(stream.receive) == StreamCode.MALFORMED
            assert stop_code(stream.send) == StreamCode.MALFORMED
            assert "bad request" in caplog.text
        await raw.assert_works()


@pytest.mark.parametrize("kind", REQUESTS)
async def test_a_request_byte_by_byte(kind: int) -> None:
    async with raw_subscriber() as raw:
        track = raw.origin.broadcasts["b"].tracks["t"]
        group = track.create_group(70)
        group.write_frame(b"x")
        group.finish()
        stream = await raw.connection.open_bidi()
        for byte in encode_varint(kind) + REQUESTS[kind].encode(LITE_05):
            assert received(stream) == b""
            await stream.send.send_all(bytes([byte]))
            await wait_all_tasks_blocked()
        assert received(stream) or kind == GOAWAY
        await raw.assert_works()


async def test_requests_that_say_nothing_are_given_up(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "moqtrio.session")
    async with raw_subscriber() as raw:
        silent = [await raw.connection.open_bidi() for _ in range(3)]
        await silent[1].send.send_all(b"\x02")
        await silent[2].send.send_all(b"\x02\x20\x00")
        await trio.sleep(9.9)
        assert [reset_code(stream.receive) for stream in silent] == [None] * 3
        await trio.sleep(0.2)
        for stream in silent:
            assert reset_code(stream.receive) == StreamCode.DELIVERY_TIMEOUT
            assert stop_code(stream.send) == StreamCode.DELIVERY_TIMEOUT
        assert caplog.text.count("did not say what it wants within 10.0 s") == 3
        await raw.assert_works()


async def test_what_there_is_not_is_refused_with_a_code_that_says_what() -> None:
    async with raw_subscriber() as raw:
        for broadcast, track, code in (
            ("nope", "t", StreamCode.UNROUTABLE),
            ("", "", StreamCode.UNROUTABLE),
            ("b", "nope", StreamCode.NOT_FOUND),
        ):
            for kind, message in (
                (SUBSCRIBE, Subscribe(0, broadcast, track)),
                (FETCH, Fetch(broadcast, track, 0, 0)),
                (TRACK, lite.Track(broadcast, track)),
            ):
                stream = await raw.request(kind, message)
                assert reset_code(stream.receive) == code
        stream = await raw.request(FETCH, Fetch("b", "t", 0, 0))
        assert reset_code(stream.receive) == StreamCode.NOT_FOUND
        await raw.assert_works()


async def test_a_session_that_publishes_nothing_says_so() -> None:
    client, server = memory_connection_pair()
    async with open_session_over(server, LITE_05):
        raw = RawSubscriber(client, server, Origin())
        stream = await raw.request(SUBSCRIBE, Subscribe(0, "b", "t"))
        assert reset_code(stream.receive) == StreamCode.UNROUTABLE
        stream = await raw.request(ANNOUNCE, AnnounceRequest(""))
        assert received(stream)
        assert not ended(stream)


# Subscriptions, as they look on the wire


async def test_fin_waits_until_every_group_is_accounted_for() -> None:
    """P6: with the end of the track said long before."""
    origin = Origin()
    track, target = await stored_track(origin, range(3))
    track.finish()
    target.stall()
    async with raw_subscriber(origin) as raw:
        stream = await raw.request(SUBSCRIBE, Subscribe(0, "b", "t", start=0))
        assert received(stream) == b""
        target.resume()
        target.fail(ReplayError("hiccup"))
        await wait_all_tasks_blocked()
        assert responses(received(stream)) == []
        assert not ended(stream)
        target.fail(None)
        for _ in range(3):
            await raw.connection.accept_uni()
        await wait_all_tasks_blocked()
        assert responses(received(stream)) == [lite.SubscribeStart(0), lite.SubscribeEnd(3)]
        assert ended(stream)


async def test_fin_waits_for_a_group_in_the_middle_of_the_store() -> None:
    origin = Origin()
    track, target = await stored_track(origin, range(3))
    track.finish()
    original = target.poll_group
    held = trio.Event()

    def poll_group(
        sequence: int, *, priority: int = 0
    ) -> Ready[MemoryGroupReader] | Pending | Missing:
        return Pending(held.wait) if sequence == 1 and not held.is_set() else original(sequence)

    target.poll_group = poll_group  # type: ignore[method-assign]  # one group is slow to find
    async with raw_subscriber(origin) as raw:
        stream = await raw.request(SUBSCRIBE, Subscribe(0, "b", "t", start=0))
        assert responses(received(stream)) == [lite.SubscribeStart(0), lite.SubscribeEnd(3)]
        assert not ended(stream)
        held.set()
        await wait_all_tasks_blocked()
        assert ended(stream)


async def test_fin_waits_for_the_subscribers_credit() -> None:
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t")
    publish(track, 3, size=100)
    track.finish()
    async with raw_subscriber(origin, transport=TransportSettings(max_streams_uni=1)) as raw:
        stream = await raw.request(SUBSCRIBE, Subscribe(0, "b", "t", start=0))
        for sequence in range(3):
            assert not ended(stream) or not received(stream)
            group = await raw.connection.accept_uni()
            data = await group.receive_some()
            assert data.endswith(payload_of(sequence, 0, 100))
            assert await group.receive_some() == b""
            await wait_all_tasks_blocked()
            received(stream)
        assert ended(stream)


async def test_no_start_is_named_where_nothing_will_come() -> None:
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t")
    publish(track, 3)
    track.finish()
    async with raw_subscriber(origin) as raw:
        stream = await raw.request(SUBSCRIBE, Subscribe(0, "b", "t", start=3))
        assert responses(received(stream)) == [lite.SubscribeEnd(3)]
        assert ended(stream)


async def test_an_end_inside_history_sends_no_fin_and_no_end() -> None:
    """The subscriber may still move it; a FIN would say that the track is over."""
    origin = Origin()
    track, _ = await stored_track(origin, range(5))
    publish(track)
    async with raw_subscriber(origin) as raw:
        stream = await raw.request(SUBSCRIBE, Subscribe(0, "b", "t", start=0, end=2))
        assert responses(received(stream)) == [lite.SubscribeStart(0)]
        for _ in range(2):
            raw.connection.accept_uni_nowait()
        with pytest.raises(trio.WouldBlock):
            raw.connection.accept_uni_nowait()
        await stream.send.send_all(SubscribeUpdate(end=4).encode(LITE_05))
        await wait_all_tasks_blocked()
        for _ in range(2):
            raw.connection.accept_uni_nowait()
        with pytest.raises(trio.WouldBlock):
            raw.connection.accept_uni_nowait()
        assert not ended(stream)
        stream.send.finish()
        await wait_all_tasks_blocked()
        assert ended(stream)
        assert len(track.log.watchers) == 0


async def test_a_session_that_ends_never_says_that_everything_was_sent() -> None:
    """P6: a FIN without the rest would be a silent gap."""
    client, server = memory_connection_pair()
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t")
    publish(track, 2)
    track.append_group()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Session(server, LITE_05, publish=origin).run)
        raw = RawSubscriber(client, server, origin)
        stream = await raw.request(SUBSCRIBE, Subscribe(0, "b", "t", start=0))
        assert received(stream)
        nursery.cancel_scope.cancel()
    assert reset_code(stream.receive) == StreamCode.SESSION_CLOSED
    assert_nothing_left(track)
    server.close()
    with pytest.raises(SessionClosed):
        await raw.connection.accept_bidi()


async def test_a_subscribe_id_that_is_in_use_is_refused_and_the_first_goes_on() -> None:
    async with raw_subscriber() as raw:
        track = raw.origin.broadcasts["b"].tracks["t"]
        first = await raw.request(SUBSCRIBE, Subscribe(5, "b", "t"))
        assert received(first)
        second = await raw.request(SUBSCRIBE, Subscribe(5, "b", "t"))
        assert reset_code(second.receive) == StreamCode.MALFORMED
        publish(track)
        await wait_all_tasks_blocked()
        raw.connection.accept_uni_nowait()
        with pytest.raises(trio.WouldBlock):
            raw.connection.accept_uni_nowait()


BAD_UPDATES = {
    "a length that lies": b"\x03\x01\x00\x00\x00\x00",
    "too short": b"\x00",
    "without bound": encode_varint(2**50),
    "a start after the end": b"\x05\x01\x00\x00\x09\x05",
    "not a boolean": b"\x05\x01\x07\x00\x00\x00",
}


@pytest.mark.parametrize("name", BAD_UPDATES)
async def test_a_bad_update_ends_its_subscription(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with raw_subscriber() as raw:
        stream = await raw.request(SUBSCRIBE, Subscribe(5, "b", "t"))
        assert received(stream)
        await stream.send.send_all(BAD_UPDATES[name])
        await wait_all_tasks_blocked()
        assert reset_code(stream.receive) == StreamCode.MALFORMED
        assert "bad update" in caplog.text
        await raw.assert_works()
        assert len(raw.origin.broadcasts["b"].tracks["t"].log.watchers) == 0


@pytest.mark.parametrize("leave", ["fin", "reset", "stop", "both"])
async def test_however_the_subscriber_leaves_nothing_stays(leave: str) -> None:
    origin = Origin()
    track, _ = await stored_track(origin, range(3))
    track.append_group()
    async with raw_subscriber(origin) as raw:
        stream = await raw.request(SUBSCRIBE, Subscribe(5, "b", "t", start=0))
        group = track.append_group()
        await wait_all_tasks_blocked()
        if leave == "fin":
            stream.send.finish()
        if leave in ("reset", "both"):
            stream.send.reset(1)
        if leave in ("stop", "both"):
            stream.receive.stop(1)
            group.write_frame(b"x")
            track.finish()
        await wait_all_tasks_blocked()
        assert len(track.log.watchers) == 0
        live = []
        while True:
            try:
                live.append(raw.connection.accept_uni_nowait())
            except trio.WouldBlock:
                break
        codes = [reset_code(stream) for stream in live]
        assert codes[-2:] == [StreamCode.CANCEL] * 2, "groups that were open are reset"
        assert raw.server_connection.statistics().streams_open == 0
        again = await raw.request(SUBSCRIBE, Subscribe(5, "b", "t", start=0))
        assert received(again), "the id is free again"


async def test_a_thousand_wishes_a_second_leave_one_wait() -> None:
    origin = Origin()
    _, target = await stored_track(origin, range(10))
    target.stall()
    async with raw_subscriber(origin) as raw:
        stream = await raw.request(SUBSCRIBE, Subscribe(5, "b", "t", start=0))
        for start in range(1000):
            await stream.send.send_all(SubscribeUpdate(start=start % 9, end=None).encode(LITE_05))
            if start % 100 == 0:
                await wait_all_tasks_blocked()
        await wait_all_tasks_blocked()
        assert target._changed.statistics().tasks_waiting == 1
        stream.send.finish()
        await wait_all_tasks_blocked()
        assert target._changed.statistics().tasks_waiting == 0


# Fetches, announcements and the rest


@pytest.mark.parametrize("leave", ["stop", "both"])
async def test_a_fetch_that_is_not_wanted_any_more_ends(leave: str) -> None:
    """Else a peer could pile up tasks that wait for a group nobody writes to."""
    origin = Origin()
    track, target = await stored_track(origin, range(2))
    group = track.append_group()
    async with raw_subscriber(origin) as raw:
        for sequence in (group.sequence, 0):
            if sequence == 0:
                target.stall()
            for _ in range(300):  # more than may be open at once
                stream = await raw.request(FETCH, Fetch("b", "t", 0, sequence))
                stream.receive.stop(StreamCode.CANCEL)
                if leave == "both":
                    stream.send.reset(StreamCode.CANCEL)
            await wait_all_tasks_blocked()
            assert len(track.log.watchers) == 0
            assert target._changed.statistics().tasks_waiting == 0
        assert raw.server_connection.statistics().streams_open == 0


async def test_a_fetch_with_a_fin_is_answered_all_the_same() -> None:
    origin = Origin()
    await stored_track(origin, range(2))
    async with raw_subscriber(origin) as raw:
        stream = await raw.request(FETCH, Fetch("b", "t", 0, 1), finish=True)
        assert received(stream).endswith(payload_of(1))
        assert ended(stream)


async def test_a_group_that_is_aborted_resets_its_fetch() -> None:
    async with raw_subscriber() as raw:
        group = raw.origin.broadcasts["b"].tracks["t"].append_group()
        group.write_frame(b"part")
        stream = await raw.request(FETCH, Fetch("b", "t", 0, 0))
        assert received(stream)
        group.abort(0)
        await wait_all_tasks_blocked()
        assert reset_code(stream.receive) == 0


@pytest.mark.parametrize("leave", ["fin", "reset", "stop", "close"])
async def test_announcements_end_quietly_however_the_peer_leaves(
    leave: str, caplog: pytest.LogCaptureFixture
) -> None:
    origin = Origin()
    async with raw_subscriber(origin, transport=TransportSettings(stream_window=10)) as raw:
        stream = await raw.request(ANNOUNCE, AnnounceRequest(""))
        origin.create_broadcast("x" * 100_000)
        origin.create_broadcast("y" * 200_000)
        await wait_all_tasks_blocked()
        if leave == "fin":
            stream.send.finish()
        elif leave == "reset":
            stream.send.reset(1)
        elif leave == "stop":
            stream.receive.stop(1)
        else:
            raw.connection.close()
        await wait_all_tasks_blocked()
        origin.create_broadcast("z")
        await wait_all_tasks_blocked()
        assert len(origin._watchers) == 0
    assert not [record for record in caplog.records if record.exc_info], caplog.text


async def test_goaway_is_logged_and_answered_with_a_fin(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with raw_subscriber() as raw:
        stream = await raw.request(GOAWAY, Goaway("https://elsewhere"), finish=True)
        assert ended(stream)
        assert "going away, to 'https://elsewhere'" in caplog.text


# Everything at once


@given(
    st.lists(
        st.tuples(
            st.booleans(),
            st.one_of(
                st.binary(max_size=40),
                st.builds(
                    lambda kind, cut, junk: (
                        encode_varint(kind) + REQUESTS[kind].encode(LITE_05)[:cut] + junk
                    ),
                    st.sampled_from(sorted(REQUESTS)),
                    st.integers(0, 30),
                    st.binary(max_size=10),
                ),
                st.builds(
                    lambda header, junk: b"\x00" + header + junk,
                    st.binary(max_size=6),
                    st.binary(max_size=30),
                ),
            ),
            st.sampled_from(["fin", "reset", "nothing"]),
        ),
        max_size=8,
    )
)
@settings(max_examples=200)
def test_no_bytes_do_more_than_end_their_stream(
    plan: list[tuple[bool, bytes, str]],
) -> None:
    records: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(record)

    async def main() -> None:
        origin = Origin()
        track, _ = await stored_track(origin, range(3))
        publish(track)
        async with raw_subscriber(origin) as raw:
            setups = 0
            for bidi, data, end in plan:
                if bidi:
                    stream = await raw.connection.open_bidi()
                    send = stream.send
                else:
                    send = await raw.connection.open_uni()
                    setups += data[:1] == b"\x01"
                await send.send_all(data)
                if end == "fin":
                    send.finish()
                elif end == "reset":
                    send.reset(1)
                await wait_all_tasks_blocked()
            if raw.connection.closed is None:
                await raw.assert_works()
                await trio.sleep(30)
                await raw.assert_works()
            else:
                assert setups > 1
                assert raw.connection.closed.code == SessionCode.PROTOCOL_VIOLATION
        await wait_all_tasks_blocked()
        assert_nothing_left(track)
        assert len(origin._watchers) == 0

    handler = Keep()
    logging.getLogger("moqtrio").addHandler(handler)
    try:
        trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        logging.getLogger("moqtrio").removeHandler(handler)
    assert not [record.getMessage() for record in records if record.exc_info]


async def test_a_setup_that_is_a_stream_of_bytes() -> None:
    async with raw_subscriber() as raw:
        stream = await raw.connection.open_uni()
        data = bytes([UniStreamType.SETUP]) + Setup(path="/a?b", origin=5).encode(LITE_05)
        for byte in data:
            await stream.send_all(bytes([byte]))
            await wait_all_tasks_blocked()
        stream.finish()
        await raw.assert_works()


async def test_a_flood_of_updates_leaves_others_their_turn() -> None:
    """One read brings ten thousand of them."""
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t")
    publish(track)
    update = SubscriptionServer._update
    updates = 0
    turns = [0]

    def count(server: SubscriptionServer, message: SubscribeUpdate) -> None:
        nonlocal updates
        updates += 1
        update(server, message)

    async def watch() -> None:
        while True:
            before = updates
            await trio.lowlevel.checkpoint()
            turns.append(updates - before)

    async with raw_subscriber(origin) as raw, trio.open_nursery() as nursery:
        stream = await raw.request(SUBSCRIBE, Subscribe(1, "b", "t", start=0))
        flood = b"".join(
            SubscribeUpdate(priority=each % 2, start=0).encode(LITE_05) for each in range(3000)
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(SubscriptionServer, "_update", count)
            nursery.start_soon(watch)
            await stream.send.send_all(flood)
            with trio.fail_after(10):
                while updates < 3000:
                    await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert max(turns) <= 4
