"""What a client asks for over TCP: a certificate's fingerprint, and a WebSocket."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress

import h11
import trio
from wsproto.connection import ConnectionType
from wsproto.events import AcceptConnection, RejectConnection, RejectData, Request
from wsproto.handshake import H11Handshake
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from ...errors import ConnectError
from ...scope import bare_exceptions
from ..connection import Connection
from ..qmux import Agreement, QmuxConnection, agreements, drive
from ..refusals import is_retryable
from ..settings import TransportSettings
from ..tls import ClientTls, normalise_fingerprint
from .resources import FINGERPRINT_PATH
from .tls import connect_tls
from .websocket import WebSocketLink

_READ_SIZE = 64 * 1024
_LARGEST_FINGERPRINT = 256
_LARGEST_EXPLANATION = 512
_EXPLANATION_PATIENCE = 1.0  # seconds
_BAD_REQUEST = 400  # among others where no protocol is in common
_NO_MORE = (RemoteProtocolError, LocalProtocolError, trio.BrokenResourceError)


async def fetch_fingerprint(
    host: str, port: int, *, settings: TransportSettings | None = None
) -> str:
    """The SHA-256 a server gives for its certificate, in hexadecimal, over plain HTTP.

    For development: anyone on the path can answer something else.

    Args:
      host: a name or an IP address.
      port: the TCP port.
      settings: ``connect_timeout`` holds for all of it.

    Raises:
      ConnectError: nothing answers, or something else than a fingerprint.
    """
    where = _authority(host, port)
    url = f"http://{where}{FINGERPRINT_PATH}"
    settings = TransportSettings() if settings is None else settings
    with _limited(settings.connect_timeout, f"{url} was not answered"):
        stream = await _open_stream(host, port)
        try:
            status, body = await _get(stream, where, FINGERPRINT_PATH)
        except h11.RemoteProtocolError as error:
            raise ConnectError(f"{url} was not answered in HTTP ({error})") from error
        except trio.BrokenResourceError as error:
            raise ConnectError(f"{url}: the connection was lost") from error
        finally:
            await trio.aclose_forcefully(stream)
    if status != 200:
        raise ConnectError(f"{url} was answered with HTTP status {status}, not with a fingerprint")
    try:
        return normalise_fingerprint(body.decode("ascii").strip())
    except ValueError as error:
        raise ConnectError(f"{url}: {error}") from error


@asynccontextmanager
async def open_websocket(
    host: str,
    port: int,
    *,
    protocols: Sequence[str],
    path: str = "/",
    encrypted: bool = True,
    tls: ClientTls | None = None,
    server_name: str | None = None,
    settings: TransportSettings | None = None,
) -> AsyncIterator[Connection]:
    """Connect to ``host`` over a WebSocket, and close the connection when the block is left.

    For networks that let no UDP through. An exception from the block comes out as it is.

    Args:
      host: a name or an IP address.
      port: the TCP port.
      protocols: the application protocols to offer, the preferred one first.
      path: path and query to ask for, as HTTP has them.
      encrypted: whether to go through TLS (``wss``), or not (``ws``).
      tls: how to check the server's certificate, by default fully, and the client's own.
      server_name: the name to ask for and to expect in the certificate, if not ``host``.
      settings: limits and timers; ``connect_timeout`` holds for everything up to the
        connection.

    Raises:
      ConnectError: no connection came about; says why.
      ValueError: ``path`` does not start with a slash.
    """
    if not path.startswith("/"):
        raise ValueError(f"a path starts with a slash, not as {path!r} does")
    settings = TransportSettings() if settings is None else settings
    where = _authority(host, port)
    tls = (tls or ClientTls()) if encrypted else None
    with bare_exceptions():
        async with trio.open_nursery() as nursery:
            with _limited(settings.connect_timeout, f"{where} did not answer"):
                stream = await _open_stream(host, port)
                agreement, link = await _dial(
                    stream, where, path, protocols, tls, server_name or host
                )
            connection = QmuxConnection(
                agreement,
                settings,
                is_client=True,
                remote_address=where,
                request_path=path,
                peer_certificate=link.peer_certificate,
            )
            nursery.start_soon(drive, connection, link)
            try:
                await connection.ready.wait()
                if connection.closed is not None:
                    await trio.lowlevel.checkpoint_if_cancelled()  # which closes it too
                    raise ConnectError(f"no connection to {where}: {connection.closed.reason}")
                yield connection
            finally:
                connection.close()


async def _dial(
    stream: trio.SocketStream,
    where: str,
    path: str,
    protocols: Sequence[str],
    tls: ClientTls | None,
    server_name: str,
) -> tuple[Agreement, WebSocketLink]:
    """All handshakes after TCP's. Closes the stream if one fails."""
    lost = f"{where}: the connection was lost in the handshake"
    try:
        if tls is None:
            return await _upgrade(stream, where, path, protocols, lost)
        secured = await connect_tls(stream, tls, server_name, _peer(stream, where))
        if tls.certificate_file is None:
            # TLS 1.3 has the client done before the server has looked for its certificate.
            lost += "; a server that wants a certificate of its clients does that"
        return await _upgrade(secured, where, path, protocols, lost)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


async def _upgrade(
    stream: trio.abc.Stream, where: str, path: str, protocols: Sequence[str], lost: str
) -> tuple[Agreement, WebSocketLink]:
    offered = {each.subprotocol: each for each in agreements(protocols)}
    handshake = H11Handshake(ConnectionType.CLIENT)
    request = Request(host=where, target=path, subprotocols=list(offered))
    try:
        await stream.send_all(handshake.send(request))
        answer = await _handshake_answer(stream, handshake)
    except RemoteProtocolError as error:
        raise ConnectError(f"{where} answered with no WebSocket handshake: {error}") from error
    except trio.BrokenResourceError as error:
        raise ConnectError(lost) from error
    if isinstance(answer, RejectConnection):
        status = answer.status_code
        said = await _explanation(stream, handshake, answer)
        raise ConnectError(
            f"{where} refused a WebSocket at {path} with HTTP status {status}"
            + (f": {said}" if said else "")
            + (f"; this side has {', '.join(protocols)}" if status == _BAD_REQUEST else ""),
            retryable=is_retryable(status),
        )
    agreement = offered.get(answer.subprotocol or "")
    if agreement is None:
        raise ConnectError(
            f"{where} speaks none of the protocols offered by this side over WebSocket "
            f"({', '.join(protocols)}); check which versions the server supports",
            retryable=False,
        )
    protocol = handshake.connection
    assert protocol is not None
    largest = agreement.version.largest_message
    return agreement, WebSocketLink(stream, protocol, largest_message=largest)


async def _handshake_answer(
    stream: trio.abc.Stream, handshake: H11Handshake
) -> AcceptConnection | RejectConnection:
    while True:
        data = await stream.receive_some(_READ_SIZE)
        if not data:
            raise trio.BrokenResourceError
        handshake.receive_data(bytes(data))
        for event in handshake.events():
            if isinstance(event, AcceptConnection | RejectConnection):
                return event


async def _explanation(
    stream: trio.abc.Stream, handshake: H11Handshake, refusal: RejectConnection
) -> str:
    """What the server says of its refusal, if that is a line of text and comes soon."""
    kinds = [value for name, value in refusal.headers if name.lower() == b"content-type"]
    body, is_whole = b"", not kinds or not kinds[0].startswith(b"text/plain")
    with trio.move_on_after(_EXPLANATION_PATIENCE), suppress(*_NO_MORE):
        while not is_whole and len(body) <= _LARGEST_EXPLANATION:
            for event in handshake.events():
                if isinstance(event, RejectData):
                    body += event.data
                    is_whole = event.body_finished
            if not is_whole:
                handshake.receive_data(bytes(await stream.receive_some(_READ_SIZE)) or None)
    text = body[:_LARGEST_EXPLANATION].decode("ascii", errors="replace").strip()
    return text if text.isprintable() else ""


async def _get(stream: trio.SocketStream, where: str, path: str) -> tuple[int, bytes]:
    http = h11.Connection(h11.CLIENT)
    request = h11.Request(
        method="GET", target=path, headers=[("Host", where), ("Connection", "close")]
    )
    await stream.send_all((http.send(request) or b"") + (http.send(h11.EndOfMessage()) or b""))
    status, body = 0, b""
    while len(body) <= _LARGEST_FINGERPRINT:
        event = http.next_event()
        if event is h11.NEED_DATA:
            http.receive_data(await stream.receive_some(_READ_SIZE))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage | h11.ConnectionClosed):
            break
    return status, body[: _LARGEST_FINGERPRINT + 1]


async def _open_stream(host: str, port: int) -> trio.SocketStream:
    try:
        return await trio.open_tcp_stream(host, port)
    except (OSError, UnicodeError) as error:
        raise ConnectError(_explain(host, port, error)) from error


def _explain(host: str, port: int, error: BaseException) -> str:
    """Why no address of ``host`` could be reached, in the words that QUIC has for it."""
    if isinstance(error, socket.gaierror):
        return f"cannot find the address of {host!r}: {error.strerror}"
    if isinstance(error, UnicodeError):
        return f"{host!r} is no name of a host: {error}"
    causes = list(_leaves(error))
    where = _authority(host, port)
    if all(isinstance(each, ConnectionRefusedError) for each in causes):
        return f"nothing listens at TCP {where} (connection refused)"
    reasons = dict.fromkeys(_why(each) for each in causes)
    return f"cannot reach {where} over TCP: {'; '.join(reasons)}"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The failure of each address, which Trio has as the cause of its own."""
    cause = error.__cause__
    if isinstance(cause, BaseExceptionGroup):
        for each in cause.exceptions:
            yield from _leaves(each)
    elif isinstance(cause, OSError):
        yield from _leaves(cause)
    else:
        yield error


def _why(error: BaseException) -> str:
    # Trio's own text names the address, which has been said.
    number = error.errno if isinstance(error, OSError) else None
    return os.strerror(number) if number else str(error)


def _peer(stream: trio.SocketStream, where: str) -> str:
    """The address that a host's name led to, as QUIC's errors name it."""
    try:
        host, port = stream.socket.getpeername()[:2]
    except OSError:  # it is gone already
        return where
    return _authority(host, port)


@contextmanager
def _limited(seconds: float, what: str) -> Iterator[None]:
    """Make a time-out a ConnectError."""
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise ConnectError(
            f"{what} within {seconds:g} s; check the address, the TCP port and firewalls"
        )


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
