# SPDX-License-Identifier: Apache-2.0
"""SCSI Data-Out and SCSI Data-In (RFC 7143 11.7).

Owns the two headers that carry a command's data. ``data`` of a decoded PDU is the very view that
was given to decode (in a Framer's buffer: valid until the next ``receive_buffer()``), because
this is where every byte of the device passes. Where the bytes belong, and whether they were
asked for, is for the session to say.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ..errors import LocalProtocolError, ProtocolError
from . import fast
from .bhs import (
    MAX_DATA_SEGMENT_LENGTH,
    NO_LUN,
    OPCODE_MASK,
    RESERVED_TAG,
    InitiatorOpcode,
    Pdu,
    TargetOpcode,
    check_lengths,
    encode_declared,
)
from .layout import (
    INITIATOR_TASK_TAG,
    LENGTHS,
    LUN,
    RESPONSE_NUMBERS,
    TARGET_TRANSFER_TAG,
    BytesLike,
    Layout,
    flag,
    reserved,
    uint,
)


@dataclass(slots=True, kw_only=True)
class DataOut(Pdu):
    """Write data, unsolicited or answering an R2T; byte 0 has no I bit (RFC 7143 11.7)."""

    opcode: ClassVar[int] = InitiatorOpcode.DATA_OUT
    borrows_data: ClassVar[bool] = True
    layout: ClassVar[Layout] = Layout(
        InitiatorOpcode.DATA_OUT,
        flag("final"),
        reserved(7),
        reserved(16),
        *LENGTHS,
        LUN,
        INITIATOR_TASK_TAG,
        TARGET_TRANSFER_TAG,
        reserved(32),
        uint("exp_stat_sn", 32),
        reserved(32),
        uint("data_sn", 32),
        uint("buffer_offset", 32),
        reserved(32),
    )

    final: bool = False
    lun: bytes = NO_LUN
    initiator_task_tag: int = 0
    target_transfer_tag: int = RESERVED_TAG
    exp_stat_sn: int = 0
    data_sn: int = 0
    buffer_offset: int = 0

    def encode(self) -> bytes:
        length = len(self.data)
        if len(self.lun) != len(NO_LUN) or length > MAX_DATA_SEGMENT_LENGTH:
            return encode_declared(self)
        try:
            return fast.DATA_OUT.pack(
                self.opcode,
                fast.F_BIT if self.final else 0,
                length,
                self.lun,
                self.initiator_task_tag,
                self.target_transfer_tag,
                self.exp_stat_sn,
                self.data_sn,
                self.buffer_offset,
            )
        except struct.error as error:
            raise LocalProtocolError(f"Data-Out: a value does not fit: {error}") from error

    @classmethod
    def decode(cls, header: BytesLike, ahs: BytesLike = b"", data: BytesLike = b"") -> Self:
        try:
            (byte_0, flags, lengths, lun, itt, ttt, exp_stat_sn, data_sn, buffer_offset) = (
                fast.DATA_OUT.unpack(header)
            )
        except struct.error as error:
            raise ProtocolError(f"Data-Out: {error}") from error
        if byte_0 & OPCODE_MASK != cls.opcode:
            raise ProtocolError(f"opcode {byte_0 & OPCODE_MASK:#04x} is not a Data-Out")
        if lengths != len(data) or len(ahs):
            check_lengths(cls, lengths, ahs, data)
        pdu = cls(
            final=flags & fast.F_BIT != 0,
            lun=lun,
            initiator_task_tag=itt,
            target_transfer_tag=ttt,
            exp_stat_sn=exp_stat_sn,
            data_sn=data_sn,
            buffer_offset=buffer_offset,
            data=data,
        )
        if len(ahs):
            pdu.take_ahs(ahs)
        return pdu


@dataclass(slots=True, kw_only=True)
class DataIn(Pdu):
    """Read data, the last one perhaps with a good status in it ("phase collapse")."""

    opcode: ClassVar[int] = TargetOpcode.DATA_IN
    borrows_data: ClassVar[bool] = True
    layout: ClassVar[Layout] = Layout(
        TargetOpcode.DATA_IN,
        flag("final"),
        flag("acknowledge"),
        reserved(3),
        flag("residual_overflow"),
        flag("residual_underflow"),
        flag("status_present"),
        reserved(8),
        uint("status", 8),
        *LENGTHS,
        LUN,
        INITIATOR_TASK_TAG,
        TARGET_TRANSFER_TAG,
        *RESPONSE_NUMBERS,
        uint("data_sn", 32),
        uint("buffer_offset", 32),
        uint("residual_count", 32),
    )

    final: bool = False
    acknowledge: bool = False
    residual_overflow: bool = False
    residual_underflow: bool = False
    status_present: bool = False
    status: int = 0
    lun: bytes = NO_LUN
    initiator_task_tag: int = 0
    target_transfer_tag: int = RESERVED_TAG
    stat_sn: int = 0
    """Like status and the residual fields, meaningful only with status_present."""
    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0
    data_sn: int = 0
    buffer_offset: int = 0
    residual_count: int = 0

    def encode(self) -> bytes:
        length = len(self.data)
        if len(self.lun) != len(NO_LUN) or length > MAX_DATA_SEGMENT_LENGTH:
            return encode_declared(self)
        try:
            return fast.DATA_IN.pack(
                self.opcode,
                (fast.F_BIT if self.final else 0)
                | (fast.A_BIT if self.acknowledge else 0)
                | (fast.O_BIT if self.residual_overflow else 0)
                | (fast.U_BIT if self.residual_underflow else 0)
                | (fast.S_BIT if self.status_present else 0),
                self.status,
                length,
                self.lun,
                self.initiator_task_tag,
                self.target_transfer_tag,
                self.stat_sn,
                self.exp_cmd_sn,
                self.max_cmd_sn,
                self.data_sn,
                self.buffer_offset,
                self.residual_count,
            )
        except struct.error as error:
            raise LocalProtocolError(f"Data-In: a value does not fit: {error}") from error

    @classmethod
    def decode(cls, header: BytesLike, ahs: BytesLike = b"", data: BytesLike = b"") -> Self:
        try:
            (
                byte_0,
                flags,
                status,
                lengths,
                lun,
                initiator_task_tag,
                target_transfer_tag,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                data_sn,
                buffer_offset,
                residual_count,
            ) = fast.DATA_IN.unpack(header)
        except struct.error as error:
            raise ProtocolError(f"Data-In: {error}") from error
        if byte_0 & OPCODE_MASK != cls.opcode:
            raise ProtocolError(f"opcode {byte_0 & OPCODE_MASK:#04x} is not a Data-In")
        if lengths != len(data) or len(ahs):
            check_lengths(cls, lengths, ahs, data)
        pdu = cls(
            final=flags & fast.F_BIT != 0,
            acknowledge=flags & fast.A_BIT != 0,
            residual_overflow=flags & fast.O_BIT != 0,
            residual_underflow=flags & fast.U_BIT != 0,
            status_present=flags & fast.S_BIT != 0,
            status=status,
            lun=lun,
            initiator_task_tag=initiator_task_tag,
            target_transfer_tag=target_transfer_tag,
            stat_sn=stat_sn,
            exp_cmd_sn=exp_cmd_sn,
            max_cmd_sn=max_cmd_sn,
            data_sn=data_sn,
            buffer_offset=buffer_offset,
            residual_count=residual_count,
            data=data,
        )
        if len(ahs):
            pdu.take_ahs(ahs)
        if flags & fast.S_BIT:
            pdu.check_format()
        return pdu

    def check_format(self) -> None:
        # RFC 7143 11.7.3: bits 5-6 "are only valid when S is set to 1".
        if not self.status_present:
            return
        # RFC 7143 11.7.3: "If this bit is set to 1, the F bit MUST also be set to 1."
        if not self.final:
            raise ProtocolError("Data-In with the S bit but without the F bit")
        if self.residual_overflow and self.residual_underflow:
            raise ProtocolError("Data-In with both the O and the U bit")
