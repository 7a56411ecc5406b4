"""The engine against a hostile peer: what it makes us keep, and for how long."""

from __future__ import annotations

from typing import Any

import pytest
from aioquic.buffer import encode_uint_var
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import Epoch

from moqtrio.transport.quic import buffers
from moqtrio.transport.quic.engine import Engine, core
from moqtrio.transport.quic.engine.stock import StockConnection

from .pairs import plain_settings
from .test_quic_engine import CLIENT, SERVER, Pair


def crumb(stream_id: int, offset: int, data: bytes = b"x") -> bytes:
    """A STREAM frame with an offset and a length."""
    return (
        b"\x0e"
        + encode_uint_var(stream_id)
        + encode_uint_var(offset)
        + encode_uint_var(len(data))
        + data
    )


def crypto_crumb(offset: int) -> bytes:
    return b"\x06" + encode_uint_var(offset) + b"\x01x"


def close_code(engine: Engine) -> int | None:
    cause = engine.close_cause
    return None if cause is None else cause[0]


@pytest.mark.parametrize("fast_path", [True, False])
def test_crumbs_are_counted_over_all_streams(
    monkeypatch: pytest.MonkeyPatch, fast_path: bool
) -> None:
    monkeypatch.setattr(buffers, "MAX_PIECES", 100)
    pair = Pair(fast_path=fast_path)
    for number in range(10):
        pair.send_raw(b"".join(crumb(4 * number + 2, 2 * index + 1) for index in range(10)))
    assert close_code(pair.server) is None
    pair.send_raw(crumb(4 * 20 + 2, 1))
    assert close_code(pair.server) == QuicErrorCode.INTERNAL_ERROR


def test_crumbs_that_find_their_place_count_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffers, "MAX_PIECES", 100)
    pair = Pair()
    for number in range(30):
        stream_id = 4 * number + 2
        pair.send_raw(b"".join(crumb(stream_id, 2 * index + 1) for index in range(40)))
        if number % 2:
            pair.send_raw(crumb(stream_id, 0, bytes(200)))
        else:
            pair.send_raw(b"\x04" + encode_uint_var(stream_id) + b"\x00\x40\xc8")
    assert close_code(pair.server) is None
    assert pair.server._pieces.held == 0


def test_crypto_crumbs_are_refused() -> None:
    pair = Pair()
    for packet in range(40):
        first = 1 + packet * 400
        pair.send_raw(b"".join(crypto_crumb(first + 2 * index) for index in range(200)))
    assert close_code(pair.server) == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED


def test_streams_given_up_while_the_peer_gives_no_credit_are_forgotten() -> None:
    pair = Pair(connection_window=1000, max_streams_uni=10_000)
    engine = pair.client
    for _ in range(200):
        stream = engine.open_stream(uni=True)
        engine.write(stream, bytes(100), False)
        pair.round_trip()
        engine.abandon(stream, 1)
        pair.round_trip()
    pair.round_trip()
    assert engine.streams_open == 0
    assert len(engine._out_of_data_credit) == 0


def test_streams_given_up_or_moved_while_nothing_can_be_sent_leave_no_trace() -> None:
    pair = Pair(max_streams_uni=10_000)
    engine = pair.client
    oldest = engine.open_stream(uni=True)
    engine.write(oldest, bytes(1_000_000), True)
    held_up = engine.transmit(pair.now)  # fills the congestion window
    for number in range(10_000):
        engine.prioritise(oldest, number % 2)
    assert len(engine._queue.entries) < 500
    for data, _ in held_up:
        pair.server.receive_datagram(data, CLIENT, pair.now)
    for _ in range(60):
        pair.round_trip()
    assert pair.far.received == {2: bytes(1_000_000)}


def test_a_long_reason_does_not_keep_an_error_from_being_told() -> None:
    pair = Pair()
    code = QuicErrorCode.PROTOCOL_VIOLATION
    pair.client.close(error_code=code, frame_type=0, reason_phrase="é" * 5000)
    pair.round_trip()
    assert close_code(pair.server) == code


@pytest.mark.parametrize("fast_path", [True, False])
def test_keys_are_renewed_before_they_wear_out(
    monkeypatch: pytest.MonkeyPatch, fast_path: bool
) -> None:
    monkeypatch.setattr(core, "_PACKETS_PER_KEY", 40)
    pair = Pair(fast_path=fast_path)
    secrets = set()
    stream = pair.client.open_stream(uni=True)
    for number in range(20):
        pair.client.write(stream, bytes([number]) * 12_000, False)
        for _ in range(2):
            pair.round_trip()
        secrets.add(pair.server._cryptos[Epoch.ONE_RTT].recv.secret)
    # 200 packets and some; a renewal waits for the burst under way.
    assert 4 <= len(secrets) <= 6
    expected = b"".join(bytes([number]) * 12_000 for number in range(20))
    assert pair.far.received == {2: expected}


def test_keys_are_not_renewed_before_the_last_renewal_is_acknowledged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pair = Pair()
    monkeypatch.setattr(core, "_PACKETS_PER_KEY", 1)
    stream = pair.client.open_stream(uni=True)
    secrets = {pair.client._cryptos[Epoch.ONE_RTT].send.secret}
    for _ in range(8):
        pair.client.write(stream, b"x", False)
        pair.now += 0.005
        pair.client.transmit(pair.now)
        secrets.add(pair.client._cryptos[Epoch.ONE_RTT].send.secret)
    assert len(secrets) == 2


@pytest.mark.parametrize("fast_path", [True, False])
def test_an_acknowledgement_of_what_was_never_sent_is_refused(fast_path: bool) -> None:
    pair = Pair(fast_path=fast_path)
    latest = pair.server._packet_number - 1
    pair.send_raw(b"\x02" + encode_uint_var(latest) + b"\x00\x00\x00")
    assert close_code(pair.server) is None
    pair.send_raw(b"\x02" + encode_uint_var(latest + 1) + b"\x00\x00\x00")
    assert close_code(pair.server) == QuicErrorCode.PROTOCOL_VIOLATION


def test_a_peer_that_moved_is_still_read_the_short_way(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair()
    stream = pair.client.open_stream(uni=True)
    moved = ("10.9.9.9", 999)

    def round_trip() -> None:
        pair.now += 0.005
        for data, _ in pair.client.transmit(pair.now):
            pair.server.receive_datagram(data, moved, pair.now)
        pair.now += 0.005
        for data, target in pair.server.transmit(pair.now):
            assert target == moved
            pair.client.receive_datagram(data, SERVER, pair.now)

    for _ in range(6):
        pair.client.write(stream, b"x", False)
        round_trip()
    assert pair.server.get_peer_address() == moved
    long_way = 0
    stock = StockConnection.receive_datagram

    def counted(*arguments: Any, **options: Any) -> None:
        nonlocal long_way
        long_way += 1
        stock(*arguments, **options)

    monkeypatch.setattr(StockConnection, "receive_datagram", counted)
    for _ in range(10):
        pair.client.write(stream, b"x", False)
        round_trip()
    assert pair.far.received == {2: b"x" * 16}
    assert long_way == 0


@pytest.mark.parametrize("fast_path", [True, False])
def test_a_peer_without_an_idle_timeout_is_not_dropped_at_once(fast_path: bool) -> None:
    pair = Pair(fast_path=fast_path)
    pair.server._remote_max_idle_timeout = 0.0  # RFC 9000 section 18.2: it has none
    for _ in range(3):
        pair.client.ping()
        pair.round_trip()
    pair.server.handle_timer(pair.now + 20)
    assert close_code(pair.server) is None
    pair.server.handle_timer(pair.now + 31)
    assert close_code(pair.server) is not None


def test_a_far_away_crypto_crumb_makes_no_room_for_what_is_before_it() -> None:
    pair = Pair()
    pair.send_raw(crypto_crumb(400_000))
    assert close_code(pair.server) == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED


def test_a_tls_message_without_end_is_refused() -> None:
    pair = Pair()
    offset, data = 0, b"\x01\xff\xff\xff" + bytes(1000)
    while close_code(pair.server) is None and offset < 400_000:
        size = encode_uint_var(len(data))
        pair.send_raw(b"\x06" + encode_uint_var(offset) + size + data)
        offset += len(data)
        data = bytes(1000)
    assert close_code(pair.server) == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED


@pytest.mark.parametrize("name", ["max_streams_uni", "max_streams_bidi"])
def test_no_peer_can_be_let_open_streams_without_end(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        plain_settings(**{name: 100_000})
