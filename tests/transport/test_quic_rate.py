"""What a connection says it can send, over links whose rate is known."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from moqtrio.transport.connection import Connection
from moqtrio.transport.quic.pacing import SendingRate

from .network import Network, simulated_pair
from .pairs import plain_settings, read_all


async def send(near: Connection, far: Connection, size: int) -> None:
    async def write() -> None:
        stream = await near.open_uni()
        await stream.send_all(bytes(size))
        stream.finish()
        await stream.wait_stopped()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        assert len(await read_all(await far.accept_uni())) == size


@pytest.mark.parametrize("rate", [100_000, 400_000])
async def test_a_busy_link_is_measured(rate: int, autojump_clock: MockClock) -> None:
    network = Network(delay=0.02, rate=rate, queue=rate // 20)
    async with simulated_pair(network) as (near, far):
        await send(near, far, 5 * rate)
        estimate = near.statistics().estimated_bitrate
        assert estimate is not None
        assert 0.6 * 8 * rate <= estimate <= 1.5 * 8 * rate


async def test_what_was_not_tried_is_not_promised(autojump_clock: MockClock) -> None:
    # The congestion window grows with every acknowledgement, however little is sent.
    settings = plain_settings(congestion_control="reno")
    async with simulated_pair(Network(delay=0.05), client=settings) as (near, far):
        window = near.statistics().congestion_window
        for _ in range(200):
            await send(near, far, 10_000)
        statistics = near.statistics()
        assert statistics.congestion_window > 10 * window
        assert statistics.estimated_bitrate is not None
        assert statistics.estimated_bitrate * statistics.smoothed_rtt <= 8 * 2.1 * window


def test_an_estimate_needs_a_round_trip_and_fades() -> None:
    rate = SendingRate(12_000)
    assert rate.bits_per_second(12_000, 0.0) is None
    assert rate.bits_per_second(12_000, 0.1) == 960_000
    rate.note(100_000, 1.0)
    rate.note(10_000, 2.0)
    assert rate.bits_per_second(1 << 40, 0.1) == 8 * 200_000 / 0.1
    assert rate.bits_per_second(50_000, 0.1) == 8 * 50_000 / 0.1
    rate.note(20_000, 12.0)
    assert rate.bits_per_second(1 << 40, 0.1) == 8 * 200_000 / 0.1
    rate.note(10_000, 23.0)
    assert rate.bits_per_second(1 << 40, 0.1) == 8 * 40_000 / 0.1
