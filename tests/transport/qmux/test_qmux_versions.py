"""Which subprotocols are offered, and which one is taken."""

from __future__ import annotations

import pytest

from moqtrio.transport.qmux import agreements, choose

# What moq-rs 0.5.1 offers, shortened.
OFFERED = [
    "qmux-02.moq-lite-06",
    "qmux-01.moq-lite-06",
    "qmux-00.moq-lite-06",
    "qmux-02.moq-lite-05",
    "qmux-01.moqt-18",
    "qmux-02",
    "qmux-01",
    "qmux-00",
    "webtransport",
]


def test_protocols_before_drafts_newest_first() -> None:
    assert [each.subprotocol for each in agreements(["moq-lite-06", "moq-lite-05"])] == [
        "qmux-02.moq-lite-06",
        "qmux-01.moq-lite-06",
        "qmux-00.moq-lite-06",
        "qmux-02.moq-lite-05",
        "qmux-01.moq-lite-05",
        "qmux-00.moq-lite-05",
    ]


@pytest.mark.parametrize(
    ("spoken", "taken"),
    [
        (["moq-lite-06", "moq-lite-05"], "qmux-02.moq-lite-06"),
        (["moq-lite-05", "moq-lite-06"], "qmux-02.moq-lite-05"),
        (["moqt-18"], "qmux-01.moqt-18"),
        (["moq-lite-04"], None),
    ],
)
def test_the_servers_preference_counts(spoken: list[str], taken: str | None) -> None:
    agreement = choose(spoken, OFFERED)
    assert (agreement.subprotocol if agreement else None) == taken
    assert choose(spoken, []) is None
