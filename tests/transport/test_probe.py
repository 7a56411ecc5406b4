"""What a publisher reports of a connection, over a simulated one, in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from moqtrio.errors import RequestError, StreamCode, StreamReset
from moqtrio.model import Origin
from moqtrio.session import Session
from moqtrio.session.session import open_session_over
from moqtrio.transport.connection import BidiStream, Connection
from moqtrio.wire import LITE_03, LITE_05, VERSIONS, Version, encode_varint, lite

from .network import Network, simulated_pair

PROBE = encode_varint(lite.BidiStreamType.PROBE)


@asynccontextmanager
async def served(
    network: Network, origin: Origin | None = None, version: Version = LITE_05
) -> AsyncIterator[Connection]:
    """The client's connection to a session."""
    async with (
        simulated_pair(network) as (near, far),
        open_session_over(far, version, publish=origin),
    ):
        with trio.fail_after(100):
            yield near


@asynccontextmanager
async def sessions(
    network: Network, origin: Origin | None = None, version: Version = LITE_05
) -> AsyncIterator[Session]:
    async with (
        served(network, origin, version) as connection,
        open_session_over(connection, version) as session,
    ):
        yield session


@pytest.mark.parametrize("version", VERSIONS, ids=str)
async def test_a_report_comes_at_once(autojump_clock: MockClock, version: Version) -> None:
    network = Network(delay=0.025)
    async with sessions(network, version=version) as session, session.probe() as reports:
        asked = trio.current_time()
        report = await reports.receive()
        assert trio.current_time() - asked < 0.1
        assert report.bitrate is not None
        assert report.bitrate > 0
        if version is LITE_03:
            assert report.round_trip_time is None
        else:
            assert report.round_trip_time == pytest.approx(0.05, abs=0.01)


async def test_the_estimate_comes_near_the_path(autojump_clock: MockClock) -> None:
    """A bottleneck of 2 Mbit/s: while it is busy, the estimate is no wild guess."""
    network = Network(delay=0.02, rate=250_000, queue=20_000)
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t")
    async with sessions(network, origin) as session, trio.open_nursery() as nursery:

        async def read() -> None:
            async with session.subscribe("b", "t") as subscription:
                async for group in subscription:
                    await group.read_all()  # type: ignore[union-attr]  # no gaps here

        nursery.start_soon(read)
        async with session.probe() as reports:
            track.write_frame(bytes(1_500_000))
            latest = await reports.receive()
            with trio.move_on_after(5):
                while True:
                    latest = await reports.receive()
            assert latest.bitrate is not None
            assert 1_000_000 <= latest.bitrate <= 8_000_000
        nursery.cancel_scope.cancel()


async def test_only_changes_are_told_and_old_news_now_and_then(autojump_clock: MockClock) -> None:
    network = Network(delay=0.02)
    async with sessions(network) as session, session.probe() as reports:
        await reports.receive()
        started = trio.current_time()
        await reports.receive()
        assert trio.current_time() - started >= 1, "not with every look"
        network.delay = 0.2
        started = trio.current_time()
        while True:
            report = await reports.receive()
            assert report.round_trip_time is not None
            if report.round_trip_time > 0.1:
                break
            assert trio.current_time() - started < 60


async def test_targets_are_ignored_and_nonsense_is_not(autojump_clock: MockClock) -> None:
    async with served(Network()) as connection:
        stream = await connection.open_bidi()
        target = lite.Probe(10_000_000_000)
        await stream.send.send_all(PROBE + 3 * target.encode(LITE_05))
        assert await stream.receive.receive_some()
        await stream.send.send_all(b"\x01\xff")
        assert await reset_code(stream) == StreamCode.MALFORMED


async def reset_code(stream: BidiStream) -> int | None:
    """What the publisher ends the stream with."""
    try:
        while await stream.receive.receive_some():
            pass
    except StreamReset as error:
        return error.code
    return None


async def test_the_end_is_the_end(autojump_clock: MockClock) -> None:
    async with served(Network()) as connection:
        stream = await connection.open_bidi()
        stream.send.send_nowait(PROBE, finish=True)
        while await stream.receive.receive_some():
            pass


async def test_too_many_are_refused(autojump_clock: MockClock) -> None:
    async with served(Network()) as connection:
        streams = []
        for _ in range(5):
            stream = await connection.open_bidi()
            await stream.send.send_all(PROBE)
            streams.append(stream)
        for stream in streams[:4]:
            assert await stream.receive.receive_some()
        assert await reset_code(streams[4]) == StreamCode.NO_CAPACITY


async def test_a_publisher_that_offers_none_is_not_asked(autojump_clock: MockClock) -> None:
    async with simulated_pair(Network()) as (near, far):
        stream = await far.open_uni()
        setup = bytes([lite.UniStreamType.SETUP]) + lite.Setup().encode(LITE_05)
        stream.send_nowait(setup, finish=True)
        async with open_session_over(near, LITE_05) as session:
            with pytest.raises(RequestError, match="does not report"):
                async with session.probe():
                    pass


async def test_a_publisher_that_refuses(autojump_clock: MockClock) -> None:
    async with (
        simulated_pair(Network()) as (near, far),
        open_session_over(near, LITE_03) as session,
        session.probe() as reports,
    ):
        stream = await far.accept_bidi()
        assert await stream.receive.receive_some() == PROBE
        stream.send.reset(StreamCode.CANCEL)
        with pytest.raises(RequestError):
            await reports.receive()
