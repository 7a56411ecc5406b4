"""A track whose old groups an application answers for, and those who ask for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from moqtrio.errors import ReplayError
from moqtrio.model import Frame, Origin, Track
from moqtrio.model.source import End, Missing, Pending, Ready, ReplaySource

Answer = list[bytes] | Missing | ReplayError


def make_track(history: int = 100, **options: int) -> Track:
    """A track with so many groups of history, and nothing in memory."""
    return (
        Origin().create_broadcast("b").create_track("t", first_sequence=history, **options)  # type: ignore[arg-type]  # numbers by name
    )


async def ask(
    source: ReplaySource | None, sequence: int, priority: int = 0, *, pause: float = 0.0
) -> Answer:
    """Ask for a group as a subscription does, and read it to its end, a frame at a time."""
    assert source is not None
    try:
        while isinstance(found := source.poll_group(sequence, priority=priority), Pending):
            await found.wait()
    except ReplayError as error:
        return error
    if isinstance(found, Missing):
        return found
    reader = found.value
    payloads: list[bytes] = []
    try:
        while not isinstance(answer := reader.poll_frames(1), End):
            if isinstance(answer, Pending):
                await answer.wait()
            else:
                assert isinstance(answer, Ready)
                frames: Sequence[Frame] = answer.value
                payloads += [frame.payload for frame in frames]
                await trio.sleep(pause)
    except ReplayError as error:
        return error
    finally:
        reader.close()
    return payloads


class Asker:
    """Asks for a group in a task, and keeps the answer."""

    def __init__(self, source: ReplaySource | None) -> None:
        self.source = source
        self.answers: list[Answer] = []
        self.scope = trio.CancelScope()

    async def run(self, sequence: int, priority: int = 0, pause: float = 0.0) -> None:
        with self.scope:
            self.answers.append(await ask(self.source, sequence, priority, pause=pause))

    def code(self) -> int:
        """The code of the failure that was the only answer."""
        (answer,) = self.answers
        assert isinstance(answer, ReplayError)
        assert not answer.retryable
        return answer.code


def start_askers(
    nursery: trio.Nursery, track: Track, *sequences: int, priority: int = 0
) -> list[Asker]:
    """One asker for each of the sequences."""
    askers = []
    for sequence in sequences:
        asker = Asker(track.source)
        nursery.start_soon(asker.run, sequence, priority)
        askers.append(asker)
    return askers


async def eventually(condition: Callable[[], object]) -> None:
    """Return when what happens in a thread has come so far."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110  # a thread brings it about
            await trio.sleep(0.001)
