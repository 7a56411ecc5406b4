"""What a publisher says of a subscription arrives although its groups fill every window."""

from __future__ import annotations

import trio

from moqtrio.model import GroupConsumer, Origin
from moqtrio.session.session import open_session_over
from moqtrio.session.subscription import Gap
from moqtrio.transport.memory import memory_connection_pair
from moqtrio.transport.settings import TransportSettings
from moqtrio.wire import LITE_05

SMALL = TransportSettings(
    stream_window=40_000,
    connection_window=50_000,
    stream_send_high=20_000,
    stream_send_low=10_000,
    connection_send_high=20_000,
    connection_send_low=10_000,
)


async def received(sequences: list[int]) -> list[tuple[int, int] | Gap]:
    """What a subscriber in sequence order gets of groups of 30 kB with these sequences."""
    origin = Origin()
    track = origin.create_broadcast("events").create_track("all")
    for sequence in sequences:
        with track.create_group(sequence) as group:
            group.write_frame(bytes(30_000))
    track.finish()
    client, server = memory_connection_pair(settings=SMALL)
    items: list[tuple[int, int] | Gap] = []
    with trio.fail_after(20):
        async with (
            open_session_over(server, LITE_05, publish=origin),
            open_session_over(client, LITE_05) as session,
            session.subscribe("events", "all", start=0, gap_timeout=1000) as subscription,
        ):
            async for item in subscription:
                if isinstance(item, GroupConsumer):
                    frames = await item.read_all()
                    items.append((item.sequence, sum(len(frame.payload) for frame in frames)))
                else:
                    items.append(item)
    return items


async def test_start_arrives_before_the_groups_that_fill_the_window(
    autojump_clock: trio.testing.MockClock,
) -> None:
    assert await received(list(range(8))) == [(sequence, 30_000) for sequence in range(8)]


async def test_drop_arrives_before_the_groups_behind_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    items = await received([0, 2, 3, 4, 7])
    assert items == [
        (0, 30_000),
        Gap(1, 2, 0),
        (2, 30_000),
        (3, 30_000),
        (4, 30_000),
        Gap(5, 7, 0),
        (7, 30_000),
    ]
