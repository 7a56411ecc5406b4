"""Reading a store back, group by group."""

from __future__ import annotations

from pathlib import Path

import moqtrio

from ..replay import Missing, Pending, Ready
from .comparing import digest_frames

_PIECE_BYTES = 256 * 1024


async def digest_stored(path: Path, broadcast: str, track: str) -> dict[int, str]:
    """The digest of every group a store holds of one track, by sequence.

    Raises ReplayError for a store that cannot be opened or read.
    """
    digests: dict[int, str] = {}
    async with moqtrio.SqliteStore.open(path) as store:
        source = store.track(broadcast, track)
        sequence = source.bounds().oldest
        while sequence is not None:
            frames = await read_group(source, sequence)
            if frames is not None:
                digests[sequence] = digest_frames(
                    (frame.timestamp_us, frame.payload) for frame in frames
                )
            sequence = await find_group(source, sequence + 1)
    return digests


async def read_group(source: moqtrio.ReplaySource, sequence: int) -> list[moqtrio.Frame] | None:
    """All frames of one group, or None where the source does not have it.

    Raises ReplayError for trouble, and for a group that is not complete.
    """
    while isinstance(answer := source.poll_group(sequence), Pending):
        await answer.wait()
    if isinstance(answer, Missing):
        return None
    reader = answer.value
    frames: list[moqtrio.Frame] = []
    try:
        while True:
            piece = reader.poll_frames(_PIECE_BYTES)
            if isinstance(piece, Pending):
                await piece.wait()
            elif isinstance(piece, Ready):
                frames += piece.value
            else:
                return frames
    finally:
        reader.close()


async def find_group(source: moqtrio.ReplaySource, sequence: int) -> int | None:
    """The smallest sequence at or above this one that the source has, or None."""
    while isinstance(answer := source.poll_group(sequence), Pending):
        await answer.wait()
    if isinstance(answer, Missing):
        return answer.next_available
    answer.value.close()
    return sequence
