# SPDX-License-Identifier: Apache-2.0
"""Reading a CDB: the other direction of spc.py and sbc.py.

A target needs it to obey, an initiator to know how many bytes a raw CDB moves and to name it in an
error. The layouts are declarations, and tests hold the precompiled builders against them. Whether
a command is supported, and whether its range exists, is decided by the logical unit.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ..errors import ProtocolError
from .cdb_layouts import LAYOUTS, SERVICE_ACTION_LAYOUTS, Direction, cdb_length
from .layout import BytesLike
from .opcodes import SERVICE_ACTION_MASK, SERVICE_ACTIONS, Opcode, command_name

_BLOCKS_OF_0 = 256
"""READ(6) and WRITE(6): a transfer length of 0 is 256 (SBC-3 5.10)."""

_READ_CAPACITY_10_LENGTH = 8
"""The one answer with a fixed length and no allocation length."""


class ByteCheck(enum.IntEnum):
    """BYTCHK of VERIFY and WRITE AND VERIFY (SBC-3 5.29)."""

    MEDIUM_ONLY = 0
    COMPARE = 1
    COMPARE_ONE_BLOCK = 3


_ONE_BLOCK_OUT = frozenset({Opcode.WRITE_SAME_10, Opcode.WRITE_SAME_16})
_VERIFIES = frozenset({Opcode.VERIFY_10, Opcode.VERIFY_12, Opcode.VERIFY_16})


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedCdb:
    """The fields of one CDB; those that its command does not have keep their defaults."""

    opcode: int
    direction: Direction
    service_action: int | None = None
    lba: int | None = None
    blocks: int | None = None
    """Transfer length or number of blocks; READ(6) and WRITE(6) already say 256 for 0."""
    allocation_length: int | None = None
    parameter_list_length: int | None = None
    protect: int = 0
    """RDPROTECT, WRPROTECT, VRPROTECT or ORPROTECT."""
    dpo: bool = False
    fua: bool = False
    immed: bool = False
    unmap: bool = False
    anchor: bool = False
    ndob: bool = False
    byte_check: int = 0
    evpd: bool = False
    page_code: int = 0
    page_control: int = 0
    subpage_code: int = 0
    dbd: bool = False
    long_lba_accepted: bool = False
    page_format: bool = False
    save_pages: bool = False
    descriptor_format: bool = False
    select_report: int = 0
    start: bool = False
    load_eject: bool = False
    power_condition: int = 0
    prevent: int = 0
    scope: int = 0
    reservation_type: int = 0
    reporting_options: int = 0
    return_timeouts: bool = False
    requested_opcode: int = 0
    requested_service_action: int = 0
    parameter_data_format: int = 0
    group_number: int = 0
    naca: bool = False

    @property
    def name(self) -> str:
        """``READ(16)``."""
        return command_name(bytes((self.opcode, self.service_action or 0)))

    def data_length(self, block_length: int) -> int:
        """How many bytes the command moves at most, in its direction."""
        if self.allocation_length is not None:
            return self.allocation_length
        if self.parameter_list_length is not None:
            return self.parameter_list_length
        if self.opcode == Opcode.READ_CAPACITY_10:
            return _READ_CAPACITY_10_LENGTH
        if self.direction is Direction.NONE or self.blocks is None:
            return 0
        if self.opcode in _ONE_BLOCK_OUT:
            return 0 if self.ndob else block_length
        if self.opcode in _VERIFIES:
            one = self.byte_check == ByteCheck.COMPARE_ONE_BLOCK
            return (min(1, self.blocks) if one else self.blocks) * block_length
        if self.opcode == Opcode.COMPARE_AND_WRITE:
            return 2 * self.blocks * block_length
        return self.blocks * block_length


def parse_cdb(cdb: BytesLike) -> ParsedCdb:
    """The fields of a CDB; iSCSI pads short ones to 16 bytes, what follows the CDB is ignored.

    Raises ProtocolError for an unknown operation code or service action and for a CDB that is
    cut short: a target answers them with 05/20/00 and 05/24/00.
    """
    if not len(cdb):
        raise ProtocolError("a CDB of 0 bytes")
    opcode = cdb[0]
    if opcode in SERVICE_ACTIONS and len(cdb) > 1:
        action = cdb[1] & SERVICE_ACTION_MASK
        row = SERVICE_ACTION_LAYOUTS.get((opcode, action))
    else:
        row = LAYOUTS.get(opcode)
    if row is None:
        raise ProtocolError(f"{command_name(cdb)} is not known")
    layout, direction = row
    if len(cdb) < cdb_length(opcode):
        raise ProtocolError(f"a CDB of {len(cdb)} bytes is too short for {command_name(cdb)}")
    fields = layout.parse(cdb)
    if opcode in (Opcode.READ_6, Opcode.WRITE_6) and not fields["blocks"]:
        fields["blocks"] = _BLOCKS_OF_0
    if opcode in _VERIFIES and not fields["byte_check"]:
        direction = Direction.NONE
    if fields.get("ndob"):
        direction = Direction.NONE
    return ParsedCdb(direction=direction, **fields)


def describe_cdb(cdb: BytesLike) -> str:
    """A command for people: ``READ(16) of 8 blocks at LBA 4096``; never fails."""
    try:
        parsed = parse_cdb(cdb)
    except ProtocolError:
        return command_name(cdb)
    if parsed.lba is not None and parsed.blocks is not None:
        return f"{parsed.name} of {parsed.blocks} blocks at LBA {parsed.lba}"
    if parsed.opcode == Opcode.INQUIRY and parsed.evpd:
        return f"{parsed.name} of page {parsed.page_code:02X}h"
    if parsed.opcode in (Opcode.MODE_SENSE_6, Opcode.MODE_SENSE_10):
        return f"{parsed.name} of page {parsed.page_code:02X}h"
    return parsed.name
