"""What works with moq-rs in which version over which transport, as one table."""

from __future__ import annotations

from pathlib import Path

import attrs

from moqtrio.wire import VERSIONS, Version

TRANSPORTS = {"QUIC": "moqt", "WebTransport": "https", "WebSocket": "ws"}
"""The transports, and what URLs of each start with."""

FEATURES = {
    "announce": "broadcasts come and go",
    "latest": "no start is the latest group, and then what follows",
    "live": "groups come as they are published",
    "history": "all groups from the oldest on, then live ones",
    "range": "a range of history and nothing else",
    "fetch": "one group by its number",
    "error": "names nobody knows are refused, the session goes on",
    "finish": "the end of a track is its end",
}
"""What is tried, in this order."""

ROLES = {
    "reads": "moq-rs is the client and reads what moqtrio serves",
    "serves": "moq-rs is the server and moqtrio reads what it serves",
}

PAGE = Path(__file__).resolve().parents[2] / "docs" / "interop.md"
_BEGIN, _END = "<!-- matrix -->\n", "<!-- end -->\n"


@attrs.frozen
class Column:
    """One column of the table."""

    version: Version
    transport: str

    def __str__(self) -> str:
        return f"{self.transport}-{self.version}"


COLUMNS = [Column(version, transport) for transport in TRANSPORTS for version in VERSIONS]


class Matrix:
    """The results so far: for each cell that something passed, failed, or is not there."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, str, Column], str] = {}

    def note(self, role: str, feature: str, column: Column, result: str) -> None:
        self._cells[role, feature, column] = result

    def __bool__(self) -> bool:
        return bool(self._cells)

    @property
    def is_complete(self) -> bool:
        return len(self._cells) == len(ROLES) * len(FEATURES) * len(COLUMNS)

    def __str__(self) -> str:
        return "\n".join(line for transport in TRANSPORTS for line in self._table(transport))

    def _table(self, transport: str) -> list[str]:
        columns = [each for each in COLUMNS if each.transport == transport]
        drafts = "".join(f" {each.version.draft:02} |" for each in columns)
        lines = [f"| {transport} |  |{drafts}", "|---|---|" + "---|" * len(columns)]
        for role in ROLES:
            for feature in FEATURES:
                cells = [self._cells.get((role, feature, each), "?") for each in columns]
                lines.append(f"| moq-rs {role} | {feature} | {' | '.join(cells)} |")
        return [*lines, ""]

    def write(self) -> None:
        """Put it into the documentation."""
        page = PAGE.read_text(encoding="utf-8")
        before, _, rest = page.partition(_BEGIN)
        _, _, after = rest.partition(_END)
        PAGE.write_text(f"{before}{_BEGIN}\n{self}\n{_END}{after}", encoding="utf-8")


MATRIX = Matrix()
