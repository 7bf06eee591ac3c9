# SPDX-License-Identifier: Apache-2.0
"""What all PDUs share: opcodes, the base class, and the check of the two length fields.

RFC 7143 11.2.1. ``Pdu`` owns the plain path between an object and its declared layout; the five
classes of the data path override ``encode`` and ``decode`` with precompiled structures and fall
back to `encode_declared` and `decode_declared` for whatever is not ordinary.

A decoder raises ProtocolError for a format error only (RFC 7143 7.7: a header whose fields
contradict each other). A reserved code value is handed up as the plain number: whether it fails
a task, a connection or the session is not known here. An encoder builds what it is told, so
that a test target can also lie.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, ClassVar, Self, TypeVar

from ..errors import LocalProtocolError, ProtocolError
from .layout import BytesLike, Layout

RESERVED_TAG = 0xFFFFFFFF
"""Initiator Task Tag and Target Transfer Tag that stand for "none" (RFC 7143 11.2.1.8, 11.7.4)."""

NO_LUN = bytes(8)
OPCODE_MASK = 0x3F
MAX_DATA_SEGMENT_LENGTH = 0xFFFFFF
MAX_AHS_LENGTH = 255 * 4
"""TotalAHSLength counts 4-byte words in one byte (RFC 7143 11.2.1.5)."""


class InitiatorOpcode(IntEnum):
    """RFC 7143 11.2.1.2, PDUs that only an initiator sends."""

    NOP_OUT = 0x00
    SCSI_COMMAND = 0x01
    TASK_MANAGEMENT_REQUEST = 0x02
    LOGIN_REQUEST = 0x03
    TEXT_REQUEST = 0x04
    DATA_OUT = 0x05
    LOGOUT_REQUEST = 0x06
    SNACK_REQUEST = 0x10


class TargetOpcode(IntEnum):
    """RFC 7143 11.2.1.2, PDUs that only a target sends."""

    NOP_IN = 0x20
    SCSI_RESPONSE = 0x21
    TASK_MANAGEMENT_RESPONSE = 0x22
    LOGIN_RESPONSE = 0x23
    TEXT_RESPONSE = 0x24
    DATA_IN = 0x25
    LOGOUT_RESPONSE = 0x26
    READY_TO_TRANSFER = 0x31
    ASYNC_MESSAGE = 0x32
    REJECT = 0x3F


@dataclass(slots=True, kw_only=True)
class Pdu:
    """One PDU: the fields of its header, and its data segment without padding.

    ``data`` is left out of the repr: it is large, or text of the login phase.
    """

    opcode: ClassVar[int]
    layout: ClassVar[Layout]
    may_carry_data: ClassVar[bool] = True
    borrows_data: ClassVar[bool] = False
    """Data-In and Data-Out keep the view that decode was given; all others copy it."""

    data: BytesLike = field(default=b"", repr=False)

    def encode(self) -> bytes:
        """BHS and AHS as they are sent; the data segment, padding and digests follow elsewhere.

        Raises LocalProtocolError for a value that its field cannot hold.
        """
        return encode_declared(self)

    @classmethod
    def decode(cls, header: BytesLike, ahs: BytesLike = b"", data: BytesLike = b"") -> Self:
        """The PDU whose BHS is ``header``; ``data`` comes without padding.

        Raises ProtocolError for a format error.
        """
        return decode_declared(cls, header, ahs, data)

    def header_values(self) -> dict[str, Any]:
        """The named fields as the layout wants them."""
        return {name: getattr(self, name) for name in self.layout.names}

    def encode_ahs(self) -> bytes:
        """The Additional Header Segments, padded; only SCSI Command has any."""
        return b""

    def take_ahs(self, ahs: BytesLike) -> None:
        """Read the Additional Header Segments into fields."""
        # RFC 7143 11.2.1.5: TotalAHSLength is 0 in all PDUs that have no AHS.
        if len(ahs):
            raise ProtocolError(f"{type(self).__name__} with an AHS of {len(ahs)} bytes")

    def check_format(self) -> None:
        """Raise ProtocolError where fields of the header contradict each other."""


P = TypeVar("P", bound=Pdu)


def encode_declared(pdu: Pdu) -> bytes:
    """BHS and AHS by way of the declaration: the truth that the fast path is measured against."""
    ahs = pdu.encode_ahs()
    if len(ahs) > MAX_AHS_LENGTH:
        raise LocalProtocolError(f"{len(ahs)} bytes of AHS; a PDU can carry {MAX_AHS_LENGTH}")
    values = pdu.header_values()
    values["total_ahs_length"] = len(ahs) // 4
    values["data_segment_length"] = len(pdu.data)
    return pdu.layout.build(values) + ahs


def decode_declared(cls: type[P], header: BytesLike, ahs: BytesLike, data: BytesLike) -> P:
    """The inverse of `encode_declared`, with all format checks."""
    values, total_ahs_length, data_segment_length = cls.layout.parse(header)
    check_lengths(cls, total_ahs_length << 24 | data_segment_length, ahs, data)
    pdu = cls(**values, data=data if cls.borrows_data else bytes(data))
    pdu.take_ahs(ahs)
    pdu.check_format()
    return pdu


def check_lengths(cls: type[Pdu], lengths: int, ahs: BytesLike, data: BytesLike) -> None:
    """Hold bytes 4..7 (TotalAHSLength and DataSegmentLength) against what came with the header."""
    if lengths >> 24 != len(ahs) // 4 or len(ahs) % 4:
        raise ProtocolError(
            f"{cls.__name__}: TotalAHSLength {lengths >> 24} words, AHS {len(ahs)} bytes"
        )
    if lengths & MAX_DATA_SEGMENT_LENGTH != len(data):
        raise ProtocolError(
            f"{cls.__name__}: DataSegmentLength {lengths & MAX_DATA_SEGMENT_LENGTH}, "
            f"data {len(data)} bytes"
        )
    if len(data) and not cls.may_carry_data:
        # RFC 7143 11.5.2, and alike for the other classes: "For this PDU, TotalAHSLength and
        # DataSegmentLength MUST be 0."
        raise ProtocolError(f"{cls.__name__} with a data segment of {len(data)} bytes")
