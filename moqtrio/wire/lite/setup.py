"""SETUP: what each endpoint says of itself, once, on its setup stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import attrs

from ..buffer import Reader, Writer
from ..varint import encode_varint
from .codes import MAX_SETUP_PARAMETERS, ProbeLevel, Role, SetupParameter
from .message import Message

_KNOWN = frozenset(SetupParameter)


@attrs.frozen
class Setup(Message):
    """The only message of a setup stream (draft-lcurley-moq-lite, "SETUP").

    Attributes:
        probe: what this publisher can do for probe streams; None if not said, which
            means nothing. A level newer than this codec reads as the highest it knows.
        path: the request path with its query, on bindings that carry no request URI.
        role: the one direction the client means to use; None is both. A role this codec
            does not know reads as None, as the draft wants.
        cost: what subscribing from this endpoint costs; None is the default, 1.
        origin: this endpoint's hop id; None if it has none.
        unknown: the parameters this version gives no meaning to, by id, as they came.
    """

    since: ClassVar[int] = 5

    probe: ProbeLevel | None = None
    path: str | None = None
    role: Role | None = None
    cost: int | None = None
    origin: int | None = None
    unknown: Mapping[int, bytes] = attrs.field(factory=dict, hash=False)

    def _write(self, writer: Writer, draft: int) -> None:
        parameters = self._parameters()
        if len(parameters) > MAX_SETUP_PARAMETERS:
            raise ValueError(
                f"expected at most {MAX_SETUP_PARAMETERS} SETUP parameters, got {len(parameters)}"
            )
        writer.varint(len(parameters))
        for identifier, value in parameters.items():
            writer.varint(identifier)
            writer.length_prefixed(value)

    def _parameters(self) -> dict[int, bytes]:
        clash = _KNOWN & self.unknown.keys()
        if clash:
            raise ValueError(f"expected only unknown SETUP parameters, got {sorted(clash)}")
        parameters: dict[int, bytes] = {}
        if self.probe is not None:
            parameters[SetupParameter.PROBE] = encode_varint(self.probe)
        if self.path is not None:
            parameters[SetupParameter.PATH] = self.path.encode("utf-8")
        if self.role is not None:
            parameters[SetupParameter.ROLE] = encode_varint(self.role)
        if self.cost is not None:
            parameters[SetupParameter.COST] = encode_varint(self.cost)
        if self.origin is not None:
            parameters[SetupParameter.ORIGIN] = encode_varint(self.origin)
        parameters.update(self.unknown)
        return parameters

    @classmethod
    def _read(cls, reader: Reader, draft: int) -> Self:
        parameters = _read_parameters(reader)
        path = parameters.get(SetupParameter.PATH)
        probe = _varint_value(parameters, SetupParameter.PROBE)
        role = _varint_value(parameters, SetupParameter.ROLE)
        return cls(
            probe=None if probe is None else ProbeLevel(min(probe, max(ProbeLevel))),
            path=None if path is None else Reader(path).text("the SETUP path"),
            role=Role(role) if role in frozenset(Role) else None,
            cost=_varint_value(parameters, SetupParameter.COST),
            # Hop id 0 is "unknown", the same as saying nothing.
            origin=_varint_value(parameters, SetupParameter.ORIGIN) or None,
            unknown={key: value for key, value in parameters.items() if key not in _KNOWN},
        )


def _read_parameters(reader: Reader) -> dict[int, bytes]:
    count = reader.varint("the number of SETUP parameters")
    if count > MAX_SETUP_PARAMETERS:
        raise reader.error(f"at most {MAX_SETUP_PARAMETERS} SETUP parameters", count, offset=0)
    parameters: dict[int, bytes] = {}
    for _ in range(count):
        start = reader.offset
        identifier = reader.varint("a SETUP parameter's id")
        if identifier in parameters:
            raise reader.error("each SETUP parameter once", f"{identifier} again", offset=start)
        parameters[identifier] = reader.length_prefixed(f"SETUP parameter {identifier}")
    return parameters


def _varint_value(parameters: Mapping[int, bytes], parameter: SetupParameter) -> int | None:
    encoded = parameters.get(parameter)
    if encoded is None:
        return None
    reader = Reader(encoded)
    value = reader.varint(f"the SETUP {parameter.name.lower()} parameter")
    reader.finish()
    return value
