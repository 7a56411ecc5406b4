"""What a peer may and may not do, one message at a time, without any I/O."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from moqtrio.errors import SessionClosed, SessionCode, StreamReset
from moqtrio.transport.newest_first import NewestFirst
from moqtrio.transport.qmux import QmuxConnection
from moqtrio.transport.qmux.errors import QmuxCode
from moqtrio.transport.qmux.frames import (
    CloseFrame,
    MaxDataFrame,
    MaxStreamDataFrame,
    MaxStreamsFrame,
    ParametersFrame,
    PingFrame,
    ResetFrame,
    StopFrame,
    StreamFrame,
    encode_close,
    encode_datagram,
    encode_max_data,
    encode_max_stream_data,
    encode_max_streams,
    encode_parameters,
    encode_ping,
    encode_reset,
    encode_stop,
    stream_header,
)
from moqtrio.transport.qmux.parameters import Parameters
from moqtrio.transport.qmux.versions import QMUX_00, QMUX_01

from .qmux_tools import GENEROUS, make_connection, open_connection, taken

# The peer is the client: its streams are 0, 4, 8 both ways and 2, 6, 10 one way.
UNI = 2
PARAMETERS = encode_parameters(GENEROUS.encode())


def stream(stream_id: int, offset: int, data: bytes, ended: bool = False) -> bytes:
    return stream_header(stream_id, offset, len(data), ended) + data


def assert_violated(connection: QmuxConnection, code: QmuxCode, complaint: str) -> None:
    """The connection is over, and the peer is told why."""
    end = connection.closed
    assert end is not None
    assert not end.remote
    assert end.code == SessionCode.PROTOCOL_VIOLATION
    assert complaint in end.reason
    (close,) = [frame for frame in taken(connection) if isinstance(frame, CloseFrame)]
    assert (close.code, close.by_application) == (code, False)
    assert complaint in close.reason
    assert connection.take(1000) == []


@pytest.mark.parametrize(
    ("message", "code", "complaint"),
    [
        (stream(UNI, 1, b"x"), QmuxCode.PROTOCOL_VIOLATION, "byte 0 is next, 1 came"),
        (stream(UNI, 0, b"xy") + stream(UNI, 1, b"y"), QmuxCode.PROTOCOL_VIOLATION, "byte 2 is"),
        (stream(UNI, 0, bytes(501)), QmuxCode.FLOW_CONTROL_ERROR, "501 bytes, but 500"),
        (
            b"".join(stream(UNI + 4 * n, 0, bytes(400)) for n in range(3)),
            QmuxCode.FLOW_CONTROL_ERROR,
            "1200 bytes of streams came, but 1000",
        ),
        (encode_reset(UNI, 0, 501), QmuxCode.FLOW_CONTROL_ERROR, "501 bytes"),
        (stream(UNI + 4 * 3, 0, b""), QmuxCode.STREAM_LIMIT_ERROR, "only 3"),
        (encode_reset(4 * 2, 0, 0), QmuxCode.STREAM_LIMIT_ERROR, "only 2"),
        (stream((1 << 62) - 2, 0, b""), QmuxCode.STREAM_LIMIT_ERROR, "only 3"),
        (stream(3, 0, b"x"), QmuxCode.STREAM_STATE_ERROR, "nothing in this direction"),
        (encode_stop(UNI, 0), QmuxCode.STREAM_STATE_ERROR, "nothing in the other direction"),
        (encode_max_stream_data(UNI, 9), QmuxCode.STREAM_STATE_ERROR, "other direction"),
        (stream(1, 0, b"x"), QmuxCode.STREAM_STATE_ERROR, "never opened"),
        (encode_stop(3, 0), QmuxCode.STREAM_STATE_ERROR, "never opened"),
        (PARAMETERS, QmuxCode.PROTOCOL_VIOLATION, "first frame"),
        (encode_ping(0, is_answer=True), QmuxCode.PROTOCOL_VIOLATION, "never sent"),
        (encode_ping(5, is_answer=False) * 2, QmuxCode.PROTOCOL_VIOLATION, "after ping 5"),
        (b"\x01", QmuxCode.FRAME_ENCODING_ERROR, "frame type 0x1 "),
        (b"\x40", QmuxCode.FRAME_ENCODING_ERROR, "ends within"),
    ],
)
async def test_what_breaks_a_rule_ends_the_connection(
    message: bytes, code: QmuxCode, complaint: str
) -> None:
    connection = open_connection(
        connection_window=1000, stream_window=500, max_streams_uni=3, max_streams_bidi=2
    )
    connection.feed(message)
    assert_violated(connection, code, complaint)


@pytest.mark.parametrize(
    "message", [stream(UNI, 0, b"x"), encode_ping(0, is_answer=False), encode_max_data(9)]
)
async def test_parameters_come_first(message: bytes) -> None:
    connection = make_connection()
    connection.feed(message)
    assert_violated(connection, QmuxCode.PROTOCOL_VIOLATION, "must be the first frame")


async def test_malformed_parameters_end_the_connection() -> None:
    connection = make_connection()
    connection.feed(encode_parameters(b"\x00\x00"))
    assert_violated(connection, QmuxCode.TRANSPORT_PARAMETER_ERROR, "not allowed over qmux")


async def test_draft_00_has_no_datagrams() -> None:
    connection = open_connection(version=QMUX_00)
    assert connection.max_datagram_size is None
    with pytest.raises(ValueError, match="takes no datagrams"):
        connection.send_datagram_nowait(b"x")
    connection.feed(encode_datagram(b"x"))
    assert_violated(connection, QmuxCode.PROTOCOL_VIOLATION, "none is taken")


async def test_what_came_before_the_fault_counts() -> None:
    connection = open_connection()
    connection.feed(stream(UNI, 0, b"good", ended=True) + b"\x01")
    assert (await connection.accept_uni()).receive_nowait() == b"good"


async def test_older_drafts_say_no_offsets() -> None:
    connection = open_connection(version=QMUX_01)
    connection.feed(b"\x0a\x02\x02ab" + b"\x0b\x02\x02cd")
    assert (await connection.accept_uni()).receive_nowait() == b"abcd"


async def test_streams_come_in_any_order_but_once() -> None:
    connection = open_connection(max_streams_uni=4)
    for number in (2, 0, 3, 1):
        connection.feed(stream(UNI + 4 * number, 0, b"%d" % number, ended=True))
    assert [(await connection.accept_uni()).receive_nowait() for _ in range(4)] == [
        b"2",
        b"0",
        b"3",
        b"1",
    ]
    # What is late for a stream that is over is nobody's fault, and nobody's business.
    connection.feed(stream(UNI, 0, b"again") + encode_reset(UNI + 4, 1, 9))
    with pytest.raises(trio.WouldBlock):
        connection.accept_uni_nowait()
    assert connection.closed is None
    assert connection.statistics().receive_buffered == 0
    assert connection.statistics().streams_open == 0


async def test_streams_nobody_accepted_give_no_credit() -> None:
    connection = open_connection(max_streams_uni=2)
    for number in range(2):
        connection.feed(stream(UNI + 4 * number, 0, b"", ended=True))
    assert taken(connection) == []
    for _ in range(2):
        await connection.accept_uni()
    assert taken(connection) == [MaxStreamsFrame(True, 4)]


async def test_credit_counts_once_it_was_sent() -> None:
    """A peer that does not read its credit cannot go on by guessing it: what is to be told
    to it stays bounded."""
    connection = open_connection(max_streams_bidi=1)
    connection.feed(stream(0, 0, b"", ended=True))
    bidi = await connection.accept_bidi()
    bidi.send.reset(1)
    connection.feed(stream(4, 0, b""))
    assert_violated(connection, QmuxCode.STREAM_LIMIT_ERROR, "only 1")


async def test_bytes_lost_to_a_reset_are_counted_and_given_back() -> None:
    connection = open_connection(connection_window=1000, stream_window=1000)
    connection.feed(stream(UNI, 0, bytes(100)) + encode_reset(UNI, 0x33, 1000))
    receiver = await connection.accept_uni()
    with pytest.raises(StreamReset) as raised:
        receiver.receive_nowait()
    assert raised.value.code == 0x33
    assert MaxDataFrame(1900) in taken(connection)
    assert connection.statistics().receive_buffered == 0


async def test_a_final_size_below_what_came_is_put_up_with() -> None:
    # Released peers say 0.
    connection = open_connection()
    connection.feed(stream(UNI, 0, bytes(100)) + encode_reset(UNI, 1, 0))
    with pytest.raises(StreamReset):
        (await connection.accept_uni()).receive_nowait()
    assert connection.statistics().receive_buffered == 0


async def test_codes_beyond_moq_lites_say_nothing() -> None:
    connection = open_connection()
    connection.feed(encode_reset(UNI, 1 << 50, 0))
    with pytest.raises(StreamReset) as raised:
        (await connection.accept_uni()).receive_nowait()
    assert raised.value.code == 0


async def test_what_is_stopped_is_reset_and_what_is_unread_given_back() -> None:
    connection = open_connection(stream_window=100)
    sender = connection.open_uni_nowait()
    sender.send_nowait(bytes(50))
    taken(connection)
    sender.send_nowait(bytes(50))
    connection.feed(encode_stop(sender.stream_id, 0x35))
    assert taken(connection) == [ResetFrame(sender.stream_id, 0x35, 50)]
    with pytest.raises(StreamReset):
        sender.send_nowait(b"x")

    connection.feed(stream(UNI, 0, bytes(100)))
    receiver = await connection.accept_uni()
    receiver.stop(0x34)
    assert StopFrame(UNI, 0x34) in taken(connection)
    assert connection.statistics().receive_buffered == 0
    connection.feed(stream(UNI, 100, bytes(50), ended=True))
    assert connection.statistics().streams_open == 0


async def test_a_stop_after_the_end_changes_nothing() -> None:
    connection = open_connection()
    sender = connection.open_uni_nowait()
    sender.send_nowait(b"all", finish=True)
    connection.take(1000)
    connection.feed(encode_stop(sender.stream_id, 1))  # crossed what is on its way
    connection.sent()
    assert taken(connection) == []
    assert connection.statistics().streams_open == 0


async def test_limits_never_shrink() -> None:
    connection = open_connection(
        Parameters(initial_max_data=10, initial_max_streams_uni=1, initial_max_stream_data_uni=10)
    )
    sender = connection.open_uni_nowait()
    connection.feed(encode_max_data(5) + encode_max_streams(True, 0) + encode_max_stream_data(3, 5))
    sender.send_nowait(bytes(20))
    (frame,) = taken(connection)
    assert isinstance(frame, StreamFrame)
    assert len(frame.data) == 10


async def test_a_reader_is_lent_credit_that_unread_streams_use_up() -> None:
    connection = open_connection(connection_window=1000, stream_window=1000)
    connection.feed(stream(UNI, 0, b"") + stream(UNI + 4, 0, b""))
    connection.settle()
    await connection.accept_uni()
    wanted = await connection.accept_uni()
    got: list[bytes] = []

    async def read() -> None:
        got.append(bytes(await wanted.receive_some()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        connection.feed(stream(UNI, 0, bytes(1000)))  # nobody reads this one
        connection.settle()
        assert taken(connection) == [MaxDataFrame(2000)]
        connection.feed(stream(UNI + 4, 0, b"at last"))
    assert got == [b"at last"]


async def test_what_waits_for_its_own_reader_holds_nobody_up() -> None:
    peer = Parameters(
        initial_max_data=1 << 20, initial_max_stream_data_uni=10, initial_max_streams_uni=2
    )
    connection = open_connection(peer, connection_send_high=1000, connection_send_low=500)
    clogged, other = connection.open_uni_nowait(), connection.open_uni_nowait()
    clogged.send_nowait(bytes(2000))
    with pytest.raises(trio.WouldBlock):
        other.send_nowait(b"x")
    taken(connection)
    other.send_nowait(b"x")
    assert [frame.data for frame in taken(connection) if isinstance(frame, StreamFrame)] == [b"x"]
    connection.feed(encode_max_stream_data(clogged.stream_id, 2000))
    (rest,) = taken(connection)
    assert isinstance(rest, StreamFrame)
    assert len(rest.data) == 1990


async def test_what_is_unread_is_gone_after_a_close_of_ones_own() -> None:
    connection = open_connection()
    connection.feed(stream(UNI, 0, b"whole", ended=True) + stream(UNI + 4, 0, b"half"))
    receivers = [await connection.accept_uni() for _ in range(2)]
    connection.close()
    for receiver in receivers:
        with pytest.raises(SessionClosed):
            receiver.receive_nowait()


async def test_pings_are_answered_the_latest_alone() -> None:
    connection = open_connection()
    connection.feed(b"".join(encode_ping(number, is_answer=False) for number in range(100)))
    assert taken(connection) == [PingFrame(99, True)]


async def test_the_peers_end_says_whose_it_is() -> None:
    connection = open_connection()
    connection.feed(encode_close(3, "bad day", by_application=True))
    end = connection.closed
    assert end is not None
    assert (end.code, end.reason, end.remote) == (3, "bad day", True)
    assert connection.take(1000) == [], "nothing more is sent to who has left"

    other = open_connection()
    other.feed(encode_close(3, "", by_application=False) + stream(UNI, 0, b"late"))
    end = other.closed
    assert end is not None
    assert (end.code, end.remote) == (SessionCode.INTERNAL, True)
    assert end.reason == "qmux FLOW_CONTROL_ERROR: no reason given"

    unknown = open_connection()
    unknown.feed(encode_close(1002, "Protocol violation", by_application=False))
    end = unknown.closed
    assert end is not None
    assert end.reason == "qmux error 0x3ea: Protocol violation"


async def test_a_close_before_anything_was_sent_follows_the_parameters() -> None:
    connection = make_connection()
    connection.close(2, "no")
    first, second = taken(connection)
    assert isinstance(first, ParametersFrame)
    assert second == CloseFrame(2, "no", True)


async def test_windows_are_announced_for_streams_that_go_on() -> None:
    connection = open_connection(stream_window=100, connection_window=10_000)
    connection.feed(stream(UNI, 0, bytes(100)) + stream(UNI + 4, 0, bytes(100), ended=True))
    for _ in range(2):
        (await connection.accept_uni()).receive_nowait()
    assert taken(connection) == [MaxStreamDataFrame(UNI, 200)]


async def test_many_small_streams_share_messages() -> None:
    connection = open_connection()
    for number in range(100):
        connection.open_uni_nowait().send_nowait(b"%d" % number * 50, finish=True)
    messages = connection.take(32 * 1024)
    assert len(messages) == 1
    assert len(messages[0]) > 100 * 50


async def test_messages_are_as_large_as_they_may_be_and_not_larger() -> None:
    connection = open_connection()
    connection.open_uni_nowait().send_nowait(bytes(100_000), finish=True)
    messages = connection.take(1 << 20)
    assert len(messages) == 7
    assert max(map(len, messages)) <= 16382
    assert min(map(len, messages[:-1])) > 16300


def sent_order(connection: QmuxConnection) -> list[int]:
    """The streams that are sent, in the order in which they begin."""
    frames = [frame for frame in taken(connection) if isinstance(frame, StreamFrame)]
    return [frame.stream_id >> 2 for frame in frames if not frame.offset]


async def test_the_newest_of_rivals_goes_first_in_the_place_of_any() -> None:
    connection = open_connection()
    rivals: NewestFirst[Any] = NewestFirst()
    streams = [connection.open_uni_nowait() for _ in range(5)]
    for rank, stream in enumerate(streams):
        if rank != 2:
            stream.share_places(rivals, rank)
        stream.send_nowait(b"x" * 100, finish=True)
    # The third is no rival: its place stays its own.
    assert sent_order(connection) == [4, 3, 2, 1, 0]

    more = [connection.open_uni_nowait() for _ in range(4)]
    for rank, stream in enumerate(more):
        stream.send_nowait(b"x" * 100, finish=True)
        stream.share_places(rivals, rank)
    more[3].share_places(None, 0)
    more[2].reset(1)
    assert sent_order(connection) == [6, 5, 8]


async def test_a_stream_that_has_begun_is_not_overtaken_by_its_rivals() -> None:
    connection = open_connection()
    rivals: NewestFirst[Any] = NewestFirst()
    first, second = connection.open_uni_nowait(), connection.open_uni_nowait()
    for rank, stream in enumerate((first, second)):
        stream.share_places(rivals, rank)
    first.send_nowait(bytes(40_000), finish=True)
    assert len(connection.take(16_000)) == 1
    second.send_nowait(b"newer", finish=True)
    frames = [frame for frame in taken(connection) if isinstance(frame, StreamFrame)]
    assert [frame.stream_id for frame in frames] == [first.stream_id] * 2 + [second.stream_id]


async def test_priorities_may_change_while_bytes_wait() -> None:
    connection = open_connection()
    streams = [connection.open_uni_nowait() for _ in range(3)]
    for stream in streams:
        stream.send_nowait(b"x", finish=True)
    streams[2].set_priority(9)
    streams[0].set_priority(3)
    assert connection._outbox.queue.unsent_at == {0: 1, 3: 1, 9: 1}
    assert sent_order(connection) == [2, 0, 1]
    assert connection._outbox.queue.unsent_at == {}


async def test_draft_00_has_one_frame_in_a_message() -> None:
    connection = open_connection(version=QMUX_00)
    for _ in range(3):
        connection.open_uni_nowait().send_nowait(bytes(10_000), finish=True)
    messages = connection.take(1 << 20)
    assert [len(message) for message in messages] == [10_005, 10_005, 10_005]


async def test_the_outbox_forgets_streams_that_were_given_up() -> None:
    connection = open_connection(
        Parameters(initial_max_streams_uni=5000, initial_max_stream_data_uni=100)
    )
    for _ in range(5000):
        sender = connection.open_uni_nowait()
        sender.send_nowait(b"x")
        sender.reset(1)
    assert len(connection._outbox.queue.entries) < 200
    assert connection.statistics().send_buffered == 0
    assert connection.statistics().streams_open == 0
