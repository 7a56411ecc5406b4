"""Opening a WebTransport session."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import trio

from ...errors import ConnectError, SessionClosed, StreamReset
from ...scope import open_scope
from ..connection import URGENT, BidiStream, Connection, ReceiveStream
from ..refusals import is_retryable
from ..streams import ReceiveHalf
from .codes import H3Code, H3Error, MessageError, Setting
from .fields import (
    AVAILABLE_PROTOCOLS,
    DRAFT_02,
    PROTOCOL,
    Message,
    decode_strings,
    encode_strings,
)
from .frames import RequestFrames
from .http3 import Http3Connection
from .records import BITE
from .session import WebTransportSession

# Interim answers before the one that counts (RFC 9110 section 15.2).
_MOST_INTERIM = 8


@asynccontextmanager
async def open_webtransport(
    connection: Connection, *, authority: str, path: str, protocols: Sequence[str]
) -> AsyncGenerator[Connection, None]:
    """Open a session on a QUIC connection whose ALPN is ``h3``, and close both when the
    block is left, cancelled or not.

    An exception from the block comes out as it is.

    Args:
      connection: one that nothing else uses.
      authority: host and port of the URL, as the server's name.
      path: path and query of the URL; it begins with a slash.
      protocols: the protocols to offer, the preferred one first. The session's ``alpn`` is
        the one the server chose.

    Raises:
      ConnectError: the server speaks no WebTransport, refused, or chose no protocol that
        was offered; says which.
    """
    async with open_scope() as nursery:
        client = _Client(connection)
        try:
            client.start(nursery)
            yield await client.connect(authority, path, protocols)
        finally:
            client.leave()


class _Client(Http3Connection):
    """A client's end, with its one session."""

    def __init__(self, carrier: Connection) -> None:
        super().__init__(carrier, max_sessions=1)

    async def connect(
        self, authority: str, path: str, protocols: Sequence[str]
    ) -> WebTransportSession:
        """Ask for a session."""
        request = self._fields.encode(
            [
                (b":method", b"CONNECT"),
                (b":protocol", b"webtransport"),
                (b":scheme", b"https"),
                (b":authority", authority.encode("ascii")),
                (b":path", path.encode("ascii")),
                (DRAFT_02, b"1"),
                (AVAILABLE_PROTOCOLS, encode_strings(protocols)),
            ]
        )
        where = f"https://{authority}{path}"
        try:
            with trio.fail_after(self._timeout):
                await self._check_settings(where)
                stream = await self._carrier.open_bidi()
                stream.send.set_priority(URGENT)
                session = self._begin_session(stream, authority=authority, path=path)
                stream.send.send_nowait(request)
                answer, frames = await self._answer(stream.receive)
        except trio.TooSlowError:
            raise ConnectError(
                f"{where} did not answer the WebTransport request within {self._timeout:g} s"
            ) from None
        except (MessageError, H3Error) as error:
            self._carrier.close(error.code, str(error))
            raise ConnectError(f"{where} answered what HTTP/3 does not allow: {error}") from error
        except StreamReset as error:
            raise ConnectError(f"{where} refused the WebTransport request: {error}") from error
        except SessionClosed as error:
            await trio.lowlevel.checkpoint_if_cancelled()  # which closes it too
            raise ConnectError(f"no WebTransport session with {where}: {error}") from error
        session.agree(_chosen_protocol(where, answer, protocols))
        self._nursery.start_soon(self._guarded, self._watch, session, stream.receive, frames)
        return session

    async def _check_settings(self, where: str) -> None:
        """Wait until the server has said that it knows WebTransport."""
        async with trio.open_nursery() as nursery:

            async def watch_the_connection() -> None:
                await self._carrier.wait_closed()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch_the_connection)
            await self._control.settings_arrived.wait()
            nursery.cancel_scope.cancel()
        if not self._control.settings_arrived.is_set():
            raise self._carrier._closed_error()
        settings = self._control.settings
        if not settings.get(Setting.ENABLE_CONNECT_PROTOCOL) or not any(
            settings.get(each) for each in _SAY_WEBTRANSPORT
        ):
            raise ConnectError(
                f"{where} speaks HTTP/3, but its SETTINGS offer no WebTransport; "
                "check the port, and whether a proxy is in between"
            )

    async def _answer(self, stream: ReceiveStream) -> tuple[Message, RequestFrames]:
        """The server's answer; from then on the stream carries capsules."""
        assert isinstance(stream, ReceiveHalf)
        frames = RequestFrames()
        interim = 0
        while data := await stream._receive_idly(BITE):
            for _, section in frames.feed(data):
                answer = Message.parse(self._fields.decode(stream.stream_id, section))
                if answer.status // 100 != 1:
                    frames.expects_headers = False
                    return answer, frames
                interim += 1
                if interim > _MOST_INTERIM:
                    raise H3Error(H3Code.EXCESSIVE_LOAD, "interim answers without end")
        raise MessageError("the CONNECT stream ended without an answer")

    def leave(self) -> None:
        """Close the session, and the connection with the session's code."""
        ends = [session.closed for session in self._sessions.values()]
        own = next((end for end in ends if end is not None and not end.remote), None)
        if own is None:
            self.shut()
        else:
            self.shut(own.code, own.reason)

    # What the server opens

    def _request_arrived(self, stream: BidiStream, taken: bytes) -> None:
        raise H3Error(H3Code.STREAM_CREATION_ERROR, "a request from a server")

    def _session_of(self, session_id: int) -> WebTransportSession | None:
        session = self._sessions.get(session_id)
        if session is None:
            raise H3Error(H3Code.ID_ERROR, f"stream {session_id} is no session")
        return session if session.closed is None else None

    def _goaway(self, number: int) -> None:
        if number & 3:
            raise H3Error(H3Code.ID_ERROR, f"GOAWAY for {number}, which is no request")
        if any(session.session_id >= number for session in self._sessions.values()):
            self._carrier.close(
                H3Code.NO_ERROR, "the server is going away and takes no new sessions"
            )


def _chosen_protocol(where: str, answer: Message, offered: Sequence[str]) -> str:
    """The protocol of an accepted session. Raises ConnectError where it was refused."""
    ours = ", ".join(offered)
    theirs = ", ".join(decode_strings(answer.get(AVAILABLE_PROTOCOLS)))
    status = answer.status
    if theirs and not set(offered) & set(decode_strings(answer.get(AVAILABLE_PROTOCOLS))):
        raise ConnectError(
            f"{where} speaks none of the protocols offered by this side: "
            f"it has {theirs}; this side has {ours} (status {status})",
            retryable=False,
        )
    if status // 100 != 2:
        hint = _HINTS.get(status, "the server gives no further reason")
        raise ConnectError(
            f"{where} refused the WebTransport session: status {status}; {hint}",
            retryable=is_retryable(status),
        )
    chosen = decode_strings(answer.get(PROTOCOL))
    if len(chosen) != 1 or chosen[0] not in offered:
        said = f"chose {chosen[0]!r}" if chosen else "chose no protocol"
        raise ConnectError(
            f"{where} {said}; this side offered {ours}; check which versions the server supports",
            retryable=False,
        )
    return chosen[0]


_HINTS = {
    400: "it does not understand the request, or speaks none of the protocols offered",
    401: "it wants a token",
    403: "the token or this origin is not allowed there",
    404: "check the path",
    405: "there is no WebTransport at this path",
    429: "it has too many sessions; try again later",
    503: "it is overloaded; try again later",
}
_SAY_WEBTRANSPORT = (
    Setting.ENABLE_WEBTRANSPORT_DRAFT_02,
    Setting.MAX_SESSIONS_DRAFT_02,
    Setting.MAX_SESSIONS_DRAFT_07,
    Setting.MAX_SESSIONS_DRAFT_13,
    Setting.ENABLED_DRAFT_15,
)
