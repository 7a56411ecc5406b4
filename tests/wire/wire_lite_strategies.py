"""Hypothesis strategies for every message of moq-lite-05."""

from __future__ import annotations

from hypothesis import strategies as st

from moqtrio.wire import MAX_VARINT, lite

varints = st.integers(0, MAX_VARINT) | st.integers(0, 300)
positive_varints = st.integers(1, MAX_VARINT) | st.integers(1, 300)
texts = st.text(max_size=20)
priorities = st.integers(0, 255)
# Whole milliseconds are what the wire has; up to 2**50 of them a float holds exactly.
durations = st.integers(0, 2**50).map(lambda milliseconds: milliseconds / 1000)


@st.composite
def group_ranges(draw: st.DrawFn) -> tuple[int | None, int | None]:
    start = draw(st.none() | st.integers(0, MAX_VARINT - 1))
    low = max(start or 0, 1)
    return start, draw(st.none() | st.integers(low, MAX_VARINT))


@st.composite
def subscribe_updates(draw: st.DrawFn) -> lite.SubscribeUpdate:
    start, end = draw(group_ranges())
    return lite.SubscribeUpdate(draw(priorities), draw(st.booleans()), draw(durations), start, end)


@st.composite
def subscribes(draw: st.DrawFn) -> lite.Subscribe:
    subscribe = lite.Subscribe(draw(varints), draw(texts), draw(texts))
    return subscribe.updated(draw(subscribe_updates()))


@st.composite
def drops(draw: st.DrawFn) -> lite.SubscribeDrop:
    first, last = sorted(draw(st.tuples(varints, varints)))
    return lite.SubscribeDrop(first, last + 1, draw(varints))


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

MESSAGES: dict[str, st.SearchStrategy[lite.Message]] = {
    "Setup": setups,
    "AnnounceRequest": st.builds(
        lite.AnnounceRequest, texts, exclude_hop=st.none() | positive_varints
    ),
    "AnnounceOk": st.builds(lite.AnnounceOk, varints, varints),
    "Announce": st.builds(
        lite.Announce,
        st.sampled_from(lite.AnnounceStatus),
        texts,
        st.lists(varints, max_size=lite.MAX_HOPS).map(tuple),
    ),
    "Subscribe": subscribes(),
    "SubscribeUpdate": subscribe_updates(),
    "Track": st.builds(lite.Track, texts, texts),
    "TrackInfo": st.builds(lite.TrackInfo, priorities, st.booleans(), durations, positive_varints),
    "Fetch": st.builds(lite.Fetch, texts, texts, priorities, varints),
    "GroupHeader": st.builds(lite.GroupHeader, varints, varints),
    "Probe": st.builds(
        lite.Probe,
        st.none() | positive_varints,
        st.none() | durations.filter(lambda seconds: seconds > 0),
    ),
    "Goaway": st.builds(lite.Goaway, texts),
}

RESPONSES: st.SearchStrategy[lite.SubscribeResponse] = (
    st.builds(lite.SubscribeStart, varints) | st.builds(lite.SubscribeEnd, varints) | drops()
)

messages: st.SearchStrategy[lite.Message] = st.one_of(*MESSAGES.values())
