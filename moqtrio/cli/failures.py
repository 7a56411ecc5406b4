"""From an exception to one readable line, a hint, and an exit code."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import attrs

from ..errors import MoqError, describe_stream_code

EXIT_SUCCESS = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_IMPOSSIBLE = 2  # where 1 says that it could be done, and what came of it
EXIT_SIGNAL = 128  # plus the number of the signal, as shells count


class UsageError(Exception):
    """The command was given options that do not go together."""


class Failure(Exception):
    """The command could not do what it was asked to.

    Args:
        message: what happened, in one line.
        hint: what to do about it, in one line, if that is known.
        exit_code: what the command ends with.
    """

    def __init__(
        self, message: str, hint: str | None = None, *, exit_code: int = EXIT_FAILURE
    ) -> None:
        super().__init__(message)
        self.hint = hint
        self.exit_code = exit_code


class OutputClosed(Exception):
    """Whoever reads standard output has had enough: not a failure, but the end."""


@attrs.frozen
class Verdict:
    """How the command ends: what to tell, and the exit code."""

    exit_code: int
    message: str | None = None
    hint: str | None = None


def judge(error: BaseException) -> Verdict:
    """What an exception that ended the command comes down to."""
    errors = list(_leaves(error))
    for kind in (KeyboardInterrupt, OutputClosed, UsageError, Failure, MoqError, OSError):
        for each in errors:
            if isinstance(each, kind):
                return _judge_one(each)
    return _judge_one(errors[0])


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _judge_one(error: BaseException) -> Verdict:
    match error:
        case KeyboardInterrupt():
            return Verdict(EXIT_SIGNAL + 2)
        case OutputClosed():
            return Verdict(EXIT_SUCCESS)
        case UsageError():
            return Verdict(EXIT_USAGE, str(error), "moqtrio COMMAND --help lists the options")
        case Failure():
            return Verdict(error.exit_code, str(error), error.hint)
        case MoqError():
            return Verdict(EXIT_FAILURE, str(error) or type(error).__name__, _hint(str(error)))
        case OSError():
            return Verdict(EXIT_FAILURE, _describe_os_error(error))
        case _:
            return Verdict(
                EXIT_FAILURE,
                f"unexpected {type(error).__name__}: {error}",
                "this is a bug; --verbose shows where",
            )


# What an error says of itself, and what the command's user can do about it.
_HINTS = {
    "certificate fingerprint": "the server prints its fingerprint when it is ready",
    "unknown issuer": "--tls-fingerprint takes a development certificate, as the server prints "
    "it; --tls-ca an authority of your own",
    "certificate of an authority it knows": "--tls-cert and --tls-key give this client's "
    "certificate",
    "certificate of its clients": "--tls-cert and --tls-key give this client's certificate",
    "certificate has expired": "a server reads a renewed certificate without a restart",
    "did not answer": "is the server running, and does a firewall let UDP through?",
    "nothing listens": "is the server running, and is that its port?",
    "none of the protocols offered": "--protocol, if it was given, has to name a version that "
    "both sides have",
    os.strerror(errno.EADDRINUSE): "port 0 picks a free one",
    os.strerror(errno.EADDRNOTAVAIL): "listen on an address of this machine; [::] is all of them",
    "check the directory's permissions": "the store's directory must belong to the user who runs "
    "this, and be on a disk that can be written to",
    os.strerror(errno.EACCES): "ports below 1024 need privileges",
}


def _hint(message: str) -> str | None:
    return next((hint for text, hint in _HINTS.items() if text in message), None)


def _describe_os_error(error: OSError) -> str:
    reason = error.strerror or (os.strerror(error.errno) if error.errno else str(error))
    return f"{error.filename}: {reason}" if error.filename is not None else reason


def describe_code(code: int) -> str:
    """Why groups are missing, for people."""
    return "expired or never published" if code == 0 else describe_stream_code(code)
