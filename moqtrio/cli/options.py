"""Options that several commands share, as the groups they are shown in."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter, Token

import moqtrio

from ..session.url import SessionUrl
from .durations import format_duration, parse_duration
from .failures import UsageError
from .sizes import parse_size

_TLS = Group("Certificates", sort_key=2)
_SOURCE = Group("What is published", sort_key=1)
_PROTOCOL_NAMES = tuple(version.name for version in moqtrio.VERSIONS)
_GENERAL = Group("General", sort_key=9)

LARGEST_SEQUENCE = 2**62 - 1  # what the wire can say


def _show_duration(seconds: float | None) -> str | None:
    return None if seconds is None else format_duration(seconds)


def _check_url(_type: Any, url: str) -> None:
    SessionUrl.parse_to_connect(url)


def _check_listening_url(_type: Any, url: str) -> None:
    SessionUrl.parse_to_listen(url)


Url = Annotated[str, Parameter(validator=_check_url)]
"""Where a client connects to, checked before anything is opened."""

ListeningUrl = Annotated[str, Parameter(validator=_check_listening_url)]
"""Where a server listens, checked before anything is opened."""


def _duration(_type: Any, tokens: Sequence[Token]) -> float:
    return parse_duration(tokens[0].value)


Duration = Annotated[
    float, Parameter(converter=_duration, metavar="DURATION", show_default=_show_duration)
]
"""A number of seconds, given as a duration such as ``72h``."""


def _size(_type: Any, tokens: Sequence[Token]) -> int:
    return parse_size(tokens[0].value)


Size = Annotated[int, Parameter(converter=_size, metavar="SIZE")]
"""A number of bytes, given as a size such as ``10GB``."""


def _check_sequence(_type: Any, sequence: int | None) -> None:
    if sequence is not None and not 0 <= sequence <= LARGEST_SEQUENCE:
        raise ValueError("Sequences are from 0 to 2**62 - 1.")


SequenceNumber = Annotated[int, Parameter(validator=_check_sequence)]
"""A group's sequence, checked before anything is opened."""


@dataclass(frozen=True, kw_only=True)
class GeneralOptions:
    """What every command takes."""

    json: Annotated[bool, Parameter(group=_GENERAL, help="Print one JSON object per line.")] = False
    verbose: Annotated[
        bool,
        Parameter(
            alias="-v", group=_GENERAL, help="Log what goes on, and show tracebacks of errors."
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class ClientTlsOptions:
    """How a client convinces itself of the server."""

    tls_fingerprint: Annotated[
        str | None,
        Parameter(
            group=_TLS,
            metavar="HEX",
            help="Accept only the certificate with this SHA-256 fingerprint.",
        ),
    ] = None
    tls_ca: Annotated[
        Path | None,
        Parameter(
            group=_TLS, metavar="FILE", help="Verify against the authorities in this PEM file."
        ),
    ] = None
    tls_insecure: Annotated[
        bool, Parameter(group=_TLS, help="Accept any certificate. For tests alone.")
    ] = False
    tls_cert: Annotated[
        Path | None,
        Parameter(
            group=_TLS,
            metavar="FILE",
            help="This side's own certificate and its chain, PEM, for servers that ask for one.",
        ),
    ] = None
    tls_key: Annotated[
        Path | None, Parameter(group=_TLS, metavar="FILE", help="Its private key, PEM.")
    ] = None

    def build(self, url: str) -> moqtrio.ClientTls | None:
        """The library's own form; None, which is its default, without any of the options.

        Raises UsageError for options that exclude each other, or mean nothing for ``url``.
        """
        chosen = [self.tls_fingerprint is not None, self.tls_ca is not None, self.tls_insecure]
        if sum(chosen) > 1:
            raise UsageError(
                "--tls-fingerprint, --tls-ca and --tls-insecure exclude each other: give one"
            )
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("--tls-cert and --tls-key belong together: give both")
        if self == CLIENT_TLS:
            return None
        if SessionUrl.parse(url).scheme == "ws" and not self.tls_insecure:
            raise UsageError(
                f"{url} goes without encryption, where certificates mean nothing: use wss://, "
                "or leave the --tls options out"
            )
        try:
            return moqtrio.ClientTls(
                fingerprint=self.tls_fingerprint,
                ca_file=self.tls_ca,
                insecure=self.tls_insecure,
                certificate_file=self.tls_cert,
                key_file=self.tls_key,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error


@dataclass(frozen=True, kw_only=True)
class ServerTlsOptions:
    """The certificate a server shows."""

    tls_generate: Annotated[
        str | None,
        Parameter(
            group=_TLS,
            metavar="HOST",
            help="Make a self-signed certificate for this host name, for development.",
        ),
    ] = None
    tls_cert: Annotated[
        Path | None,
        Parameter(group=_TLS, metavar="FILE", help="The certificate and its chain, PEM."),
    ] = None
    tls_key: Annotated[
        Path | None, Parameter(group=_TLS, metavar="FILE", help="Its private key, PEM.")
    ] = None
    tls_client_ca: Annotated[
        Path | None,
        Parameter(
            group=_TLS,
            metavar="FILE",
            help="Take only clients whose certificate comes from the authorities in this PEM file.",
        ),
    ] = None

    def build(self) -> moqtrio.ServerTls:
        """The library's own form. Raises UsageError unless there is exactly one certificate."""
        if self.tls_generate is not None:
            if self.tls_cert is not None or self.tls_key is not None:
                raise UsageError("--tls-generate excludes --tls-cert and --tls-key")
            try:
                return moqtrio.generate_certificate(
                    [self.tls_generate], client_ca_file=self.tls_client_ca
                )
            except ValueError as error:
                raise UsageError(
                    f"--tls-generate expects a host name or address, not {self.tls_generate!r}"
                ) from error
        if self.tls_cert is None or self.tls_key is None:
            raise UsageError(
                "a server needs a certificate: --tls-cert FILE --tls-key FILE, "
                "or --tls-generate HOST for development"
            )
        return moqtrio.ServerTls.from_files(
            self.tls_cert, self.tls_key, client_ca_file=self.tls_client_ca
        )


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """What is published, and how long it is kept."""

    broadcast: Annotated[
        str, Parameter(group=_SOURCE, metavar="PATH", help="The path it is announced under.")
    ]
    track: Annotated[
        str, Parameter(group=_SOURCE, metavar="NAME", help="The track within the broadcast.")
    ]
    input: Annotated[
        str,
        Parameter(
            group=_SOURCE,
            metavar="-|FILE|telemetry",
            allow_leading_hyphen=True,
            help="Each line is a frame. - is standard input; telemetry samples this machine "
            "at 50 Hz.",
        ),
    ] = "-"
    seconds: Annotated[
        Duration | None,
        Parameter(group=_SOURCE, help="End the telemetry after so long."),
    ] = None
    group_frames: Annotated[
        int, Parameter(group=_SOURCE, metavar="N", help="Frames per group.")
    ] = 1
    store: Annotated[
        tuple[str, ...],
        Parameter(
            group=_SOURCE,
            metavar="DIR|URL",
            negative="",
            show_default=False,
            help="Record to this directory, and replay from it what memory has forgotten. A "
            "second one, such as s3://bucket/prefix, takes what is complete.",
        ),
    ] = ()
    retention: Annotated[
        Duration | None,
        Parameter(group=_SOURCE, help="How long the store keeps groups, by default 72h."),
    ] = None
    disk_retention: Annotated[
        Duration | None,
        Parameter(
            group=_SOURCE,
            help="How long the directory keeps what the URL has, by default 1h; with two --store.",
        ),
    ] = None
    disk_size: Annotated[
        Size | None,
        Parameter(
            group=_SOURCE, help="How much the directory may take: beyond it the oldest goes."
        ),
    ] = None
    recording: Annotated[
        Literal["live", "durable"],
        Parameter(
            group=_SOURCE,
            help="Whether subscribers see what is published at once, or only what is on disk.",
        ),
    ] = "live"
    cache_age: Annotated[
        Duration, Parameter(group=_SOURCE, help="How long memory keeps groups.")
    ] = 5.0
    exit: Annotated[
        bool,
        Parameter(
            group=_SOURCE, help="Leave at the end of the input instead of serving what there is."
        ),
    ] = False

    def check(self) -> None:
        """Raises UsageError for values that make no sense."""
        if self.group_frames < 1:
            raise UsageError(f"--group-frames must be at least 1, not {self.group_frames}")
        if self.seconds is not None and self.input != "telemetry":
            raise UsageError("--seconds goes with --input telemetry; other input ends by itself")
        if self.recording == "durable" and not self.store:
            raise UsageError("--recording durable needs a --store to record to")
        if self.retention is not None and not self.store:
            raise UsageError("--retention needs a --store: nothing is kept without one")
        if self.disk_size is not None and not self.store:
            raise UsageError("--disk-size needs a --store: nothing is on disk without one")
        _, url = self.split_stores()
        if self.disk_retention is not None and url is None:
            raise UsageError(
                "--disk-retention needs a second --store with a URL to keep the rest; "
                "--retention is for a directory alone"
            )
        if not self.broadcast or not self.track:
            raise UsageError("--broadcast and --track must not be empty")

    def split_stores(self) -> tuple[Path | None, str | None]:
        """The directory and the URL. Raises UsageError where it is not one, or one of each."""
        urls = [each for each in self.store if "://" in each]
        directories = [Path(each) for each in self.store if "://" not in each]
        if len(urls) > 1 or len(directories) > 1:
            raise UsageError(
                "--store takes one directory and, besides, one URL, not " + " and ".join(self.store)
            )
        if urls and not directories:
            raise UsageError(
                f"--store {urls[0]} needs a directory besides, where what is recorded lies until "
                "it is complete: --store DIR"
            )
        return (
            directories[0] if directories else None,
            urls[0] if urls else None,
        )


@dataclass(frozen=True, kw_only=True)
class ReconnectOptions:
    """What a client does when its connection is lost."""

    reconnect: Annotated[
        bool,
        Parameter(
            group=_GENERAL,
            help="Connect again when the connection is lost, and go on where it was.",
        ),
    ] = False

    def build(self) -> moqtrio.Backoff | None:
        """The library's own form. Whoever watches decides when it has taken too long."""
        return moqtrio.Backoff(seconds=math.inf) if self.reconnect else None


def _version(_type: Any, tokens: Sequence[Token]) -> moqtrio.Version:
    for version in moqtrio.VERSIONS:
        if version.name == tokens[0].value:
            return version
    names = ", ".join(_PROTOCOL_NAMES)
    raise ValueError(f"expected one of {names}, not {tokens[0].value!r}")


@dataclass(frozen=True, kw_only=True)
class ProtocolOptions:
    """Which versions of the protocol are spoken."""

    protocol: Annotated[
        moqtrio.Version | None,
        Parameter(
            group=_GENERAL,
            converter=_version,
            accepts_keys=False,
            n_tokens=1,
            metavar="VERSION",
            help="Speak this version alone, one of "
            f"{', '.join(_PROTOCOL_NAMES)}; by default the newest both sides have.",
        ),
    ] = None

    def build(self) -> Sequence[moqtrio.Version]:
        """The library's own form."""
        return moqtrio.OFFERED if self.protocol is None else (self.protocol,)


PROTOCOL = ProtocolOptions()
RECONNECT = ReconnectOptions()
GENERAL = GeneralOptions()
CLIENT_TLS = ClientTlsOptions()
SERVER_TLS = ServerTlsOptions()
