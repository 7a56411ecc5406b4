"""An event firehose like the AT Protocol's, made up from a seed, for tests and measurements.

A message is what ``com.atproto.sync.subscribeRepos`` sends in one WebSocket message: two
DAG-CBOR objects, a header that names the kind and a body with an upstream sequence number.
Nearly all are commits, whose blocks are a CAR archive of hashes: bytes that no compression
helps with. Sizes are as measured on the real one: mean 4.8 KB, median 4.3, 99th percentile
11.7; so is the pace: 300 to 600 messages a second, with bursts of 2,000.

Everything follows from the seed and the sequence number, so whoever receives a message can
tell whether it is the one that was sent. Making one costs some microseconds: a thousand are
encoded in advance, and each message is one of them with its own number, time and revision
(the hashes in it stay those of the template).
"""

from __future__ import annotations

import hashlib
import math
import random
import struct
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from statistics import NormalDist
from typing import Any

import attrs
import libipld

FRAMES_PER_GROUP = 64
FIRST_SEQUENCE = 10_000_000_000
"""Like the real ones beyond 32 bits, so that all take the same number of bytes."""

MEDIAN_BYTES = 4300
_SPREAD = 0.399  # of the logarithm of a commit's size
_LARGE_BYTES = (20_000, 80_000)  # commits of many records: rare, and 4 % of all bytes
_LARGE_SHARE = 0.004
_LEAST_COMMIT = 900  # without any block of the repository's tree
_IDENTITY_SHARE = 0.004
_ACCOUNT_SHARE = 0.004
_TEMPLATES = 2000

STEADY_RATE = (300.0, 600.0)
BURST_RATE = 2000.0
_STEADY_SECONDS = 5.0
_BETWEEN_BURSTS = 20.0
_BURST_SECONDS = (0.2, 1.0)

# What stands in a template for what a message has of its own.
_SEQUENCE = 0xF1E2D3C4B5A69788
_TIME = "0000-00-00T00:00:00.000Z"
_REVISION = "zzzzzzzzzzzzz"
_MARKS = {
    struct.pack(">Q", _SEQUENCE): 0,
    _TIME.encode(): 1,
    _REVISION.encode(): 2,
}

_START = datetime(2026, 1, 1, tzinfo=UTC)
_MICROSECONDS_APART = 2222
_SORTABLE = "234567abcdefghijklmnopqrstuvwxyz"
_TO_SORTABLE = _SORTABLE.encode() * 8
_PAIRS = [(first + second).encode() for first in _SORTABLE for second in _SORTABLE]


class Firehose:
    """Every message of one made-up relay. The same seed makes the same ones, always."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        draw = random.Random(seed)
        bodies = [_Maker(draw).message(size) for size in _sizes(draw)]
        draw.shuffle(bodies)
        self._templates = [_cut(body) for body in bodies]

    def message(self, sequence: int) -> bytes:
        """The message with this upstream sequence, ``FIRST_SEQUENCE`` or above."""
        stamp = struct.pack(">Q", sequence)
        pieces, holes = self._templates[zlib.crc32(stamp, self._seed) % _TEMPLATES]
        since = (sequence - FIRST_SEQUENCE) * _MICROSECONDS_APART
        time = (_START + timedelta(microseconds=since)).isoformat(timespec="milliseconds")
        values = (stamp, time[:23].encode() + b"Z", _revision(sequence))
        filled = pieces.copy()
        for index, value in holes:
            filled[index] = values[value]
        return b"".join(filled)

    def messages(self, first: int, count: int) -> Iterator[bytes]:
        """``count`` messages from ``first`` on."""
        return map(self.message, range(first, first + count))

    def group(self, number: int, first: int = FIRST_SEQUENCE) -> list[bytes]:
        """The messages of group ``number``, where group 0 begins with ``first``."""
        start = first + number * FRAMES_PER_GROUP
        return list(self.messages(start, FRAMES_PER_GROUP))

    def check(self, message: bytes) -> int:
        """The upstream sequence of ``message``. Raises AssertionError where it is not, byte
        for byte, the message of that sequence."""
        sequence: int = decode(message)[1]["seq"]
        if message != self.message(sequence):
            raise AssertionError(f"message {sequence} is not what was sent")
        return sequence


def decode(message: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and body of a message. Raises ValueError where it is not exactly that."""
    header, body = libipld.decode_dag_cbor_multi(message)
    return header, body


def arrivals(seed: int = 0) -> Iterator[float]:
    """When messages arrive, in seconds from the beginning: an endless Poisson process whose
    rate wanders, and is at times, for less than a second, that of a burst."""
    draw = random.Random(seed)
    now = 0.0
    burst_at = draw.expovariate(1 / _BETWEEN_BURSTS)
    while True:
        until = min(now + draw.expovariate(1 / _STEADY_SECONDS), burst_at)
        yield from _poisson(draw, now, until, draw.uniform(*STEADY_RATE))
        now = until
        if now == burst_at:
            until = now + draw.uniform(*_BURST_SECONDS)
            yield from _poisson(draw, now, until, BURST_RATE)
            now = until
            burst_at = now + draw.expovariate(1 / _BETWEEN_BURSTS)


def _poisson(draw: random.Random, now: float, until: float, rate: float) -> Iterator[float]:
    while (now := now + draw.expovariate(rate)) < until:
        yield now


def _sizes(draw: random.Random) -> list[int]:
    """How large the templates are: the distribution's own quantiles, not a sample of it.

    0 stands for an identity event, -1 for an account event, which have their own sizes.
    """
    identities = round(_TEMPLATES * _IDENTITY_SHARE)
    accounts = round(_TEMPLATES * _ACCOUNT_SHARE)
    large = round(_TEMPLATES * _LARGE_SHARE)
    commits = _TEMPLATES - identities - accounts - large
    normal = NormalDist(math.log(MEDIAN_BYTES), _SPREAD)
    sizes = [round(math.exp(normal.inv_cdf((n + 0.5) / commits))) for n in range(commits)]
    sizes += [draw.randint(*_LARGE_BYTES) for _ in range(large)]
    return sizes + [0] * identities + [-1] * accounts


@attrs.frozen
class _Maker:
    """Makes up messages."""

    draw: random.Random

    def message(self, size: int) -> bytes:
        """A commit of about ``size`` bytes; or what :func:`_sizes` has 0 and -1 stand for."""
        if size > 0:
            return _encode("#commit", self.commit(size))
        did = self.did()
        body: dict[str, Any] = {"did": did, "seq": _SEQUENCE, "time": _TIME}
        if size == 0:
            return _encode("#identity", {**body, "handle": f"{did[8:20]}.bsky.social"})
        return _encode("#account", {**body, "active": False, "status": "deactivated"})

    def commit(self, size: int) -> dict[str, Any]:
        """The body of a commit; its record's text makes up what is missing of ``size``."""
        did = self.did()
        commit = _block(
            {
                "did": did,
                "rev": _REVISION,
                "sig": self.draw.randbytes(64),
                "data": self.link(),
                "prev": None,
                "version": 3,
            }
        )
        body = {
            "seq": _SEQUENCE,
            "repo": did,
            "rev": _REVISION,
            "since": _revision(self.draw.getrandbits(40)).decode(),
            "time": _TIME,
            "blobs": [],
            "commit": commit[0],
            "prevData": self.link(),
            "rebase": False,
            "tooBig": False,
        }
        path = f"app.bsky.feed.post/{_revision(self.draw.getrandbits(40)).decode()}"
        blocks = [commit, *self.nodes(size - _LEAST_COMMIT)]
        missing = size - len(_encode("#commit", body | _post(path, blocks, "")))
        return body | _post(path, blocks, "." * missing)

    def nodes(self, size: int) -> Iterator[tuple[bytes, bytes]]:
        """Blocks like those of the tree over a repository, of about ``size`` bytes together."""
        while size > 300:
            block = _block(self.node(min(size, self.draw.randint(400, 1800))))
            size -= len(block[0]) + len(block[1]) + 2
            yield block

    def node(self, size: int) -> dict[str, Any]:
        entries = []
        left = size - 90  # what the node takes itself
        while left > 130:
            entries.append({"k": self.key(13), "p": 19, "t": self.link(), "v": self.link()})
            left -= 110
        entries.append({"k": self.key(max(left - 60, 0)), "p": 0, "t": None, "v": self.link()})
        return {"e": entries, "l": self.link()}

    def key(self, length: int) -> bytes:
        return self.draw.randbytes(length).translate(_TO_SORTABLE)

    def did(self) -> str:
        return "did:plc:" + self.key(24).decode()

    def link(self) -> bytes:
        return _link(self.draw.randbytes(32))


def _post(path: str, blocks: list[tuple[bytes, bytes]], text: str) -> dict[str, Any]:
    """The fields of a commit that depend on its record."""
    record = _block({"$type": "app.bsky.feed.post", "createdAt": _TIME, "text": text})
    operation = {"action": "create", "path": path, "cid": record[0], "prev": None}
    return {"ops": [operation], "blocks": _archive([*blocks, record])}


def _encode(kind: str, body: dict[str, Any]) -> bytes:
    return libipld.encode_dag_cbor({"op": 1, "t": kind}) + libipld.encode_dag_cbor(body)


def _link(digest: bytes) -> bytes:
    """A CID: version 1, DAG-CBOR, SHA-256. libipld encodes such bytes as a link."""
    return b"\x01\x71\x12\x20" + digest


def _block(value: dict[str, Any]) -> tuple[bytes, bytes]:
    """A value's CID and encoding."""
    data = libipld.encode_dag_cbor(value)
    return _link(hashlib.sha256(data).digest()), data


def _archive(blocks: list[tuple[bytes, bytes]]) -> bytes:
    """A CAR archive, whose root is the first block."""
    header = libipld.encode_dag_cbor({"roots": [blocks[0][0]], "version": 1})
    sections = [header, *(link + data for link, data in blocks)]
    return b"".join(_varint(len(section)) + section for section in sections)


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _revision(number: int) -> bytes:
    """13 characters that sort as the numbers do, as revisions of repositories are written."""
    return b"2" + b"".join([_PAIRS[number >> shift & 1023] for shift in range(50, -1, -10)])


def _cut(message: bytes) -> tuple[list[bytes], list[tuple[int, int]]]:
    """A message in pieces, and which of them (index, value) are to be filled in."""
    found = sorted(
        (message.index(mark, at), mark) for mark in _MARKS for at in _occurrences(message, mark)
    )
    pieces: list[bytes] = []
    holes = []
    end = 0
    for at, mark in found:
        pieces.append(message[end:at])
        holes.append((len(pieces), _MARKS[mark]))
        pieces.append(mark)
        end = at + len(mark)
    return [*pieces, message[end:]], holes


def _occurrences(message: bytes, mark: bytes) -> Iterator[int]:
    at = message.find(mark)
    while at >= 0:
        yield at
        at = message.find(mark, at + len(mark))
