"""What the error codes of a moq-lite peer mean.

Codes are numbered twice. The older numbering is one list for streams and sessions alike, which
implementations used up to draft 05. The one that replaced it has a registry for streams and
one for sessions, with the numbers of moq-transport: :class:`~moqtrio.errors.StreamCode` and
:class:`~moqtrio.errors.SessionCode`, which is what moqtrio sends at every draft. No version says
which of the two a peer goes by. So at the drafts both are used with, the numbers only the older
one has are read as what they are called now, and those both have as the newer one means them:
who goes by that acts on them, and who goes by the older one only logs what it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping

from ...errors import SessionCode, StreamCode

_LAST_DRAFT_OF_THE_OLDER = 5

OLDER_STREAM_CODES: Mapping[int, StreamCode] = {
    10: StreamCode.MALFORMED,  # unexpected stream
    11: StreamCode.MALFORMED,  # bounds exceeded
    12: StreamCode.MALFORMED,  # duplicate
    13: StreamCode.NOT_FOUND,
    14: StreamCode.MALFORMED,  # wrong size
    15: StreamCode.MALFORMED,  # protocol violation
    16: StreamCode.MALFORMED,  # unexpected message
    24: StreamCode.INTERNAL,  # dropped: the publisher gave up before the end
    25: StreamCode.CANCEL,  # closed
    26: StreamCode.TOO_FAR_BEHIND,  # lagged
    27: StreamCode.MALFORMED,  # frame too large
    29: StreamCode.MALFORMED,  # timestamp mismatch
    30: StreamCode.UNROUTABLE,
    31: StreamCode.EVICTED,
}
"""What only the older numbering has, where there is a name for it now."""

OLDER_SESSION_CODES: Mapping[int, SessionCode] = {
    10: SessionCode.PROTOCOL_VIOLATION,  # unexpected stream
    11: SessionCode.PROTOCOL_VIOLATION,  # bounds exceeded
    12: SessionCode.PROTOCOL_VIOLATION,  # duplicate
    14: SessionCode.PROTOCOL_VIOLATION,  # wrong size
    15: SessionCode.PROTOCOL_VIOLATION,
}
"""The same for the end of a session."""


def stream_code_from(code: int, draft: int) -> int:
    """The :class:`~moqtrio.errors.StreamCode` a peer means by ``code``, or the code itself
    where there is none for it."""
    return OLDER_STREAM_CODES.get(code, code) if draft <= _LAST_DRAFT_OF_THE_OLDER else code


def session_code_from(code: int, draft: int) -> int:
    """The :class:`~moqtrio.errors.SessionCode` a peer means by ``code``, or the code itself
    where there is none for it."""
    return OLDER_SESSION_CODES.get(code, code) if draft <= _LAST_DRAFT_OF_THE_OLDER else code
