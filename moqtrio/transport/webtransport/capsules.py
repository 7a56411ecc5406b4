"""Capsules: how a session says that it ends (draft-ietf-webtrans-http3 section 6)."""

from __future__ import annotations

import attrs

from .codes import CapsuleType, MessageError
from .records import RecordDecoder, Treatment, encode_record

_CODE_SIZE = 4
_LARGEST_CODE = 0xFFFFFFFF
_LARGEST_REASON = 1024


@attrs.frozen
class CloseSession:
    """The session is over, and why."""

    code: int
    reason: str

    def encode(self) -> bytes:
        """A CLOSE_WEBTRANSPORT_SESSION capsule; code and reason are cut to what fits."""
        reason = self.reason.encode(errors="replace")[:_LARGEST_REASON]
        code = min(max(self.code, 0), _LARGEST_CODE)
        value = code.to_bytes(_CODE_SIZE, "big") + reason.decode(errors="ignore").encode()
        return encode_record(CapsuleType.CLOSE_SESSION, value)

    @classmethod
    def decode(cls, value: bytes) -> CloseSession:
        """Raises MessageError where the reason is not text."""
        try:
            reason = value[_CODE_SIZE:].decode()
        except UnicodeDecodeError as error:
            raise MessageError(f"the reason of a session's end is not UTF-8: {error}") from error
        return cls(int.from_bytes(value[:_CODE_SIZE], "big"), reason)


class Capsules(RecordDecoder):
    """The capsules in the DATA of a CONNECT stream."""

    def begin(self, kind: int, length: int) -> Treatment:
        if kind == CapsuleType.CLOSE_SESSION:
            if not _CODE_SIZE <= length <= _CODE_SIZE + _LARGEST_REASON:
                raise MessageError(f"a CLOSE_WEBTRANSPORT_SESSION capsule of {length} bytes")
            return Treatment.WHOLE
        if kind == CapsuleType.DRAIN_SESSION:
            if length:
                raise MessageError(f"a DRAIN_WEBTRANSPORT_SESSION capsule of {length} bytes")
            return Treatment.WHOLE
        return Treatment.SKIPPED  # RFC 9297 section 3.2
