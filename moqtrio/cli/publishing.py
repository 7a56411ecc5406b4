"""What ``serve`` and ``publish`` share: an input becomes a track."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Protocol

import attrs
import trio

import moqtrio

from ..model import LogLimits
from .durations import format_duration
from .lines import open_lines
from .options import SourceOptions
from .output import Output
from .progress import Progress
from .telemetry import TelemetryReader

# How far a fast input may be ahead of the store. The rest of what memory may hold is for
# subscribers, and for a commit that takes long.
_AHEAD_OF_STORE = 32 * 2**20
# Some milliseconds of work, after which subscribers and recorder have their turn.
_FRAMES_PER_TURN = 256
_STATISTICS_INTERVAL = 1.0
_LAG_TO_MENTION = 2.0
_RETENTION = 72 * 3600.0
_DISK_RETENTION = 3600.0


Store = moqtrio.SqliteStore | moqtrio.TieredStore


class FrameReader(Protocol):
    """Where frames come from."""

    async def receive_batch(self) -> list[bytes]:
        """The next payloads, waiting for the first; ``[]`` at the end."""
        ...


class FrameWriter:
    """Puts frames into groups of a fixed size.

    Args:
        track: where the groups go.
        group_frames: frames per group; the last one may have fewer.
    """

    def __init__(self, track: moqtrio.Track, group_frames: int) -> None:
        self._track = track
        self._group_frames = group_frames
        self._group: moqtrio.GroupProducer | None = None
        self._left = 0
        self._open_bytes = 0
        self.frames: int = 0
        self.bytes: int = 0

    def write(self, payloads: Sequence[bytes]) -> None:
        """Publish each payload as a frame, at once."""
        for payload in payloads:
            if self._group is None:
                self._group = self._track.append_group()
                self._left = self._group_frames
            self._group.write_frame(payload)
            self._open_bytes += len(payload)
            self.bytes += len(payload)
            self._left -= 1
            if not self._left:
                self.finish_group()
        self.frames += len(payloads)

    async def wait_store(self) -> None:
        """Wait for a store that is behind; a checkpoint and no more where nothing is recorded.

        The open group does not count: it can only become durable after it has ended.
        """
        await self._track.wait_durable(_AHEAD_OF_STORE + self._open_bytes)

    def finish(self) -> None:
        """No more frames."""
        self.finish_group()
        self._track.finish()

    def finish_group(self) -> None:
        """End the open group, if there is one: the next frame begins another."""
        if self._group is not None:
            self._group.finish()
            self._group = None
            self._open_bytes = 0


@attrs.frozen
class Publication:
    """An input, open, and the track it goes to."""

    origin: moqtrio.Origin
    track: moqtrio.Track
    reader: FrameReader
    options: SourceOptions
    store: Store | None

    async def run(self, output: Output, *, json: bool) -> None:
        """Publish all of the input, then stay for subscribers unless told to ``--exit``."""
        writer = FrameWriter(self.track, self.options.group_frames)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._report, writer, output, json)
            try:
                while payloads := await self.reader.receive_batch():
                    await self._publish(writer, payloads)
            finally:
                # Also when interrupted: what was published of it is whole lines, and only a
                # group that has ended can be replayed to its end.
                writer.finish_group()
            writer.finish()
            if not self.options.exit:
                await trio.sleep_forever()
            await self.track.wait_durable()
            if isinstance(self.store, moqtrio.TieredStore):
                await self.store.archive()
            nursery.cancel_scope.cancel()
        if json:
            await output.write_json(describe(self.track))

    async def _publish(self, writer: FrameWriter, payloads: Sequence[bytes]) -> None:
        for start in range(0, len(payloads), _FRAMES_PER_TURN):
            writer.write(payloads[start : start + _FRAMES_PER_TURN])
            await writer.wait_store()

    async def _report(self, writer: FrameWriter, output: Output, json: bool) -> None:
        started = trio.current_time()
        with Progress(beside_output=json) as progress:
            while True:
                await trio.sleep(_STATISTICS_INTERVAL)
                if json:
                    await output.write_json(describe(self.track))
                progress.show(
                    f"{writer.frames:,} frames, {writer.bytes / 1e6:,.1f} MB in "
                    f"{format_duration(trio.current_time() - started)}"
                    f"{describe_trouble(self.track)}"
                )


def describe(track: moqtrio.Track) -> dict[str, object]:
    """A track's statistics, as a JSON message."""
    return {"type": "statistics", **attrs.asdict(track.statistics())}


def describe_trouble(track: moqtrio.Track) -> str:
    """What a person who watches should know of the track's store; empty while all is well."""
    recording = track.statistics().recording
    if recording is None:
        return ""
    said = ""
    if recording.failing or recording.lag >= _LAG_TO_MENTION:
        said = f"; the store is {format_duration(recording.lag)} behind"
    if recording.lost:
        said += f"; {recording.lost:,} groups were not recorded"
    return said


@asynccontextmanager
async def open_publication(options: SourceOptions) -> AsyncIterator[Publication]:
    """Open the input, the store and the track.

    Raises OSError where the input cannot be opened, ReplayError where the store cannot.
    """
    origin = moqtrio.Origin()
    async with AsyncExitStack() as stack:
        reader = await _open_reader(options, stack)
        store = await _open_store(options, stack)
        broadcast = origin.create_broadcast(options.broadcast)
        track = broadcast.create_track(
            options.track, store=store, recording=options.recording, cache_age=options.cache_age
        )
        yield Publication(origin, track, reader, options, store)


async def _open_store(options: SourceOptions, stack: AsyncExitStack) -> Store | None:
    directory, url = options.split_stores()
    if directory is None:
        return None
    retention = _RETENTION if options.retention is None else options.retention
    if url is None:
        return await stack.enter_async_context(
            moqtrio.SqliteStore.open(
                directory, retention=retention, retention_bytes=options.disk_size
            )
        )
    return await stack.enter_async_context(
        moqtrio.TieredStore.open(
            directory,
            url,
            retention=retention,
            hot_retention=(
                _DISK_RETENTION if options.disk_retention is None else options.disk_retention
            ),
            hot_bytes=options.disk_size,
        )
    )


async def _open_reader(options: SourceOptions, stack: AsyncExitStack) -> FrameReader:
    if options.input == "telemetry":
        return TelemetryReader(options.seconds)
    return await stack.enter_async_context(
        open_lines(options.input, max_line=LogLimits().max_frame_bytes)
    )
