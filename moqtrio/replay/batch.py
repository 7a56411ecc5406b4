"""What one batch of writes does to each group: merged, checked, and not yet applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import attrs

from ..errors import ReplayError
from ..model.frame import Frame
from ..model.group import Aborted, GroupEnd
from .target import GroupWrite


@attrs.define(slots=True, eq=False)
class GroupDelta:
    """Everything one batch adds to one group.

    Attributes:
        sequence: the group.
        first_frame: the index within the group of ``frames[0]``.
        frames: what is added; may be empty.
        end: how the group ended, or None while it goes on.
    """

    sequence: int
    first_frame: int
    frames: Sequence[Frame]
    end: GroupEnd | None


def merge_writes(
    writes: Sequence[GroupWrite], recorded_frames: Callable[[int], int | None]
) -> list[GroupDelta]:
    """Merge the writes of each group into one delta, in order of sequence.

    Args:
        writes: in any order between groups, in order within one.
        recorded_frames: how many frames of a group that is open are recorded; 0 for a group
            that was never written to; None for one that was evicted while it was being
            written, whose further frames are left out.

    Raises:
        ReplayError: the writes of a group are not contiguous, or one follows the group's end.
    """
    deltas: dict[int, GroupDelta] = {}
    for write in writes:
        sequence = write.sequence
        delta = deltas.get(sequence)
        if delta is None:
            recorded = recorded_frames(sequence)
            if recorded is None:
                continue
            _check_contiguous(write, recorded)
            deltas[sequence] = GroupDelta(sequence, recorded, write.frames, write.end)
            continue
        if delta.end is not None:
            raise refused(f"group {sequence} was written to after its end")
        _check_contiguous(write, delta.first_frame + len(delta.frames))
        delta.frames = [*delta.frames, *write.frames]
        delta.end = write.end
    return sorted(deltas.values(), key=lambda delta: delta.sequence)


def refused(message: str) -> ReplayError:
    """The error for a batch that no repetition can make acceptable."""
    return ReplayError(f"{message}; nothing of this batch was recorded", retryable=False)


def _check_contiguous(write: GroupWrite, expected: int) -> None:
    if write.first_frame == expected:
        return
    # A group given up on may well have lost the frames in between: its end is still news.
    if isinstance(write.end, Aborted) and not write.frames:
        return
    raise refused(
        f"group {write.sequence}: expected frame {expected} next, got frame {write.first_frame}"
    )
