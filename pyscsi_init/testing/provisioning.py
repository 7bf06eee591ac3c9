# SPDX-License-Identifier: Apache-2.0
"""Provisioning commands (SBC-3): UNMAP, WRITE SAME and GET LBA STATUS."""

from __future__ import annotations

from .block import USAGE_10, USAGE_16
from .commands import Command, address, check_range, command, refuse_protection
from .conditions import (
    INVALID_COMMAND_OPERATION_CODE,
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_PARAMETER_LIST,
    PARAMETER_LIST_LENGTH_ERROR,
    Condition,
    Result,
)
from .inquiry import MOST_UNMAP_BLOCKS, MOST_UNMAP_DESCRIPTORS, MOST_WRITE_SAME_BLOCKS
from .reservations import Access
from .unit import LogicalUnit


def _parameter_list_length(_unit: LogicalUnit, cdb: bytes) -> int:
    return int.from_bytes(cdb[7:9], "big")


@command(
    0x42,
    "01 00 00 00 00 1f ff ff 07",
    access=Access.WRITE,
    data_out_length=_parameter_list_length,
    needs_medium=True,
)
def unmap(unit: LogicalUnit, command: Command) -> Result:
    """UNMAP."""
    if not unit.disk.thin:
        raise Condition(INVALID_COMMAND_OPERATION_CODE)
    if command.cdb[1] & 0x01:  # ANCHOR
        raise Condition(INVALID_FIELD_IN_CDB)
    data = bytes(command.data_out)
    if not data:
        return Result()
    if len(data) < 8:
        raise Condition(PARAMETER_LIST_LENGTH_ERROR)
    length = min(int.from_bytes(data[2:4], "big"), len(data) - 8) // 16 * 16
    ranges = [
        (
            int.from_bytes(data[start : start + 8], "big"),
            int.from_bytes(data[start + 8 : start + 12], "big"),
        )
        for start in range(8, 8 + length, 16)
    ]
    if len(ranges) > MOST_UNMAP_DESCRIPTORS or sum(n for _, n in ranges) > MOST_UNMAP_BLOCKS:
        raise Condition(INVALID_FIELD_IN_PARAMETER_LIST)
    # SBC-3: a descriptor of no blocks does nothing, wherever it points.
    ranges = [(lba, blocks) for lba, blocks in ranges if blocks]
    for lba, blocks in ranges:
        check_range(unit, lba, blocks)
    for lba, blocks in ranges:
        unit.disk.discard(lba * unit.block_size, blocks * unit.block_size)
    return Result()


def _write_same_length(unit: LogicalUnit, cdb: bytes) -> int:
    no_data_out = cdb[0] == 0x93 and cdb[1] & 0x01
    return 0 if no_data_out else unit.block_size


def _write_same(unit: LogicalUnit, command: Command) -> Result:
    cdb = command.cdb
    refuse_protection(cdb)
    wants_unmap, anchor = bool(cdb[1] & 0x08), bool(cdb[1] & 0x10)
    if anchor or (wants_unmap and not unit.disk.thin):
        raise Condition(INVALID_FIELD_IN_CDB)
    lba, blocks = address(cdb)
    check_range(unit, lba, blocks)
    blocks = blocks or unit.blocks - lba
    if blocks > MOST_WRITE_SAME_BLOCKS:
        raise Condition(INVALID_FIELD_IN_CDB)
    size = unit.block_size
    length = _write_same_length(unit, cdb)
    if command.data_out_offered != length:
        raise Condition(INVALID_FIELD_IN_CDB)
    pattern = bytes(command.data_out[:size]) if length else bytes(size)
    # Unmapped blocks read as zeros, so only a block of zeros may be written by unmapping.
    if wants_unmap and not any(pattern):
        unit.disk.discard(lba * size, blocks * size)
    else:
        unit.disk.fill(lba * size, blocks * size, pattern)
    return Result()


for _opcode, _usage in ((0x41, f"f8 {USAGE_10}"), (0x93, f"f9 {USAGE_16}")):
    command(
        _opcode,
        _usage,
        access=Access.WRITE,
        data_out_length=_write_same_length,
        needs_medium=True,
    )(_write_same)


@command(
    0x9E,
    "1f ff ff ff ff ff ff ff ff ff ff ff ff 00 07",
    service_action=0x12,
    needs_medium=True,
)
def get_lba_status(unit: LogicalUnit, command: Command) -> Result:
    """GET LBA STATUS."""
    if not unit.disk.thin:
        raise Condition(INVALID_FIELD_IN_CDB)
    lba = int.from_bytes(command.cdb[2:10], "big")
    allocation_length = int.from_bytes(command.cdb[10:14], "big")
    check_range(unit, lba, 1)
    if allocation_length < 24:
        raise Condition(INVALID_FIELD_IN_CDB)
    most = (allocation_length - 8) // 16
    descriptors = b""
    for count, (first, blocks, allocated) in enumerate(
        unit.disk.extents(lba, min(unit.blocks - lba, 0xFFFFFFFF))
    ):
        if count == most:
            break
        descriptors += (
            first.to_bytes(8, "big")
            + blocks.to_bytes(4, "big")
            + bytes((0 if allocated else 1, 0, 0, 0))
        )
    return Result(data=(len(descriptors) + 4).to_bytes(4, "big") + bytes(4) + descriptors)
