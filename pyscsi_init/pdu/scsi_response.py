# SPDX-License-Identifier: Apache-2.0
"""SCSI Response (RFC 7143 11.4, and RFC 7144 5.2 for the Status Qualifier).

Owns the header and the split of the data segment into sense data and response data; what the
sense data says belongs to `pyscsi_init.scsi`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Self

from construct import Bytes, ConstructError, GreedyBytes, Int16ub, Struct, this

from ..errors import LocalProtocolError, ProtocolError
from . import fast
from .bhs import (
    MAX_DATA_SEGMENT_LENGTH,
    OPCODE_MASK,
    Pdu,
    TargetOpcode,
    check_lengths,
    encode_declared,
)
from .layout import (
    INITIATOR_TASK_TAG,
    LENGTHS,
    RESPONSE_NUMBERS,
    BytesLike,
    Layout,
    flag,
    ones,
    reserved,
    uint,
)


class Response(IntEnum):
    """The iSCSI service response, RFC 7143 11.4.3; 80h to FFh are vendor specific."""

    COMMAND_COMPLETED = 0x00
    TARGET_FAILURE = 0x01


_SENSE_SEGMENT: Any = Struct(
    "sense_length" / Int16ub,
    "sense" / Bytes(this.sense_length),
    "response_data" / GreedyBytes,
)


def build_sense_segment(sense: bytes, response_data: bytes = b"") -> bytes:
    """The data segment of a SCSI Response or of a SCSI Asynchronous Message (RFC 7143 11.4.7).

    Raises LocalProtocolError for sense data of more than 65535 bytes.
    """
    try:
        built: bytes = _SENSE_SEGMENT.build(
            {"sense_length": len(sense), "sense": sense, "response_data": response_data}
        )
    except ConstructError as error:
        raise LocalProtocolError(f"{len(sense)} bytes of sense data: {error}") from error
    return built


def parse_sense_segment(data: BytesLike) -> tuple[bytes, bytes]:
    """Sense data and what follows it. Raises ProtocolError if SenseLength exceeds the segment."""
    if not len(data):
        return b"", b""
    try:
        parsed = _SENSE_SEGMENT.parse(bytes(data))
    except ConstructError as error:
        raise ProtocolError(f"SenseLength does not fit {len(data)} bytes of data") from error
    return parsed["sense"], parsed["response_data"]


@dataclass(slots=True, kw_only=True)
class ScsiResponse(Pdu):
    """The end of a command."""

    opcode: ClassVar[int] = TargetOpcode.SCSI_RESPONSE
    layout: ClassVar[Layout] = Layout(
        TargetOpcode.SCSI_RESPONSE,
        ones(1),
        reserved(2),
        flag("bidi_residual_overflow"),
        flag("bidi_residual_underflow"),
        flag("residual_overflow"),
        flag("residual_underflow"),
        reserved(1),
        uint("response", 8),
        uint("status", 8),
        *LENGTHS,
        uint("status_qualifier", 16),
        reserved(48),
        INITIATOR_TASK_TAG,
        uint("snack_tag", 32),
        *RESPONSE_NUMBERS,
        uint("exp_data_sn", 32),
        uint("bidi_residual_count", 32),
        uint("residual_count", 32),
    )

    bidi_residual_overflow: bool = False
    bidi_residual_underflow: bool = False
    residual_overflow: bool = False
    residual_underflow: bool = False
    response: int = Response.COMMAND_COMPLETED
    status: int = 0
    status_qualifier: int = 0
    """RFC 7144 5.2.1; reserved, so to be ignored, below iSCSIProtocolLevel 2."""
    initiator_task_tag: int = 0
    snack_tag: int = 0
    stat_sn: int = 0
    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0
    exp_data_sn: int = 0
    bidi_residual_count: int = 0
    residual_count: int = 0

    @property
    def sense(self) -> bytes:
        """The sense data, empty if there is none. Raises ProtocolError if its length is wrong."""
        return parse_sense_segment(self.data)[0]

    def encode(self) -> bytes:
        length = len(self.data)
        if length > MAX_DATA_SEGMENT_LENGTH:
            return encode_declared(self)
        try:
            return fast.SCSI_RESPONSE.pack(
                self.opcode,
                fast.F_BIT
                | (fast.BIDI_O_BIT if self.bidi_residual_overflow else 0)
                | (fast.BIDI_U_BIT if self.bidi_residual_underflow else 0)
                | (fast.O_BIT if self.residual_overflow else 0)
                | (fast.U_BIT if self.residual_underflow else 0),
                self.response,
                self.status,
                length,
                self.status_qualifier,
                self.initiator_task_tag,
                self.snack_tag,
                self.stat_sn,
                self.exp_cmd_sn,
                self.max_cmd_sn,
                self.exp_data_sn,
                self.bidi_residual_count,
                self.residual_count,
            )
        except struct.error as error:
            raise LocalProtocolError(f"SCSI Response: a value does not fit: {error}") from error

    @classmethod
    def decode(cls, header: BytesLike, ahs: BytesLike = b"", data: BytesLike = b"") -> Self:
        try:
            (
                byte_0,
                flags,
                response,
                status,
                lengths,
                status_qualifier,
                initiator_task_tag,
                snack_tag,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                exp_data_sn,
                bidi_residual_count,
                residual_count,
            ) = fast.SCSI_RESPONSE.unpack(header)
        except struct.error as error:
            raise ProtocolError(f"SCSI Response: {error}") from error
        if byte_0 & OPCODE_MASK != cls.opcode:
            raise ProtocolError(f"opcode {byte_0 & OPCODE_MASK:#04x} is not a SCSI Response")
        if lengths != len(data) or len(ahs):
            check_lengths(cls, lengths, ahs, data)
        pdu = cls(
            bidi_residual_overflow=flags & fast.BIDI_O_BIT != 0,
            bidi_residual_underflow=flags & fast.BIDI_U_BIT != 0,
            residual_overflow=flags & fast.O_BIT != 0,
            residual_underflow=flags & fast.U_BIT != 0,
            response=response,
            status=status,
            status_qualifier=status_qualifier,
            initiator_task_tag=initiator_task_tag,
            snack_tag=snack_tag,
            stat_sn=stat_sn,
            exp_cmd_sn=exp_cmd_sn,
            max_cmd_sn=max_cmd_sn,
            exp_data_sn=exp_data_sn,
            bidi_residual_count=bidi_residual_count,
            residual_count=residual_count,
            data=bytes(data),
        )
        if len(ahs):
            pdu.take_ahs(ahs)
        pdu.check_format()
        return pdu

    def check_format(self) -> None:
        # RFC 7143 11.4.1: the two bits of a pair exclude each other.
        if self.residual_overflow and self.residual_underflow:
            raise ProtocolError("SCSI Response with both the O and the U bit")
        if self.bidi_residual_overflow and self.bidi_residual_underflow:
            raise ProtocolError("SCSI Response with both the o and the u bit")
