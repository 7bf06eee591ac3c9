# SPDX-License-Identifier: Apache-2.0
"""Additional Header Segments: the part of a SCSI Command that does not fit into the BHS.

RFC 7143 11.2.2. Two types exist: the bytes of a CDB beyond the sixteenth, and the read length of
a bidirectional command. AHSLength counts neither itself nor the type, nor the padding to a word,
but it does count the reserved byte that both types start with.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

from construct import (
    Aligned,
    BitsInteger,
    BitStruct,
    Bytes,
    ConstructError,
    GreedyRange,
    Int16ub,
    Int32ub,
    Padding,
    Struct,
    Terminated,
    this,
)

from ..errors import LocalProtocolError, ProtocolError
from .layout import BytesLike


class AhsType(IntEnum):
    """RFC 7143 11.2.2.1."""

    EXTENDED_CDB = 1
    BIDIRECTIONAL_READ_EXPECTED_DATA_TRANSFER_LENGTH = 2


CDB_LENGTH_IN_BHS = 16

_AHS: Any = Aligned(
    4,
    Struct(
        "ahs_length" / Int16ub,
        "ahs_type" / BitStruct(Padding(2), "code" / BitsInteger(6)),
        "specific" / Bytes(this.ahs_length),
    ),
)
_SEGMENTS: Any = Struct("segments" / GreedyRange(_AHS), Terminated)
_BIDIRECTIONAL: Any = Struct(Padding(1), "length" / Int32ub)


def _segment(code: AhsType, specific: bytes) -> bytes:
    return _build(
        _AHS, {"ahs_length": len(specific), "ahs_type": {"code": int(code)}, "specific": specific}
    )


def _build(layout: Any, values: dict[str, Any]) -> bytes:
    try:
        built: bytes = layout.build(values)
    except ConstructError as error:
        raise LocalProtocolError(f"an AHS cannot hold its value: {error}") from error
    return built


def build_extended_cdb(cdb: bytes) -> bytes:
    """The Extended CDB AHS of a CDB longer than 16 bytes (RFC 7143 11.2.2.3)."""
    return _segment(AhsType.EXTENDED_CDB, b"\0" + cdb[CDB_LENGTH_IN_BHS:])


def build_bidirectional_read_length(length: int) -> bytes:
    """The Bidirectional Read Expected Data Transfer Length AHS (RFC 7143 11.2.2.4)."""
    return _segment(
        AhsType.BIDIRECTIONAL_READ_EXPECTED_DATA_TRANSFER_LENGTH,
        _build(_BIDIRECTIONAL, {"length": length}),
    )


def parse_ahs(ahs: BytesLike) -> tuple[bytes, int | None]:
    """The CDB bytes beyond the sixteenth (or none), and the bidirectional read length (or None).

    Raises ProtocolError for a segment that is cut off, repeated, of a reserved type, or of a
    length that its type does not have.
    """
    try:
        segments = _SEGMENTS.parse(bytes(ahs))["segments"]
    except ConstructError as error:
        raise ProtocolError(f"AHS cannot be read: {error}") from error
    found: dict[int, bytes] = {}
    for segment in segments:
        code = int(segment["ahs_type"]["code"])
        if code in found:
            raise ProtocolError(f"AHS type {code} twice in one PDU")
        found[code] = segment["specific"]
    extra = found.pop(AhsType.EXTENDED_CDB, None)
    # RFC 7143 11.2.2.3: "This type of AHS MUST NOT be used if the CDBLength is less than 17."
    if extra is not None and len(extra) < 2:
        raise ProtocolError("Extended CDB AHS for a CDB of less than 17 bytes")
    bidirectional = found.pop(AhsType.BIDIRECTIONAL_READ_EXPECTED_DATA_TRANSFER_LENGTH, None)
    if bidirectional is not None and len(bidirectional) != _BIDIRECTIONAL.sizeof():
        raise ProtocolError(f"Bidirectional Read AHS with AHSLength {len(bidirectional)}")
    if found:
        raise ProtocolError(f"AHS of reserved type {next(iter(found))}")
    more = b"" if extra is None else extra[1:]
    if bidirectional is None:
        return more, None
    return more, int(_BIDIRECTIONAL.parse(bidirectional)["length"])
