# SPDX-License-Identifier: Apache-2.0
"""Ready To Transfer (RFC 7143 11.8): the target asks for a piece of a write.

Owns the header only; whether the piece lies inside the command is for the session to say.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

from ..errors import LocalProtocolError, ProtocolError
from . import fast
from .bhs import NO_LUN, OPCODE_MASK, Pdu, TargetOpcode, check_lengths, encode_declared
from .layout import (
    INITIATOR_TASK_TAG,
    LENGTHS,
    LUN,
    RESPONSE_NUMBERS,
    TARGET_TRANSFER_TAG,
    BytesLike,
    Layout,
    ones,
    reserved,
    uint,
)


@dataclass(slots=True, kw_only=True)
class ReadyToTransfer(Pdu):
    """An R2T; it carries no data segment."""

    opcode: ClassVar[int] = TargetOpcode.READY_TO_TRANSFER
    may_carry_data: ClassVar[bool] = False
    layout: ClassVar[Layout] = Layout(
        TargetOpcode.READY_TO_TRANSFER,
        ones(1),
        reserved(7),
        reserved(16),
        *LENGTHS,
        LUN,
        INITIATOR_TASK_TAG,
        TARGET_TRANSFER_TAG,
        *RESPONSE_NUMBERS,
        uint("r2t_sn", 32),
        uint("buffer_offset", 32),
        uint("desired_data_transfer_length", 32),
    )

    lun: bytes = NO_LUN
    initiator_task_tag: int = 0
    target_transfer_tag: int = 0
    stat_sn: int = 0
    exp_cmd_sn: int = 0
    max_cmd_sn: int = 0
    r2t_sn: int = 0
    buffer_offset: int = 0
    desired_data_transfer_length: int = 0

    def encode(self) -> bytes:
        if len(self.lun) != len(NO_LUN) or len(self.data):
            return encode_declared(self)
        try:
            return fast.READY_TO_TRANSFER.pack(
                self.opcode,
                fast.F_BIT,
                0,
                self.lun,
                self.initiator_task_tag,
                self.target_transfer_tag,
                self.stat_sn,
                self.exp_cmd_sn,
                self.max_cmd_sn,
                self.r2t_sn,
                self.buffer_offset,
                self.desired_data_transfer_length,
            )
        except struct.error as error:
            raise LocalProtocolError(f"R2T: a value does not fit: {error}") from error

    @classmethod
    def decode(cls, header: BytesLike, ahs: BytesLike = b"", data: BytesLike = b"") -> Self:
        try:
            (
                byte_0,
                _flags,
                lengths,
                lun,
                initiator_task_tag,
                target_transfer_tag,
                stat_sn,
                exp_cmd_sn,
                max_cmd_sn,
                r2t_sn,
                buffer_offset,
                desired_data_transfer_length,
            ) = fast.READY_TO_TRANSFER.unpack(header)
        except struct.error as error:
            raise ProtocolError(f"R2T: {error}") from error
        if byte_0 & OPCODE_MASK != cls.opcode:
            raise ProtocolError(f"opcode {byte_0 & OPCODE_MASK:#04x} is not an R2T")
        # RFC 7143 11.8.1: "For this PDU, TotalAHSLength and DataSegmentLength MUST be 0."
        if lengths or len(ahs) or len(data):
            check_lengths(cls, lengths, ahs, data)
        pdu = cls(
            lun=lun,
            initiator_task_tag=initiator_task_tag,
            target_transfer_tag=target_transfer_tag,
            stat_sn=stat_sn,
            exp_cmd_sn=exp_cmd_sn,
            max_cmd_sn=max_cmd_sn,
            r2t_sn=r2t_sn,
            buffer_offset=buffer_offset,
            desired_data_transfer_length=desired_data_transfer_length,
        )
        if len(ahs):
            pdu.take_ahs(ahs)
        return pdu
