# SPDX-License-Identifier: Apache-2.0
"""The registry of commands: operation code (and service action) to handler and properties.

A handler is registered with the usage data that REPORT SUPPORTED OPERATION CODES shows for it; the
same data says which bits of a CDB may be set, so a field that is not there cannot be used
unnoticed. primary.py, block.py, provisioning.py and reserve.py fill the registry. Nothing here
knows iSCSI.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .conditions import (
    INVALID_COMMAND_OPERATION_CODE,
    INVALID_FIELD_IN_CDB,
    LBA_OUT_OF_RANGE,
    Condition,
    Nexus,
    Result,
)
from .reservations import Access
from .unit import LogicalUnit


@dataclass(slots=True)
class Command:
    """One command as a handler sees it."""

    cdb: bytes
    nexus: Nexus
    data_out: bytes | bytearray | memoryview = b""
    data_out_offered: int = 0
    """How much the initiator had; ``data_out`` is at most what the CDB means."""
    lun: int = 0
    luns: Sequence[int] = ()
    """The LUNs of the target, for REPORT LUNS."""


Handler = Callable[[LogicalUnit, Command], Result]
Length = Callable[[LogicalUnit, bytes], int]


@dataclass(frozen=True, slots=True)
class Entry:
    """One supported command."""

    opcode: int
    service_action: int | None
    name: str
    usage: bytes
    handler: Handler
    access: Access
    data_out_length: Length | None
    passes_attention: bool
    needs_medium: bool


REGISTRY: dict[tuple[int, int | None], Entry] = {}
SERVICE_ACTION_OPCODES: set[int] = set()

Register = Callable[[Handler], Handler]


def command(
    opcode: int,
    usage: str,
    *,
    service_action: int | None = None,
    access: Access = Access.READ,
    data_out_length: Length | None = None,
    passes_attention: bool = False,
    needs_medium: bool = False,
) -> Register:
    """Register a handler. ``usage`` is the CDB usage data in hex, from byte 1 on."""

    def register(handler: Handler) -> Handler:
        REGISTRY[opcode, service_action] = Entry(
            opcode=opcode,
            service_action=service_action,
            name=handler.__name__,
            usage=bytes((opcode,)) + bytes.fromhex(usage),
            handler=handler,
            access=access,
            data_out_length=data_out_length,
            passes_attention=passes_attention,
            needs_medium=needs_medium,
        )
        if service_action is not None:
            SERVICE_ACTION_OPCODES.add(opcode)
        return handler

    return register


def find(cdb: bytes) -> Entry | None:
    """The entry of a CDB, or None when the command is not supported."""
    if not cdb:
        return None
    action = cdb[1] & 0x1F if len(cdb) > 1 and cdb[0] in SERVICE_ACTION_OPCODES else None
    return REGISTRY.get((cdb[0], action))


def lookup(cdb: bytes) -> Entry:
    """The entry of a CDB.

    Raises:
        Condition: the command is not supported, or a bit is set that it does not define.
    """
    entry = find(cdb)
    if entry is None:
        if cdb and cdb[0] in SERVICE_ACTION_OPCODES:
            raise Condition(INVALID_FIELD_IN_CDB)
        raise Condition(INVALID_COMMAND_OPERATION_CODE)
    for position, mask in enumerate(entry.usage[1:], 1):
        if position < len(cdb) and cdb[position] & ~mask & 0xFF:
            raise Condition(INVALID_FIELD_IN_CDB)
    return entry


def address(cdb: bytes) -> tuple[int, int]:
    """Logical block address and number of blocks of a CDB with the usual layout of its length."""
    group = cdb[0] >> 5
    if group == 0:
        return int.from_bytes(cdb[1:4], "big") & 0x1FFFFF, cdb[4] or 256
    if group in (1, 2):
        return int.from_bytes(cdb[2:6], "big"), int.from_bytes(cdb[7:9], "big")
    if group == 5:
        return int.from_bytes(cdb[2:6], "big"), int.from_bytes(cdb[6:10], "big")
    if cdb[0] == 0x89:  # COMPARE AND WRITE counts its blocks in one byte
        return int.from_bytes(cdb[2:10], "big"), cdb[13]
    return int.from_bytes(cdb[2:10], "big"), int.from_bytes(cdb[10:14], "big")


def check_range(unit: LogicalUnit, lba: int, blocks: int) -> None:
    """Raise LBA OUT OF RANGE when the range does not lie on the unit (``lba`` also when empty)."""
    if lba + blocks > unit.blocks or (blocks == 0 and lba >= unit.blocks):
        raise Condition(LBA_OUT_OF_RANGE, information=min(max(lba, unit.blocks), 2**64 - 1))


def refuse_protection(cdb: bytes, position: int = 1) -> None:
    """Refuse RDPROTECT, WRPROTECT, VRPROTECT, ORPROTECT: this medium has no protection data."""
    if cdb[position] & 0xE0:
        raise Condition(INVALID_FIELD_IN_CDB)
