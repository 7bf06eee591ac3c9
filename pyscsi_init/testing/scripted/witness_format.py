# SPDX-License-Identifier: Apache-2.0
"""Rules about a single PDU: reserved bits, lengths, padding, digests; and whether it may be sent.

The table of reserved bits is read off the figures of RFC 7143 section 11 by hand, not taken from
the codec: it is a second opinion on it.
"""

from __future__ import annotations

from ...pdu import (
    RESERVED_TAG,
    InitiatorOpcode,
    NopOut,
    Pdu,
    SnackRequest,
    TaskManagementRequest,
    TextRequest,
)
from .negotiated import LOGIN_DATA_SEGMENT_LENGTH
from .wire import WirePdu
from .witness import Complaints, Link, Phase, Witness

_ABORT_TASK, _TASK_REASSIGN, _LAST_OF_LEVEL_1, _QUERY_TASK = 1, 8, 8, 9

DEFINED_BITS = {
    InitiatorOpcode.NOP_OUT: "7f800000 ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff"
    " ffffffff 00000000 00000000 00000000 00000000",
    InitiatorOpcode.SCSI_COMMAND: "7fe70000 ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff"
    " ffffffff ffffffff ffffffff ffffffff ffffffff",
    InitiatorOpcode.TASK_MANAGEMENT_REQUEST: "7fff0000 ffffffff ffffffff ffffffff ffffffff"
    " ffffffff ffffffff ffffffff ffffffff ffffffff 00000000 00000000",
    InitiatorOpcode.LOGIN_REQUEST: "7fcfffff ffffffff ffffffff ffffffff ffffffff ffff0000 ffffffff"
    " ffffffff 00000000 00000000 00000000 00000000",
    InitiatorOpcode.TEXT_REQUEST: "7fc00000 ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff"
    " ffffffff 00000000 00000000 00000000 00000000",
    InitiatorOpcode.DATA_OUT: "3f800000 ffffffff ffffffff ffffffff ffffffff ffffffff 00000000"
    " ffffffff 00000000 ffffffff ffffffff 00000000",
    InitiatorOpcode.LOGOUT_REQUEST: "7fff0000 ffffffff 00000000 00000000 ffffffff ffff0000 ffffffff"
    " ffffffff 00000000 00000000 00000000 00000000",
    InitiatorOpcode.SNACK_REQUEST: "3f8f0000 ffffffff ffffffff ffffffff ffffffff ffffffff 00000000"
    " ffffffff 00000000 00000000 ffffffff ffffffff",
}
"""The bits of each BHS that mean something (RFC 7143 11.3 to 11.18)."""

DEFINED = {int(opcode): bytes.fromhex(bits) for opcode, bits in DEFINED_BITS.items()}
PRIORITY_BITS = 0xF0
"""Byte 2 of a SCSI Command, defined by RFC 7144 for iSCSIProtocolLevel 2."""

ALWAYS_SET = (
    InitiatorOpcode.NOP_OUT,
    InitiatorOpcode.TASK_MANAGEMENT_REQUEST,
    InitiatorOpcode.LOGOUT_REQUEST,
    InitiatorOpcode.SNACK_REQUEST,
)
"""Opcodes whose figure prints the first bit of byte 1 as 1."""


class Format(Witness):
    """Reserved bits, lengths, padding and digests."""

    def initiator(self, link: Link, pdu: Pdu, wire: WirePdu) -> Complaints:
        del pdu
        header = wire.header
        defined = DEFINED.get(wire.opcode)
        for position in range(len(header)) if defined else ():
            allowed = defined[position] if defined else 0xFF
            if (
                position == 2
                and wire.opcode == InitiatorOpcode.SCSI_COMMAND
                and (link.parameters.protocol_level >= 2)
            ):
                allowed |= PRIORITY_BITS
            if header[position] & ~allowed:
                yield f"reserved bits of byte {position} are set: {header[position]:02x}h"
        if wire.opcode in ALWAYS_SET and not header[1] & 0x80:
            yield "the first bit of byte 1 is not set"
        if any(wire.pad):
            yield f"padding is not zero: {wire.pad.hex()}"
        if not wire.header_digest_ok:
            yield f"the header digest {wire.header_digest.hex()} is wrong"
        if not wire.data_digest_ok:
            yield f"the data digest {wire.data_digest.hex()} is wrong"
        limit = (
            LOGIN_DATA_SEGMENT_LENGTH
            if link.phase is Phase.LOGIN
            else link.parameters.target_max_recv_data_segment_length
        )
        if len(wire.data) > limit:
            yield f"DataSegmentLength {len(wire.data)} is more than the {limit} that we take"


class Legality(Witness):
    """Which PDU may be sent in which phase, session type and error recovery level."""

    def initiator(self, link: Link, pdu: Pdu, wire: WirePdu) -> Complaints:
        login = wire.opcode == InitiatorOpcode.LOGIN_REQUEST
        if link.phase is Phase.LOGIN:
            if not login:
                yield "only Login Requests may be sent in the login phase"
            return
        if link.phase is Phase.LOGOUT:
            yield "nothing may follow a Logout Request on its connection"
        if login:
            yield "a Login Request in full feature phase"
        level = link.parameters.error_recovery_level
        if isinstance(pdu, SnackRequest) and level < 1:
            yield "SNACK at ErrorRecoveryLevel 0"
        if isinstance(pdu, TaskManagementRequest):
            yield from self._function(pdu, link)
        if link.parameters.discovery:
            yield from self._discovery(pdu, wire)
        if wire.opcode == InitiatorOpcode.LOGOUT_REQUEST:
            link.phase = Phase.LOGOUT

    @staticmethod
    def _function(pdu: TaskManagementRequest, link: Link) -> Complaints:
        single = pdu.function in (_ABORT_TASK, _TASK_REASSIGN, _QUERY_TASK)
        if single is (pdu.referenced_task_tag == RESERVED_TAG):
            yield f"function {pdu.function} with Referenced Task Tag {pdu.referenced_task_tag:08x}h"
        if pdu.function == _TASK_REASSIGN and link.parameters.error_recovery_level < 2:
            yield "TASK REASSIGN below ErrorRecoveryLevel 2"
        if pdu.function > _LAST_OF_LEVEL_1 and link.parameters.protocol_level < 2:
            yield f"function {pdu.function} needs iSCSIProtocolLevel 2"

    @staticmethod
    def _discovery(pdu: Pdu, wire: WirePdu) -> Complaints:
        answer = isinstance(pdu, NopOut) and pdu.initiator_task_tag == RESERVED_TAG
        legal = isinstance(pdu, TextRequest) or wire.opcode == InitiatorOpcode.LOGOUT_REQUEST
        if not legal and not answer:
            yield "a discovery session knows only Text and Logout Requests"
