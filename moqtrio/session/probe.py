"""How fast a connection is, told by the side that sends (draft-lcurley-moq-lite, "Probe")."""

from __future__ import annotations

import attrs
import trio

from ..errors import RequestError, StreamReset, describe_stream_code
from ..scope import open_scope
from ..transport.connection import Connection, ConnectionStatistics
from ..wire import lite
from .control import ControlStream

_LOOK_EVERY = 0.1  # seconds
_WORTH_TELLING = 0.25  # of what was told last
_TELL_EVERY = 10.0  # seconds


@attrs.frozen
class ProbeReport:
    """What a publisher says of the connection, in its own direction.

    Attributes:
        bitrate: bits per second it could send, by its estimate; None if it does not know.
        round_trip_time: seconds, smoothed, in steps of a millisecond; None if it does not
            know, or the protocol version (moq-lite-03) cannot say.
    """

    bitrate: int | None
    round_trip_time: float | None


class ProbeReports(trio.abc.ReceiveChannel[ProbeReport]):
    """The latest report of the publisher, whenever there is a new one. Made by
    ``Session.probe``.

    ``receive`` skips reports that were overtaken. It raises EndOfChannel when the publisher
    ends the stream, RequestError when it refuses or resets it, SessionClosed when the session
    is over and DecodeError for what is not a report. Cancelling it loses nothing.
    """

    def __init__(self, control: ControlStream) -> None:
        self._control = control

    async def receive(self) -> ProbeReport:
        """The next report."""
        try:
            message = await self._control.read(lite.Probe)
            latest = message
            while message is not None:
                latest = message
                message = self._control.read_nowait(lite.Probe)
        except StreamReset as error:
            raise RequestError(
                f"the publisher ended its reports: {describe_stream_code(error.code)}",
                code=error.code,
            ) from None
        if latest is None:
            raise trio.EndOfChannel
        return ProbeReport(latest.bitrate, latest.round_trip_time)

    async def aclose(self) -> None:
        """End the stream. Cancelling it changes nothing."""
        self._control.finish()
        await trio.lowlevel.checkpoint()


async def serve_probe(connection: Connection, control: ControlStream) -> None:
    """Report what the connection's statistics say until the peer ends the stream: at once,
    when it has changed by a quarter, and every ten seconds.

    A peer may name targets: this publisher sends nothing that nobody asked for, and ignores
    them (level "Report"). Raises DecodeError for what is no target.
    """
    async with open_scope() as nursery:
        nursery.start_soon(_report, connection, control)
        while await control.read(lite.Probe) is not None:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    control.finish()


async def _report(connection: Connection, control: ControlStream) -> None:
    told: lite.Probe | None = None
    told_at = -_TELL_EVERY
    while True:
        report = _report_of(connection.statistics())
        now = trio.current_time()
        due = now >= told_at + _TELL_EVERY and report != lite.Probe()
        if due or (told is not None and _has_moved(told, report)):
            await control.send_all(report)
            told, told_at = report, now
        await trio.sleep(_LOOK_EVERY)


def _report_of(statistics: ConnectionStatistics) -> lite.Probe:
    bitrate = statistics.estimated_bitrate
    return lite.Probe(None if bitrate is None else int(bitrate), statistics.smoothed_rtt or None)


def _has_moved(told: lite.Probe, report: lite.Probe) -> bool:
    pairs = (
        (told.bitrate, report.bitrate),
        (told.round_trip_time, report.round_trip_time),
    )
    return any(_differs(before, now) for before, now in pairs)


def _differs(before: float | None, now: float | None) -> bool:
    if before is None or now is None:
        return before is not now
    return abs(now - before) >= before * _WORTH_TELLING
