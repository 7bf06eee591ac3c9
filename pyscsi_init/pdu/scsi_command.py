# SPDX-License-Identifier: Apache-2.0
"""SCSI Command (RFC 7143 11.3, and RFC 7144 5.1 for PRI).

Owns how a CDB, its expected lengths and its task attribute lie in a header. A CDB of up to 16
bytes is in the BHS, zero padded: its own length is not on the wire, so a decoded ``cdb`` has at
least 16 bytes. What the CDB says is none of this module's business.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar, Self

from ..errors import LocalProtocolError, ProtocolError
from . import fast
from .ahs import (
    CDB_LENGTH_IN_BHS,
    build_bidirectional_read_length,
    build_extended_cdb,
    parse_ahs,
)
from .bhs import (
    MAX_DATA_SEGMENT_LENGTH,
    NO_LUN,
    OPCODE_MASK,
    InitiatorOpcode,
    Pdu,
    check_lengths,
    decode_declared,
    encode_declared,
)
from .layout import (
    IMMEDIATE,
    INITIATOR_TASK_TAG,
    LENGTHS,
    LUN,
    REQUEST_NUMBERS,
    BytesLike,
    Layout,
    flag,
    octets,
    reserved,
    uint,
)


class TaskAttribute(IntEnum):
    """ATTR, RFC 7143 11.3.1."""

    UNTAGGED = 0
    SIMPLE = 1
    ORDERED = 2
    HEAD_OF_QUEUE = 3
    ACA = 4


@dataclass(slots=True, kw_only=True)
class ScsiCommand(Pdu):
    """A CDB on its way to a logical unit, perhaps with immediate data."""

    opcode: ClassVar[int] = InitiatorOpcode.SCSI_COMMAND
    layout: ClassVar[Layout] = Layout(
        InitiatorOpcode.SCSI_COMMAND,
        flag("final"),
        flag("read"),
        flag("write"),
        reserved(2),
        uint("attr", 3),
        uint("pri", 4),
        reserved(4),
        reserved(8),
        *LENGTHS,
        LUN,
        INITIATOR_TASK_TAG,
        uint("expected_data_transfer_length", 32),
        *REQUEST_NUMBERS,
        octets("cdb", CDB_LENGTH_IN_BHS),
        i_bit=IMMEDIATE,
    )

    immediate: bool = False
    final: bool = True
    read: bool = False
    write: bool = False
    attr: int = TaskAttribute.UNTAGGED
    pri: int = 0
    lun: bytes = NO_LUN
    initiator_task_tag: int = 0
    expected_data_transfer_length: int = 0
    cmd_sn: int = 0
    exp_stat_sn: int = 0
    cdb: bytes = b""
    bidirectional_read_expected_data_transfer_length: int | None = None

    def encode(self) -> bytes:
        length = len(self.data)
        if (
            len(self.cdb) > CDB_LENGTH_IN_BHS
            or self.bidirectional_read_expected_data_transfer_length is not None
            # What struct would cut or spill into a neighbour is refused by the declared path.
            or len(self.lun) != len(NO_LUN)
            or self.attr >> 3
            or length > MAX_DATA_SEGMENT_LENGTH
        ):
            return encode_declared(self)
        try:
            return fast.SCSI_COMMAND.pack(
                self.opcode | fast.I_BIT if self.immediate else self.opcode,
                (fast.F_BIT if self.final else 0)
                | (fast.R_BIT if self.read else 0)
                | (fast.W_BIT if self.write else 0)
                | self.attr,
                self.pri << fast.PRI_SHIFT,
                length,
                self.lun,
                self.initiator_task_tag,
                self.expected_data_transfer_length,
                self.cmd_sn,
                self.exp_stat_sn,
                self.cdb,
            )
        except struct.error as error:
            raise LocalProtocolError(f"SCSI Command: a value does not fit: {error}") from error

    @classmethod
    def decode(cls, header: BytesLike, ahs: BytesLike = b"", data: BytesLike = b"") -> Self:
        if len(ahs):
            return decode_declared(cls, header, ahs, data)
        try:
            (byte_0, flags, priority, lengths, lun, itt, edtl, cmd_sn, exp_stat_sn, cdb) = (
                fast.SCSI_COMMAND.unpack(header)
            )
        except struct.error as error:
            raise ProtocolError(f"SCSI Command: {error}") from error
        if byte_0 & OPCODE_MASK != cls.opcode:
            raise ProtocolError(f"opcode {byte_0 & OPCODE_MASK:#04x} is not a SCSI Command")
        if lengths != len(data):
            check_lengths(cls, lengths, ahs, data)
        pdu = cls(
            immediate=byte_0 & fast.I_BIT != 0,
            final=flags & fast.F_BIT != 0,
            read=flags & fast.R_BIT != 0,
            write=flags & fast.W_BIT != 0,
            attr=flags & fast.ATTR_MASK,
            pri=priority >> fast.PRI_SHIFT,
            lun=lun,
            initiator_task_tag=itt,
            expected_data_transfer_length=edtl,
            cmd_sn=cmd_sn,
            exp_stat_sn=exp_stat_sn,
            cdb=cdb,
            data=bytes(data),
        )
        pdu.check_format()
        return pdu

    def header_values(self) -> dict[str, Any]:
        # Zero-argument super() does not survive the class that slots=True makes anew.
        values = Pdu.header_values(self)
        values["cdb"] = bytes(self.cdb[:CDB_LENGTH_IN_BHS]).ljust(CDB_LENGTH_IN_BHS, b"\0")
        return values

    def encode_ahs(self) -> bytes:
        ahs = build_extended_cdb(self.cdb) if len(self.cdb) > CDB_LENGTH_IN_BHS else b""
        read_length = self.bidirectional_read_expected_data_transfer_length
        return ahs if read_length is None else ahs + build_bidirectional_read_length(read_length)

    def take_ahs(self, ahs: BytesLike) -> None:
        more, self.bidirectional_read_expected_data_transfer_length = parse_ahs(ahs)
        self.cdb = self.cdb + more

    def check_format(self) -> None:
        # RFC 7143 11.3.1: "At least one of the W and F bits MUST be set to 1."
        if not (self.final or self.write):
            raise ProtocolError("SCSI Command with neither the F nor the W bit")
