"""Hypothesis strategies for every message of every draft of moq-lite."""

from __future__ import annotations

from hypothesis import strategies as st

from moqtrio.wire import MAX_VARINT, VERSIONS, Version, lite
from moqtrio.wire.lite import announce as wire_announce

varints = st.integers(0, MAX_VARINT) | st.integers(0, 300)
positive_varints = st.integers(1, MAX_VARINT) | st.integers(1, 300)
texts = st.text(max_size=20)
priorities = st.integers(0, 255)
# Whole milliseconds are what the wire has; up to 2**50 of them a float holds exactly.
durations = st.integers(0, 2**50).map(lambda milliseconds: milliseconds / 1000)
flags = st.booleans()
hop_lists = st.lists(varints, max_size=lite.MAX_HOPS).map(tuple)


@st.composite
def group_ranges(draw: st.DrawFn, draft: int) -> tuple[int | None, int | None]:
    starts = st.integers(0, MAX_VARINT - 1)
    start = draw(starts if draft >= 6 else st.none() | starts)
    low = max(start or 0, 1)
    return start, draw(st.none() | st.integers(low, MAX_VARINT))


@st.composite
def subscribe_updates(draw: st.DrawFn, draft: int) -> lite.SubscribeUpdate:
    start, end = draw(group_ranges(draft))
    if draft < 6:
        return lite.SubscribeUpdate(draw(priorities), draw(flags), draw(durations), start, end)
    return lite.SubscribeUpdate(
        draw(priorities),
        max_latency=draw(durations),
        start=start,
        end=end,
        frame_start=draw(varints),
        frame_end=None if end is None else draw(st.none() | positive_varints),
    )


@st.composite
def subscribes(draw: st.DrawFn, draft: int) -> lite.Subscribe:
    subscribe = lite.Subscribe(draw(varints), draw(texts), draw(texts))
    return subscribe.updated(draw(subscribe_updates(draft)))


@st.composite
def subscribe_oks(draw: st.DrawFn) -> lite.SubscribeOk:
    start, end = draw(group_ranges(3))
    return lite.SubscribeOk(draw(priorities), draw(flags), draw(durations), start, end)


@st.composite
def drops(draw: st.DrawFn) -> lite.SubscribeDrop:
    first, last = sorted(draw(st.tuples(varints, varints)))
    # The numbers between are read as what they are called now: see registries.
    return lite.SubscribeDrop(
        first, last + 1, draw(st.integers(32, MAX_VARINT) | st.integers(0, 5))
    )


@st.composite
def fetches(draw: st.DrawFn, draft: int) -> lite.Fetch:
    fetch = (draw(texts), draw(texts), draw(priorities), draw(varints))
    if draft < 6:
        return lite.Fetch(*fetch)
    frame_start = draw(st.integers(0, MAX_VARINT - 1))
    frame_end = draw(st.none() | st.integers(frame_start + 1, MAX_VARINT))
    return lite.Fetch(*fetch, frame_start, frame_end)


def announces(draft: int) -> st.SearchStrategy[lite.Announce]:
    statuses = list(lite.AnnounceStatus)
    if draft < 5:
        statuses.remove(lite.AnnounceStatus.RESTART)
    hops = hop_lists
    if draft < 4:
        hops = hops.map(lambda known: (lite.UNKNOWN_HOP,) * len(known))
    return st.builds(lite.Announce, st.sampled_from(statuses), texts, hops)


setups = st.builds(
    lite.Setup,
    probe=st.none() | st.sampled_from(lite.ProbeLevel),
    path=st.none() | texts,
    role=st.none() | st.sampled_from(lite.Role),
    cost=st.none() | varints,
    origin=st.none() | positive_varints,
    unknown=st.dictionaries(
        st.sampled_from([0, 6, 7, 64, 70000, MAX_VARINT]), st.binary(max_size=9), max_size=4
    ),
)


def messages_of(version: Version) -> dict[type[lite.Message], st.SearchStrategy[lite.Message]]:
    """Every message of ``version``, with what it can say there and nothing else."""
    draft = version.draft
    nothing_known = st.none()
    round_trip_times = st.none() | durations.filter(lambda seconds: seconds > 0)
    strategies: dict[type[lite.Message], st.SearchStrategy[lite.Message]] = {
        lite.Setup: setups,
        lite.AnnounceRequest: st.builds(
            lite.AnnounceRequest,
            texts,
            exclude_hop=st.none() | positive_varints if draft in (4, 5) else nothing_known,
        ),
        lite.AnnounceOk: st.builds(lite.AnnounceOk, varints, varints),
        lite.Announce: announces(draft),
        wire_announce.AnnounceStart: st.builds(
            wire_announce.AnnounceStart, texts, hop_lists, varints, varints
        ),
        wire_announce.AnnounceEnd: st.builds(wire_announce.AnnounceEnd, varints),
        wire_announce.AnnounceUpdate: st.builds(
            wire_announce.AnnounceUpdate, varints, hop_lists, varints, varints
        ),
        lite.Subscribe: subscribes(draft),
        lite.SubscribeUpdate: subscribe_updates(draft),
        lite.SubscribeOk: subscribe_oks(),
        lite.SubscribeStart: st.builds(lite.SubscribeStart, varints),
        lite.SubscribeEnd: st.builds(lite.SubscribeEnd, varints),
        lite.SubscribeDrop: drops(),
        lite.Track: st.builds(lite.Track, texts, texts),
        lite.TrackInfo: st.builds(
            lite.TrackInfo,
            priorities,
            flags if draft < 6 else st.just(False),
            durations,
            positive_varints,
        ),
        lite.Fetch: fetches(draft),
        lite.GroupHeader: st.builds(
            lite.GroupHeader, varints, varints, varints if draft >= 6 else st.just(0)
        ),
        lite.Probe: st.builds(
            lite.Probe,
            st.none() | positive_varints,
            round_trip_times if draft >= 4 else nothing_known,
        ),
        lite.Goaway: st.builds(lite.Goaway, texts),
    }
    return {message: strategies[message] for message in strategies if message.exists_in(version)}


MESSAGES = {version: messages_of(version) for version in VERSIONS}

CASES = [(version, message) for version in VERSIONS for message in MESSAGES[version]]
"""Every message of every version."""

any_message: st.SearchStrategy[tuple[Version, lite.Message]] = st.sampled_from(CASES).flatmap(
    lambda case: st.tuples(st.just(case[0]), MESSAGES[case[0]][case[1]])
)
"""A version, and a message as it goes there."""


def case_name(case: tuple[Version, type[lite.Message]]) -> str:
    version, message = case
    return f"{version.draft:02}-{message.__name__}"


def responses_of(version: Version) -> st.SearchStrategy[lite.SubscribeResponse]:
    """What a publisher may send on a subscribe stream."""
    responses = (lite.SubscribeOk, lite.SubscribeStart, lite.SubscribeEnd, lite.SubscribeDrop)
    found = [MESSAGES[version][kind] for kind in responses if kind in MESSAGES[version]]
    return st.one_of(*found)
