"""What was sent of groups behind one that is not complete."""

from __future__ import annotations

import gc
from typing import cast

import attrs
import trio
from hypothesis import given
from hypothesis import strategies as st
from session_pairs import publish, session_pair

from moqtrio.model import GroupConsumer, Origin
from moqtrio.session.ahead import Ahead
from moqtrio.session.group_sender import GroupSender


@attrs.define(eq=False)
class Sender:
    sent: int = 0
    is_over: bool = False


steps = st.lists(
    st.just("begin") | st.tuples(st.integers(0, 5), st.integers(0, 100), st.booleans()),
    max_size=60,
)


@given(steps)
def test_counts_what_lies_behind_the_first_that_is_not_complete(
    plan: list[str | tuple[int, int, bool]],
) -> None:
    ahead = Ahead()
    begun: list[Sender] = []
    for step in plan:
        under_way = [sender for sender in begun if not sender.is_over]
        if isinstance(step, str):
            begun.append(Sender())
            ahead.begin(cast(GroupSender, begun[-1]))
        elif under_way:
            index, sent, over = step
            sender = under_way[index % len(under_way)]
            assert ahead.includes(cast(GroupSender, sender)) == (sender is not under_way[0])
            sender.sent += sent
            sender.is_over = over
            ahead.count(cast(GroupSender, sender), sent)
        first = next((at for at, each in enumerate(begun) if not each.is_over), len(begun))
        assert ahead.bytes == sum(each.sent for each in begun[first + 1 :])


async def test_groups_that_were_sent_are_not_held_by_one_that_stays_open() -> None:
    origin = Origin()
    track = origin.create_broadcast("b").create_track("t")
    with trio.fail_after(20):
        async with (
            session_pair(origin) as pair,
            pair.client.subscribe("b", "t", start=0, order="arrival") as subscription,
        ):
            with track.append_group() as left_open:
                left_open.write_frame(b"and nothing more for long")
                publish(track, 300)
                for _ in range(301):
                    item = await subscription.receive()
                    assert isinstance(item, GroupConsumer)
                    if item.sequence:
                        await item.read_all()
                gc.collect()
                senders = [each for each in gc.get_objects() if isinstance(each, GroupSender)]
                assert len(senders) < 10
