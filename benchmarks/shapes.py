"""What is moved: how large a frame is and how many make a group."""

from __future__ import annotations

import attrs


@attrs.frozen
class Shape:
    """Groups of ``frames`` frames of ``frame_bytes`` bytes each."""

    frame_bytes: int
    frames: int

    @property
    def name(self) -> str:
        if self.frame_bytes % 1024 == 0:
            return f"{self.frame_bytes // 1024} KiB x {self.frames}"
        return f"{self.frame_bytes} B x {self.frames}"

    @property
    def group_bytes(self) -> int:
        return self.frame_bytes * self.frames


SHAPES = (
    Shape(100, 1),
    Shape(1200, 1),
    Shape(1200, 10),
    Shape(1024, 100),
    Shape(16 * 1024, 10),
)


def shape_named(name: str) -> Shape:
    """The shape a person calls ``name``; spaces and case do not matter."""

    def plain(text: str) -> str:
        return text.replace(" ", "").lower()

    for shape in SHAPES:
        if plain(shape.name) == plain(name):
            return shape
    raise ValueError(f"no shape {name!r}; there are: {', '.join(s.name for s in SHAPES)}")
