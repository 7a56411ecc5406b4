"""Checking a store: every byte of it is read, and everything in it held against the rest."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import attrs

from .catalog import CATALOG_NAME, SEALED, SliceRow, TrackRow
from .errors import describe_briefly, store_error
from .examine import Joins, SliceExaminer, cannot_be_read
from .findings import PROBLEMS_KEPT, Problem, SliceFindings, VerifyProgress, VerifyReport
from .looking import CatalogView, find_catalog, look, looking_at, read_catalog, select_tracks
from .records import Totals
from .schema import file_bytes, slice_number, slice_path


def verify_store(
    path: str | os.PathLike[str],
    *,
    broadcast: str | None = None,
    track: str | None = None,
    progress: Callable[[VerifyProgress], None] | None = None,
) -> VerifyReport:
    """Check the store in directory ``path``, changing nothing.

    Reads all files whole, and checks every checksum, that each group has all of its frames, in
    this file and the next, and that the catalog agrees with the files. The store may be in
    use: what is recorded, sealed or removed meanwhile is no problem. Memory is bounded,
    whatever the size of the store.

    Blocks, and for long: in a Trio program, call it in a worker thread.

    Args:
        path: the store.
        broadcast, track: check only what there is of tracks of that broadcast or name.
        progress: called now and then, in this thread; what it raises ends the check.

    Raises:
        ReplayError: nothing could be checked: there is no store or no such track, it is of a
            newer version, or the operating system refuses access. Damage is never raised.
    """
    directory = Path(path)
    find_catalog(directory)
    verifier = _Verifier(directory, progress or (lambda _: None))
    if verifier.check_catalog_file():
        verifier.check(broadcast, track)
    return verifier.report()


@attrs.define(eq=False)
class _Verifier:
    """One check of one store."""

    directory: Path
    progress: Callable[[VerifyProgress], None]
    slices: int = 0
    groups: int = 0
    totals: Totals = attrs.Factory(Totals)
    gaps: int = 0
    problem_count: int = 0
    problems: list[Problem] = attrs.Factory(list)
    joins: Joins = attrs.Factory(Joins)
    names: Mapping[int, TrackRow] = attrs.Factory(dict)
    read_bytes: int = 0
    total_bytes: int = 0

    def report(self) -> VerifyReport:
        """What it came to."""
        return VerifyReport(
            self.directory,
            self.slices,
            self.groups,
            self.totals.frames,
            self.totals.bytes,
            len(self.joins),
            self.gaps,
            self.problem_count,
            tuple(self.problems),
        )

    def check_catalog_file(self) -> bool:
        """Whether the catalog can be read, in all likelihood. Raises ReplayError."""
        path = self.directory / CATALOG_NAME
        try:
            messages = look(path, _quick_check)
        except sqlite3.Error as error:
            trouble = store_error(error, path)
            if trouble.retryable:
                raise trouble from error
            messages = [describe_briefly(error, path)]
        for message in messages:
            self._add([Problem(path, message)])
        return not messages

    def check(self, broadcast: str | None, track: str | None) -> None:
        """Check what there is of the tracks that are wanted. Raises ReplayError."""
        on_disk = self._slices_on_disk()
        view = read_catalog(self.directory)
        self.names = {row.id: row for row in view.tracks}
        wanted = None
        if broadcast is not None or track is not None:
            wanted = {
                row.id for row in select_tracks(self.directory, view.tracks, broadcast, track)
            }
        self.gaps = sum(
            len(gaps) for track, gaps in view.gaps.items() if wanted is None or track in wanted
        )
        self._check_strays(on_disk, view.numbers)
        self._check_sequences(view, wanted)
        rows = [row for row in view.slices if wanted is None or _concerns(row, wanted)]
        self.total_bytes = sum(file_bytes(view.file(row).path) for row in rows)
        for before, row in zip((0, *(row.number for row in rows)), rows, strict=False):
            self.joins.blind |= row.number != before + 1
            self._check_slice(view, row, wanted)

    def _check_strays(self, before: set[int], known: Collection[int]) -> None:
        """Tell of files that were there before and after the catalog was read without them:
        one on its way in or out is not."""
        for number in sorted((before & self._slices_on_disk()).difference(known)):
            path = slice_path(self.directory, number)
            self._add([Problem(path, "the catalog does not have this file")])

    def _check_sequences(self, view: CatalogView, wanted: Collection[int] | None) -> None:
        """That no sequence that was used would be given out once more."""
        for row in view.tracks:
            if wanted is not None and row.id not in wanted:
                continue
            contents = [each.contents.get(row.id) for each in view.slices]
            ends = [each.last + 1 for each in contents if each and each.last is not None]
            following = row.reserved_end if row.next_sequence is None else row.next_sequence
            end = max(ends, default=0)
            if end > following or end > row.reserved_end:
                path = self.directory / CATALOG_NAME
                detail = f"it would go on with group {following}, and has groups up to {end - 1}"
                self._add([Problem(path, detail, row.broadcast, row.name, following, end)])

    def _check_slice(
        self, view: CatalogView, row: SliceRow, wanted: Collection[int] | None
    ) -> None:
        file = view.file(row)
        found = SliceFindings(file.path, self.names)
        start = self.read_bytes

        def advance(count: int) -> None:
            self.read_bytes += count
            self.progress(VerifyProgress(file.path, self.read_bytes, self.total_bytes))

        try:
            with looking_at(file) as connection:
                examiner = SliceExaminer(file, connection, row.contents, self.joins, found, advance)
                examiner.check_database()
                for track in examiner.find_tracks():
                    if wanted is None or track in wanted:
                        examiner.check_track(track)
                        found.check_name(track)
                if not found.count and row.state == SEALED:
                    found.check_catalog(row, examiner, wanted)
                if not found.count:
                    examiner.check_keys()
        except sqlite3.Error as error:
            if not cannot_be_read(error, file):
                raise store_error(error, file.path) from error
            found.tell_lost(describe_briefly(error, file.path), row.contents, wanted)
            self.joins.lose()
        else:
            self._count(examiner)
        self.read_bytes = start + file_bytes(file.path)
        if found.count:
            self._take(found, row)

    def _take(self, found: SliceFindings, row: SliceRow) -> None:
        self.joins.blind = True
        states = {each.number: each.state for each in read_catalog(self.directory).slices}
        if row.number in states:
            self._add(found.problems, found.count)
        else:  # Retention has removed it meanwhile.
            self.joins.lose()

    def _count(self, examiner: SliceExaminer) -> None:
        self.slices += 1
        for content in examiner.contents.values():
            self.groups += content.groups
            self.totals.add(content.totals)

    def _slices_on_disk(self) -> set[int]:
        try:
            numbers = {slice_number(each) for each in self.directory.iterdir()}
        except OSError as error:
            raise store_error(error, self.directory) from error
        return {number for number in numbers if number is not None}

    def _add(self, problems: Sequence[Problem], count: int | None = None) -> None:
        self.problem_count += len(problems) if count is None else count
        self.problems += problems[: PROBLEMS_KEPT - len(self.problems)]


def _concerns(row: SliceRow, wanted: Collection[int]) -> bool:
    """Whether a slice has something of the tracks that are wanted, or may."""
    if row.state != SEALED or any(track in wanted for track in row.contents):
        return True
    return any(track in wanted for track, _ in row.continuations)


def _quick_check(connection: sqlite3.Connection) -> list[str]:
    found = connection.execute("PRAGMA quick_check(10)").fetchall()
    return [f"SQLite finds {message}" for (message,) in found if message != "ok"]
