"""One UDP socket, read and written in batches without waiting.

Linux takes and gives several datagrams per call (UDP_SEGMENT, UDP_GRO); elsewhere, and
after the first refusal, it is one call per datagram.

A socket bound to every address of a machine is told which of them a datagram came to, and
answers from it: the peer's socket, or a firewall on the way, takes nothing else.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import struct
import sys
from collections import deque
from typing import Any, Protocol

import attrs
import trio

logger: logging.Logger = logging.getLogger("moqtrio.transport.udp")

#: What the socket module takes for this family. On a socket bound to every address, the
#: local one follows as a last element, as the kernel wants it for sending: so addresses are
#: equal where both ends of the path are.
Address = Any

_UDP_SEGMENT = 103
_UDP_GRO = 104
_GSO_MAX_SEGMENTS = 64
_GSO_MAX_BYTES = 65000
_LARGEST_READ = 65536
_WILDCARDS = ("0.0.0.0", "::")
_IP_PKTINFO = 8  # Linux's; the socket module lacks it
_ANCILLARY_SPACE = socket.CMSG_SPACE(4) + socket.CMSG_SPACE(20)
# As much as a kernel's send buffer; beyond it datagrams are dropped as the network would.
_MAX_QUEUED_BYTES = 4 << 20

_REFUSED = (errno.ECONNREFUSED, errno.ECONNRESET)
# The socket itself is of no use. Any other error is the network's, and passes.
_BROKEN = (errno.EBADF, errno.ENOTSOCK, errno.EINVAL, errno.EFAULT, errno.ENOTCONN)
# How kernels and drivers say that they cannot cut a buffer into segments.
_NO_SEGMENTATION = (errno.EINVAL, errno.EIO, errno.EMSGSIZE, errno.ENOPROTOOPT, errno.EOPNOTSUPP)


class DatagramSocket(Protocol):
    """What an endpoint needs of a socket, so that a simulated network can stand in."""

    #: The network said that nothing listens at the peer's address.
    refused: bool

    @property
    def address(self) -> Address:
        """The local address, as the socket module has it."""
        ...

    @property
    def blocked(self) -> bool:
        """Whether the send buffer was full; wait for it before sending more."""
        ...

    def close(self) -> None:
        """Close the socket. Idempotent."""

    async def wait_readable(self) -> None:
        """Wait until there is something to read."""

    async def wait_writable(self) -> None:
        """Wait until more can be sent."""

    def receive(self, limit: int) -> list[tuple[bytes, Address]]:
        """What has arrived, stopping once there are ``limit`` datagrams."""
        ...

    def send(self, datagrams: list[tuple[bytes, Address]]) -> None:
        """Send, in order; what cannot go now is queued, up to a bound."""

    def send_queued(self) -> None:
        """Send what was queued, as far as it goes."""


class UdpSocket:
    """A bound, non-blocking socket. Nothing here waits, except the two ``wait_*``."""

    def __init__(self, sock: socket.socket, *, buffer_size: int, peer: Address | None) -> None:
        self._socket = sock
        self._peer = peer
        self._queue: deque[tuple[bytes, Address]] = deque()
        self._queued_bytes = 0
        self._gso = False
        self._arrivals: _Arrivals | None = None
        #: The kernel said that nothing listens at the peer's address.
        self.refused: bool = False
        sock.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, option, buffer_size)
        if sys.platform == "linux":
            self._gso = True
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_UDP, _UDP_GRO, 1)
            if peer is None and self.address[0] in _WILDCARDS:
                self._arrivals = _ARRIVALS[sock.family]
                sock.setsockopt(self._arrivals.level, self._arrivals.option, 1)

    @property
    def address(self) -> Address:
        """The local address, as the socket module has it."""
        return self._socket.getsockname()

    @property
    def blocked(self) -> bool:
        """Whether the kernel's buffer was full; wait for it before sending more."""
        return bool(self._queue)

    def close(self) -> None:
        """Close the socket. Idempotent."""
        if self._socket.fileno() != -1:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    async def wait_readable(self) -> None:
        """Wait until there is something to read."""
        await trio.lowlevel.wait_readable(self._socket)

    async def wait_writable(self) -> None:
        """Wait until the kernel takes more."""
        await trio.lowlevel.wait_writable(self._socket)

    def receive(self, limit: int) -> list[tuple[bytes, Address]]:
        """What has arrived, stopping once there are ``limit`` datagrams."""
        received: list[tuple[bytes, Address]] = []
        recvmsg = self._socket.recvmsg
        while len(received) < limit:
            try:
                data, ancillary, _, address = recvmsg(_LARGEST_READ, _ANCILLARY_SPACE)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                if error.errno in _BROKEN:
                    raise
                self._note_failure(error)
                break
            if address is None or self._peer is not None:
                address = self._peer
            elif self._arrivals is not None:
                address = (*address, self._arrivals.local(ancillary))
            if ancillary:
                size = _segment_size(ancillary)
                if 0 < size < len(data):
                    received.extend(
                        (data[start : start + size], address) for start in range(0, len(data), size)
                    )
                    continue
            received.append((data, address))
        return received

    def send(self, datagrams: list[tuple[bytes, Address]]) -> None:
        """Send, in order; what the kernel does not take now is queued, up to a bound."""
        if self._queue:
            self._enqueue(datagrams, 0)
            return
        index = 0
        while index < len(datagrams):
            stop = self._run_of_equal_size(datagrams, index) if self._gso else index + 1
            try:
                if stop - index > 1:
                    self._send_run(datagrams[index:stop])
                else:
                    self._send_one(*datagrams[index])
            except (BlockingIOError, InterruptedError):
                self._enqueue(datagrams, index)
                return
            except OSError as error:
                if stop - index > 1 and error.errno in _NO_SEGMENTATION:
                    # Some drivers and tunnels refuse segmentation: never again here.
                    self._gso = False
                    continue
                self._note_failure(error)
            index = stop

    def send_queued(self) -> None:
        """Send what was queued, as far as the kernel takes it."""
        while self._queue:
            data, address = self._queue[0]
            try:
                self._send_one(data, address)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._note_failure(error)
            self._queue.popleft()
            self._queued_bytes -= len(data)

    def _send_one(self, data: bytes, address: Address) -> None:
        if self._peer is not None:
            self._socket.send(data)
        elif self._arrivals is not None:
            self._socket.sendmsg([data], self._arrivals.source(address), 0, address[:-1])
        else:
            self._socket.sendto(data, address)

    def _send_run(self, run: list[tuple[bytes, Address]]) -> None:
        first, address = run[0]
        segment = (socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("H", len(first)))
        buffers = [data for data, _ in run]
        if self._peer is not None:
            self._socket.sendmsg(buffers, [segment])
        elif self._arrivals is not None:
            source = self._arrivals.source(address)
            self._socket.sendmsg(buffers, [segment, *source], 0, address[:-1])
        else:
            self._socket.sendmsg(buffers, [segment], 0, address)

    @staticmethod
    def _run_of_equal_size(datagrams: list[tuple[bytes, Address]], start: int) -> int:
        """One past the last datagram that can share a call with the one at ``start``:
        all of one size but the last, which may be shorter."""
        data, address = datagrams[start]
        size = len(data)
        longest = min(start + _GSO_MAX_SEGMENTS, start + _GSO_MAX_BYTES // max(size, 1))
        stop = start + 1
        for index in range(start + 1, min(longest, len(datagrams))):
            data, to = datagrams[index]
            if len(data) > size or to != address:
                break
            stop = index + 1
            if len(data) < size:
                break
        return stop

    def _enqueue(self, datagrams: list[tuple[bytes, Address]], start: int) -> None:
        for item in datagrams[start:]:
            if self._queued_bytes + len(item[0]) > _MAX_QUEUED_BYTES:
                break
            self._queue.append(item)
            self._queued_bytes += len(item[0])

    def _note_failure(self, error: OSError) -> None:
        """A datagram that cannot be sent is a datagram lost: QUIC copes. Reading may report
        it only later."""
        if error.errno in _REFUSED:
            self.refused = True
        else:
            logger.debug("a datagram was lost: %s", error)


@attrs.frozen
class _Arrivals:
    """How the kernel says which local address a datagram came to, and is told which one
    another shall come from (ip(7), RFC 3542 section 6)."""

    level: int
    option: int
    kind: int
    #: Where the address is among what the kernel says, ...
    said: slice
    #: ... and what surrounds it when it is told. The interface is left to the routes.
    before: bytes
    after: bytes

    def local(self, ancillary: list[tuple[int, int, bytes]]) -> bytes:
        """What to give back to answer from the address the datagram came to."""
        for level, kind, data in ancillary:
            if level == self.level and kind == self.kind:
                return self.before + data[self.said] + self.after
        return b""

    def source(self, address: Address) -> list[tuple[int, int, bytes]]:
        """The ancillary data to send with."""
        return [(self.level, self.kind, address[-1])] if address[-1] else []


_ARRIVALS = {
    # struct in_pktinfo: interface, local address, address in the header.
    socket.AF_INET: _Arrivals(
        socket.IPPROTO_IP, _IP_PKTINFO, _IP_PKTINFO, slice(4, 8), bytes(4), bytes(4)
    ),
    # struct in6_pktinfo: local address, interface. It holds mapped IPv4 addresses too.
    socket.AF_INET6: _Arrivals(
        socket.IPPROTO_IPV6,
        socket.IPV6_RECVPKTINFO,
        socket.IPV6_PKTINFO,
        slice(0, 16),
        b"",
        bytes(4),
    ),
}


def _segment_size(ancillary: list[tuple[int, int, bytes]]) -> int:
    for level, kind, data in ancillary:
        if level == socket.IPPROTO_UDP and kind == _UDP_GRO:
            return int.from_bytes(data[:4], sys.byteorder)
    return 0
