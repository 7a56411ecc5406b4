"""The engine without I/O: the fast path beside aioquic's own, and the cost of idle streams."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from aioquic.buffer import encode_uint_var
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.tls import Epoch
from hypothesis import given, settings
from hypothesis import strategies as st

from moqtrio.transport.quic.configuration import client_configuration, server_configuration
from moqtrio.transport.quic.engine import Engine, EngineStream

from .pairs import ALPN, development_tls, pinned, plain_settings

CLIENT, SERVER = ("10.0.0.1", 1), ("10.0.0.2", 2)


@attrs.define
class Recorder:
    """An owner that writes down what it is told."""

    told: list[tuple[Any, ...]] = attrs.Factory(list)
    streams: dict[int, EngineStream] = attrs.Factory(dict)

    def stream_opened(self, stream: EngineStream) -> None:
        self.streams[stream.stream_id] = stream
        self.told.append(("opened", stream.stream_id))

    def stream_data(self, stream: EngineStream, data: bytes, ended: bool) -> None:
        self.told.append(("data", stream.stream_id, data, ended))

    def stream_reset(self, stream: EngineStream, error_code: int) -> None:
        self.told.append(("reset", stream.stream_id, error_code))

    def stream_stopped(self, stream: EngineStream, error_code: int) -> None:
        self.told.append(("stopped", stream.stream_id, error_code))

    def stream_delivered(self, stream: EngineStream) -> None:
        self.told.append(("delivered", stream.stream_id))

    def stream_discarded(self, stream: EngineStream) -> None:
        self.told.append(("discarded", stream.stream_id))

    def stream_credit_grew(self) -> None:
        self.told.append(("credit",))

    @property
    def received(self) -> dict[int, bytes]:
        received: dict[int, bytes] = {}
        for what, *rest in self.told:
            if what == "data":
                received[rest[0]] = received.get(rest[0], b"") + rest[1]
        return received


class Pair:
    """Two engines that shook hands."""

    def __init__(self, **options: Any) -> None:
        chosen = plain_settings(**options)
        tls = development_tls()
        self.now = 1.0
        self.near, self.far = Recorder(), Recorder()
        self.client = Engine(
            configuration=client_configuration(
                alpn=[ALPN],
                tls=pinned(),
                authorities=None,
                server_name="server.test",
                settings=chosen,
                secrets=None,
            ),
            settings=chosen,
            owner=self.near,
        )
        self.client.connect(SERVER, self.now)
        self.server = Engine(
            configuration=server_configuration(alpn=[ALPN], tls=tls, settings=chosen, secrets=None),
            settings=chosen,
            owner=self.far,
            original_destination_connection_id=self.client.original_destination_connection_id,
        )
        for _ in range(6):
            self.round_trip()
        assert self.client.handshake_complete
        assert self.server.handshake_complete

    def round_trip(self) -> None:
        for source, target, address in (
            (self.client, self.server, CLIENT),
            (self.server, self.client, SERVER),
        ):
            self.now += 0.005
            for data, _ in source.transmit(self.now):
                target.receive_datagram(data, address, self.now)

    def send_raw(self, payload: bytes) -> None:
        """Have the client send any payload in a well-formed packet."""
        client = self.client
        builder = QuicPacketBuilder(
            host_cid=client.host_cid,
            is_client=True,
            max_datagram_size=1200,
            packet_number=client._packet_number,
            peer_cid=client._peer_cid.cid,
            version=client._version,
        )
        builder.start_packet(QuicPacketType.ONE_RTT, client._cryptos[Epoch.ONE_RTT])
        builder._buffer.push_bytes(payload)
        datagrams, _ = builder.flush()
        client._packet_number = builder.packet_number
        for data in datagrams:
            self.server.receive_datagram(data, CLIENT, self.now)

    def seen_by_server(self) -> tuple[Any, ...]:
        server = self.server
        space = server._spaces[Epoch.ONE_RTT]
        return (
            self.far.told,
            server.close_cause,
            list(space.ack_queue),
            space.largest_received_packet,
            space.ack_at is None,
            server._local_max_data.used,
            sorted(server._streams),
        )


identifiers = st.sampled_from([0, 1, 2, 3, 4, 6, 10, 14, 4 * 70, 4 * 2000 + 2])
offsets = st.sampled_from([0, 1, 5, 63, 64, 16383, 16384, 1 << 20, 1 << 30, (1 << 62) - 1])


@st.composite
def stream_frames(draw: st.DrawFn) -> bytes:
    kind = draw(st.integers(0x08, 0x0F))
    data = draw(st.binary(max_size=40))
    frame = bytes([kind]) + encode_uint_var(draw(identifiers))
    if kind & 4:
        frame += encode_uint_var(draw(offsets))
    if kind & 2:
        frame += encode_uint_var(len(data) + draw(st.sampled_from([0, 0, 0, 0, 1, 1000])))
    return frame + data


other_frames = st.sampled_from(
    [
        b"\x00",
        b"\x00" * 9,
        b"\x01",
        b"\x02\x00\x00\x00\x00",
        b"\x04\x02\x07\x05",
        b"\x05\x01\x07",
        b"\x10\x40\xff",
        b"\x12\x05",
        b"\x1c\x00\x00\x00",
        b"\x1d\x05\x02hi",
        b"\x1e",
        b"\x30datagram",
        b"\x21",
        b"\xff",
        b"\x40\x0a\x02\x01x",
    ]
)
payloads = st.lists(stream_frames() | other_frames | st.binary(max_size=6), min_size=1, max_size=6)


@given(st.lists(payloads, min_size=1, max_size=4))
@settings(max_examples=150)
def test_the_fast_path_understands_what_aioquic_does(packets: list[list[bytes]]) -> None:
    fast, stock = Pair(fast_path=True), Pair(fast_path=False)
    # The rest of a packet belongs to a frame without a length; pad short ones alike.
    for pair in (fast, stock):
        pair.client._packet_number = 100
        for frames in packets:
            pair.send_raw(b"".join(frames)[:1100].ljust(4, b"\x00"))
    assert fast.seen_by_server() == stock.seen_by_server()


@pytest.mark.parametrize("fast_path", [True, False])
@pytest.mark.parametrize("size", [1200, 1500, 9000, 16384])
def test_both_ways_of_sending_arrive(fast_path: bool, size: int) -> None:
    pair = Pair(fast_path=fast_path, max_datagram_size=size)
    expected = {}
    for number in range(200):
        stream = pair.client.open_stream(uni=True)
        expected[stream.stream_id] = data = bytes([number]) * (number * 7)
        pair.client.write(stream, data, True)
    for _ in range(80):
        pair.round_trip()
        if len(pair.near.told) >= 2 * len(expected):
            break
    del expected[2]  # the first is empty: its end is all that comes
    assert {key: value for key, value in pair.far.received.items() if value} == expected
    assert sum(told[0] == "discarded" for told in pair.near.told) == 200
    assert pair.client.streams_open == pair.server.streams_open == 0
    assert pair.client.unsent == 0


@pytest.mark.parametrize("fast_path", [True, False])
def test_a_key_update_changes_nothing(fast_path: bool) -> None:
    pair = Pair(fast_path=fast_path)
    stream = pair.client.open_stream(uni=True)
    for number in range(6):
        pair.client.write(stream, b"%d" % number, number == 5)
        if number % 2:
            (pair.client if number == 1 else pair.server).request_key_update()
        for _ in range(3):
            pair.round_trip()
    assert pair.far.received == {2: b"012345"}
    assert pair.server._cryptos[Epoch.ONE_RTT].recv.key_phase == 1  # three times over


def test_a_tampered_packet_is_dropped() -> None:
    pair = Pair()
    stream = pair.client.open_stream(uni=True)
    pair.client.write(stream, b"secret", True)
    (data, _), *_ = pair.client.transmit(pair.now)
    for index in range(len(data)):
        tampered = bytearray(data)
        tampered[index] ^= 1
        pair.server.receive_datagram(bytes(tampered), CLIENT, pair.now)
    assert pair.far.received == {}
    pair.server.receive_datagram(data, CLIENT, pair.now)
    assert pair.far.received == {2: b"secret"}
    pair.server.receive_datagram(data, CLIENT, pair.now)
    assert pair.far.received == {2: b"secret"}


def frames_looked_at(open_streams: int) -> int:
    """How often the scheduler looks at a stream to send 100 kB beside idle ones."""
    pair = Pair(max_streams_uni=open_streams + 1, fast_path=False)
    idle = [pair.client.open_stream(uni=True) for _ in range(open_streams)]
    for stream in idle:
        pair.client.write(stream, b"x", False)
    for _ in range(20):
        pair.round_trip()
    assert pair.server.streams_open == open_streams
    looks = 0

    class Counting(type(idle[0].sender)):  # type: ignore[misc]  # a class made at run time
        __slots__ = ()

        @property
        def has_frames(self) -> bool:
            nonlocal looks
            looks += 1
            return bool(super().has_frames)

    for stream in idle:
        stream.sender.__class__ = Counting
    busy = pair.client.open_stream(uni=True)
    busy.sender.__class__ = Counting
    pair.client.write(busy, bytes(100_000), True)
    while not busy.is_finished:
        pair.round_trip()
    return looks


def test_idle_streams_cost_nothing_per_packet() -> None:
    assert frames_looked_at(1000) <= frames_looked_at(1) + 20


def test_a_peer_that_ignores_the_windows_is_refused() -> None:
    pair = Pair(stream_window=1000, fast_path=True)
    # An honest length of 1001 bytes on stream 2.
    pair.send_raw(b"\x0a\x02" + encode_uint_var(1001) + bytes(1001))
    cause = pair.server.close_cause
    assert cause is not None
    assert "stream data limit" in cause[2]


def test_a_peer_that_opens_too_many_streams_is_refused() -> None:
    pair = Pair(max_streams_uni=3)
    pair.send_raw(b"\x0a" + encode_uint_var(4 * 3 + 2) + b"\x01x")
    cause = pair.server.close_cause
    assert cause is not None
    assert "Too many streams" in cause[2]


def test_an_overlong_reason_is_cut_to_fit() -> None:
    pair = Pair()
    pair.client.shut(7, "é" * 5000)
    pair.round_trip()
    cause = pair.server.close_cause
    assert cause is not None
    code, frame_type, reason, remote = cause
    assert (code, frame_type, remote) == (7, None, True)
    assert set(reason) == {"é"}


@pytest.mark.parametrize("fast_path", [True, False])
def test_packets_from_before_a_key_update_are_understood_for_a_while(fast_path: bool) -> None:
    pair = Pair(fast_path=fast_path)
    streams = [pair.client.open_stream(uni=True) for _ in range(3)]
    late: list[bytes] = []
    for stream in streams:
        pair.client.write(stream, b"early", True)
        late += [data for data, _ in pair.client.transmit(pair.now)]
    assert len(late) == 3
    # The server updates its keys, and these are still under way.
    pair.server.request_key_update()
    pair.server.ping()
    answers = pair.server.transmit(pair.now)
    pair.server.receive_datagram(late[0], CLIENT, pair.now)
    assert pair.far.received == {2: b"early"}
    pair.server.receive_datagram(late[0], CLIENT, pair.now)  # a duplicate is one
    for data, _ in answers:
        pair.client.receive_datagram(data, SERVER, pair.now)
    pair.round_trip()
    pair.server.receive_datagram(late[1], CLIENT, pair.now)
    assert pair.far.received == {2: b"early", 6: b"early"}
    # Once the client is known to have the new keys, the old ones go (RFC 9001 section 6.5).
    for _ in range(6):
        pair.round_trip()
    pair.server.receive_datagram(late[1], CLIENT, pair.now)
    assert pair.server._old_keys is not None
    pair.now += 1
    seen = pair.seen_by_server()
    pair.server.receive_datagram(late[1], CLIENT, pair.now)
    assert pair.server._old_keys is None
    tampered = late[2][:-1] + bytes([late[2][-1] ^ 1])
    pair.server.receive_datagram(tampered, CLIENT, pair.now)
    assert pair.seen_by_server() == seen
