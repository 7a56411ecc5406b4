"""What differs between versions: how they are asked, what they answer, what they lack."""

from __future__ import annotations

import math

import attrs
import pytest
import session_pairs
import trio
from session_pairs import groups, payload_of, publish, see, see_all, session_pair, stored_track
from session_raw import FETCH, SUBSCRIBE, TRACK, RawSubscriber, raw_subscriber, received, responses
from trio.testing import MockClock, wait_all_tasks_blocked

from moqtrio.errors import RequestError, StreamCode
from moqtrio.model import Origin, Track, TrackInfo
from moqtrio.session import Gap
from moqtrio.session.control import ControlStream
from moqtrio.session.latency import LONGEST_LATENCY
from moqtrio.session.session import open_session_over
from moqtrio.transport.connection import ReceiveStream
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.wire import LITE_03, LITE_04, LITE_05, LITE_06, Version, lite

SECOND = 1_000_000


def timed_track(origin: Origin, count: int) -> Track:
    """The track ``b/t`` with one group for each second."""
    track = origin.create_broadcast("b").create_track("t", cache_age=math.inf)
    for sequence in range(count):
        track.write_frame(payload_of(sequence), sequence * SECOND)
    return track


# SETUP


async def test_what_both_sides_say_of_themselves(each_version: Version) -> None:
    origin = Origin()
    client, server = memory_connection_pair()
    async with (
        open_session_over(server, each_version, publish=origin) as here,
        open_session_over(client, each_version, path="/room?x=1") as there,
    ):
        await wait_all_tasks_blocked()
        told = each_version.draft >= 5
        assert here.peer_path == ("/room?x=1" if told else None)
        assert here.peer_role == ("subscriber" if told else None)
        assert there.peer_origin == (origin.hop_id if told else None)
        assert there.peer_path is there.peer_role is there.peer_cost is here.peer_origin is None


@pytest.mark.parametrize(
    ("told", "path"), [("/", None), ("", None), ("/a?b", "/a?b"), ("?b", "/?b"), ("a", "/a")]
)
async def test_a_path_looks_the_same_whatever_carries_it(told: str, path: str | None) -> None:
    client, server = memory_connection_pair()
    async with (
        open_session_over(server, LITE_06) as here,
        open_session_over(client, LITE_06, path=told),
    ):
        await wait_all_tasks_blocked()
        assert here.peer_path == path


async def test_a_peer_without_setup_delays_announcements_little(autojump_clock: MockClock) -> None:
    client, server = memory_connection_pair()

    async def announce() -> None:
        control = ControlStream(await server.accept_bidi(), LITE_06)
        await control.read_varint()
        await control.require(lite.AnnounceRequest)
        encoder = lite.AnnounceEncoder(LITE_06, 7)
        found = lite.Announce(lite.AnnounceStatus.ACTIVE, "b", (), 3, 3)
        await control.send.send_all(encoder.encode_ok(1) + encoder.encode(found))

    async with open_session_over(client, LITE_06) as session, trio.open_nursery() as nursery:
        nursery.start_soon(announce)
        async with session.announced() as announcements:
            assert (await announcements.receive()).cost == 3 + 1
            assert trio.current_time() <= 1.0


# Before draft 05


@pytest.mark.parametrize("version", [LITE_03, LITE_04], ids=str)
async def test_what_older_versions_lack_is_said(
    version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_pairs, "spoken", version)
    origin = Origin()
    publish(origin.create_broadcast("b").create_track("t"), 2)
    async with session_pair(origin) as pair:
        expected = rf"{version} cannot .* need moq-lite-05"
        with pytest.raises(RequestError, match=expected):
            await pair.client.fetch("b", "t", 1)
        with pytest.raises(RequestError, match=expected):
            await pair.client.find_time("b", "t", 0.0)
        with pytest.raises(RequestError, match=expected):
            await pair.client.track_info("b", "t")
        for kind, request in (
            (FETCH, lite.Fetch("b", "t", 0, 1).encode(LITE_05)),
            (TRACK, lite.Track("b", "t").encode(LITE_05)),
        ):
            stream = await pair.client_connection.open_bidi()
            await stream.send.send_all(bytes([kind]) + request)
            await wait_all_tasks_blocked()
            assert session_pairs.reset_code(stream.receive) == StreamCode.CANCEL


@pytest.mark.parametrize("version", [LITE_03, LITE_04], ids=str)
async def test_older_versions_answer_with_the_tracks_properties(
    version: Version, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    monkeypatch.setattr(session_pairs, "spoken", version)
    origin = Origin()
    info = TrackInfo(priority=9, ordered=False, max_latency=2.0)
    track = origin.create_broadcast("b").create_track("t", info=info)
    async with session_pair(origin) as pair:
        with pytest.raises(RequestError, match="unroutable"):
            async with pair.client.subscribe("none", "t"):
                pass
        async with pair.client.subscribe("b", "t", start=0) as subscription:
            assert subscription.info == info
            track.write_frame(b"x", 5)
            group = await subscription.receive()
            assert not isinstance(group, Gap)
            before = pair.client._subscriptions._now_us()
            assert (await group.receive()).timestamp_us >= before > 1_600_000_000 * SECOND


@pytest.mark.parametrize("order", ["sequence", "arrival"])
@pytest.mark.parametrize("told", [None, 3], ids=["untold", "told"])
async def test_a_publisher_that_says_neither_start_nor_end(
    order: str, told: int | None, autojump_clock: MockClock
) -> None:
    """moq-rs does not, on draft 04: nothing may be lost in silence for all that."""
    client, server = memory_connection_pair()
    streams: list[ControlStream] = []

    async def answer() -> None:
        control = ControlStream(await server.accept_bidi(), LITE_04)
        await control.read_varint()
        await control.require(lite.Subscribe)
        await control.send_all(lite.SubscribeOk(127, True, 0.0, told))
        streams.append(control)

    async def group(sequence: int) -> None:
        stream = await server.open_uni()
        header = lite.encode_group_header(0, sequence, LITE_04)
        await stream.send_all(header + b"\x01x")
        stream.finish()

    async with open_session_over(client, LITE_04) as session, trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        async with session.subscribe(
            "b",
            "t",
            order=order,  # type: ignore[arg-type]  # one of the two
        ) as subscription:
            for sequence in (4, 3, 7):
                await group(sequence)
            await wait_all_tasks_blocked()
            streams[0].finish()
            seen = await see_all(subscription)
            came = {item[0] for item in seen if not isinstance(item, Gap)}
            gaps = [(item.start, item.end) for item in seen if isinstance(item, Gap)]
            assert came == {3, 4, 7}
            assert gaps == [(5, 7)]
            assert (subscription.start, subscription.final) == (3, 8)


# Draft 06


async def test_the_latest_group_and_then_everything() -> None:
    """Draft 06 sends the latest alone, or all that is young: neither is what was asked for."""
    origin = Origin()
    track = timed_track(origin, 5)
    async with session_pair(origin) as pair, pair.client.subscribe("b", "t") as subscription:
        assert await see(subscription) == groups(4)[0]
        for sequence in range(5, 50):
            track.write_frame(payload_of(sequence), sequence * 3600 * SECOND)
        track.finish()
        assert await see_all(subscription) == groups(*range(5, 50))
        assert subscription.start == 4


async def test_the_latest_of_a_track_that_is_empty() -> None:
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t")
    async with session_pair(origin) as pair, pair.client.subscribe("b", "t") as subscription:
        await wait_all_tasks_blocked()
        publish(track, 3)
        track.finish()
        assert await see_all(subscription) == groups(0, 1, 2)


async def test_a_change_before_the_latest_is_known() -> None:
    origin = Origin()
    track, target = await stored_track(origin, range(5))
    target.stall()
    async with session_pair(origin) as pair, pair.client.subscribe("b", "t") as subscription:
        await wait_all_tasks_blocked()
        await subscription.update(end=6)
        target.resume()
        publish(track, 3)
        assert await see_all(subscription) == groups(4, 5)


async def test_an_end_below_the_latest() -> None:
    origin = Origin()
    publish(origin.create_broadcast("b").create_track("t"), 5)
    async with session_pair(origin) as pair, pair.client.subscribe("b", "t", end=3) as subscription:
        with trio.fail_after(5):
            assert await see_all(subscription) == []


async def test_history_does_not_count_as_late(each_version: Version) -> None:
    """A max latency beside a start is for what comes later: the same in every version."""
    origin = Origin()
    timed_track(origin, 20)
    async with (
        session_pair(origin) as pair,
        pair.client.subscribe("b", "t", start=3, end=20, max_latency=2.0) as subscription,
    ):
        assert await see_all(subscription) == groups(*range(3, 20))


@attrs.frozen
class Started:
    """What a subscription by hand came to."""

    start: int
    groups: dict[int, tuple[int, bytes]]


async def subscribe(raw: RawSubscriber, number: int = 0, **wishes: int | float | None) -> Started:
    """Subscribe at draft 06; for each group the first frame's number, and the frames."""
    request = lite.Subscribe(number, "b", "t", **{"start": 0, **wishes})  # type: ignore[arg-type]
    control = await raw.request(SUBSCRIBE, request.encode(LITE_06))
    (start, *_) = responses(received(control), LITE_06)
    assert isinstance(start, lite.SubscribeStart)
    found: dict[int, tuple[int, bytes]] = {}
    while True:
        try:
            stream: ReceiveStream = raw.connection.accept_uni_nowait()
        except trio.WouldBlock:
            break
        data = stream.receive_nowait()
        header = lite.decode_group_header(data, LITE_06)
        assert header is not None
        _, sequence, first, consumed = header
        decoder = lite.FrameDecoder(1_000_000, lambda payload, _: payload)
        found[sequence] = first, b",".join(decoder.feed(data, consumed))
    control.send.reset(StreamCode.CANCEL)
    await wait_all_tasks_blocked()
    return Started(start.start, found)


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({"max_latency": LONGEST_LATENCY}, range(20)),
        ({"max_latency": 60.0}, range(20)),
        ({"max_latency": 60.0, "start": 4}, range(4, 20)),
        ({"max_latency": 2.5}, range(17, 20)),
        ({"max_latency": 2.5, "start": 18}, range(18, 20)),
        ({"max_latency": 2.5, "start": 4}, range(17, 20)),
        ({"max_latency": 60.0, "start": 4, "end": 6}, range(4, 6)),
        ({"max_latency": 0.0}, range(19, 20)),
        ({"max_latency": 0.0, "start": 4}, range(19, 20)),
    ],
)
async def test_how_much_of_the_past_comes(
    wishes: dict[str, float], expected: range, stored: bool
) -> None:
    """As captured from moq-rs."""
    origin = Origin()
    if stored:
        await stored_seconds(origin, 20)
    else:
        timed_track(origin, 20)
    async with raw_subscriber(origin, version=LITE_06) as raw:
        came = await subscribe(raw, **wishes)
        assert came.start == expected.start
        assert list(came.groups) == list(expected)


@pytest.mark.parametrize(("published", "expected"), [(3, [100, 101, 102]), (0, [])])
async def test_an_application_is_not_asked_how_old_its_groups_are(
    published: int, expected: list[int]
) -> None:
    """To it every look would be a group. Who names what it wants has all of it."""
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t", first_sequence=100, cache_age=math.inf)
    with track.requests() as requests:
        for second in range(published):
            track.write_frame(b"x", second * SECOND)
        async with raw_subscriber(origin, version=LITE_06) as raw:
            came = await subscribe(raw, max_latency=60.0)
            assert (came.start, list(came.groups)) == (100, expected)
            with pytest.raises(trio.WouldBlock):
                requests.receive_nowait()
            await subscribe_to_all(raw)
            assert requests.receive_nowait().sequence == 0


async def subscribe_to_all(raw: RawSubscriber) -> None:
    request = lite.Subscribe(1, "b", "t", start=0, max_latency=LONGEST_LATENCY)
    await raw.request(SUBSCRIBE, request.encode(LITE_06))


async def stored_seconds(origin: Origin, count: int) -> None:
    """As :func:`timed_track`, with all of it in the store alone."""
    target = session_pairs.MemoryStore().track("b", "t")
    for sequence in range(count):
        frame = session_pairs.Frame(payload_of(sequence), sequence * SECOND)
        write = session_pairs.GroupWrite(sequence, 0, [frame], session_pairs.FINISHED)
        await target.write([write])
    origin.create_broadcast("b").create_track("t", store=session_pairs.Recorded(target))


@pytest.mark.parametrize(
    ("wishes", "expected"),
    [
        ({"start": 4, "frame_start": 1}, {4: (1, b"41,42"), 5: (0, b"50,51,52")}),
        ({"start": 3, "end": 4, "frame_end": 2}, {3: (0, b"30,31")}),
        (
            {"start": 3, "end": 5, "frame_start": 1, "frame_end": 2},
            {3: (1, b"31,32"), 4: (0, b"40,41")},
        ),
        ({"start": 4, "end": 5, "frame_start": 1, "frame_end": 2}, {4: (1, b"41")}),
        ({"start": 5, "frame_start": 9}, {5: (9, b"")}),
    ],
)
async def test_some_frames_of_the_first_and_of_the_last_group(
    wishes: dict[str, int], expected: dict[int, tuple[int, bytes]]
) -> None:
    """As captured from moq-rs."""
    async with raw_subscriber(lettered(), version=LITE_06) as raw:
        came = await subscribe(raw, max_latency=60.0, **wishes)
        assert came.groups == expected


def lettered() -> Origin:
    """Six groups of the track ``b/t``, of three frames each: ``00`` to ``52``."""
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t", cache_age=math.inf)
    for sequence in range(6):
        with track.append_group() as group:
            for index in range(3):
                group.write_frame(b"%d%d" % (sequence, index), 1000 * sequence + index)
    return origin


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, None, [b"40", b"41", b"42"]),
        (1, None, [b"41", b"42"]),
        (0, 1, [b"40"]),
        (1, 2, [b"41"]),
        (2, 9, [b"42"]),
        (7, None, []),
    ],
)
async def test_fetching_some_frames(start: int, end: int | None, expected: list[bytes]) -> None:
    async with session_pair(lettered()) as pair:
        group = await pair.client.fetch("b", "t", 4, frame_start=start, frame_end=end)
        frames = await group.read_all()
        assert [frame.payload for frame in frames] == expected
        assert [frame.timestamp_us for frame in frames] == [
            4000 + int(each) - 40 for each in expected
        ]


async def test_no_frames_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    async with session_pair(lettered()) as pair:
        with pytest.raises(ValueError, match="frame start < end"):
            await pair.client.fetch("b", "t", 4, frame_start=1, frame_end=1)
    monkeypatch.setattr(session_pairs, "spoken", LITE_05)
    async with session_pair(lettered()) as pair:
        with pytest.raises(ValueError, match="has no frame ranges"):
            await pair.client.fetch("b", "t", 4, frame_start=1)


async def test_frames_of_a_group_that_is_still_written() -> None:
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t")
    async with session_pair(origin) as pair, trio.open_nursery() as nursery:
        with track.append_group() as writer:
            writer.write_frame(b"0")
            came: list[list[bytes]] = []

            async def fetch() -> None:
                group = await pair.client.fetch("b", "t", 0, frame_start=1, frame_end=3)
                came.append([frame.payload for frame in await group.read_all()])

            nursery.start_soon(fetch)
            for index in (1, 2):
                await wait_all_tasks_blocked()
                assert not came
                writer.write_frame(b"%d" % index)
            await wait_all_tasks_blocked()
            assert came == [[b"1", b"2"]], "the rest of the group is not waited for"


async def test_a_group_without_its_first_frames_is_not_taken_for_the_whole(
    autojump_clock: MockClock,
) -> None:
    async with (
        session_pair(lettered()) as pair,
        pair.client.subscribe("b", "t", start=100) as subscription,
    ):
        await wait_all_tasks_blocked()
        for sequence, first in ((100, 2), (101, 0)):
            stream = await pair.server_connection.open_uni()
            header = lite.encode_group_header(subscription.subscribe_id, sequence, LITE_06, first)
            await stream.send_all(header)
            stream.finish()
        assert await see(subscription) == Gap(100, 101, StreamCode.DELIVERY_TIMEOUT)
        assert await see(subscription) == (101, [])
