# SPDX-License-Identifier: Apache-2.0
"""MODE SENSE and MODE SELECT: caching, control and informational exceptions pages.

Two bits can be changed, both in the control page: SWP (software write protect) and D_SENSE
(descriptor format sense data). Nothing is saved.
"""

from __future__ import annotations

from .commands import Command, command
from .conditions import (
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_PARAMETER_LIST,
    MODE_PARAMETERS_CHANGED,
    PARAMETER_LIST_LENGTH_ERROR,
    SAVING_PARAMETERS_NOT_SUPPORTED,
    Condition,
    Result,
)
from .reservations import Access
from .unit import LogicalUnit

CURRENT, CHANGEABLE, DEFAULT, SAVED = range(4)
D_SENSE, SWP = 0x04, 0x08


def _read_write_error_recovery(_unit: LogicalUnit, control: int) -> bytes:
    # AWRE and ARRE
    return bytes((0x01, 0x0A, 0 if control == CHANGEABLE else 0xC0)) + bytes(9)


def _caching(unit: LogicalUnit, control: int) -> bytes:
    write_cache = 0 if control == CHANGEABLE or not unit.disk.write_cache else 0x04
    return bytes((0x08, 0x12, write_cache)) + bytes(17)


def _control(unit: LogicalUnit, control: int) -> bytes:
    d_sense, swp = unit.descriptor_sense, unit.software_write_protect
    if control == CHANGEABLE:
        d_sense = swp = True
    elif control == DEFAULT:
        d_sense = swp = False
    # Byte 3: unrestricted reordering
    reordering = 0 if control == CHANGEABLE else 0x10
    return bytes(
        (0x0A, 0x0A, D_SENSE if d_sense else 0, reordering, SWP if swp else 0, 0, 0, 0, 0, 0, 0, 0)
    )


def _informational_exceptions(_unit: LogicalUnit, _control: int) -> bytes:
    return bytes((0x1C, 0x0A)) + bytes(10)


PAGES = {
    0x01: _read_write_error_recovery,
    0x08: _caching,
    0x0A: _control,
    0x1C: _informational_exceptions,
}


def _pages(unit: LogicalUnit, cdb: bytes) -> bytes:
    control, page, subpage = cdb[2] >> 6, cdb[2] & 0x3F, cdb[3]
    if control == SAVED:
        raise Condition(SAVING_PARAMETERS_NOT_SUPPORTED)
    if subpage not in (0x00, 0xFF) or (page != 0x3F and page not in PAGES):
        raise Condition(INVALID_FIELD_IN_CDB)
    if page != 0x3F:
        return PAGES[page](unit, control)
    return b"".join(build(unit, control) for _, build in sorted(PAGES.items()))


def _device_specific(unit: LogicalUnit) -> int:
    return (0x80 if unit.write_protected else 0) | 0x10  # WP, DPOFUA


def _short_block_descriptor(unit: LogicalUnit) -> bytes:
    return min(unit.blocks, 0xFFFFFFFF).to_bytes(4, "big") + unit.block_size.to_bytes(4, "big")


@command(0x1A, "08 ff ff ff 07")
def mode_sense_6(unit: LogicalUnit, command: Command) -> Result:
    """MODE SENSE(6)."""
    pages = _pages(unit, command.cdb)
    blocks = b"" if command.cdb[1] & 0x08 else _short_block_descriptor(unit)
    body = bytes((0, _device_specific(unit), len(blocks))) + blocks + pages
    return Result(data=(bytes((len(body),)) + body)[: command.cdb[4]])


@command(0x5A, "18 ff ff 00 00 00 ff ff 07")
def mode_sense_10(unit: LogicalUnit, command: Command) -> Result:
    """MODE SENSE(10)."""
    cdb = command.cdb
    pages = _pages(unit, cdb)
    long_lba = bool(cdb[1] & 0x10)
    blocks = b""
    if not cdb[1] & 0x08:
        blocks = _short_block_descriptor(unit)
        if long_lba:
            blocks = unit.blocks.to_bytes(8, "big") + bytes(4) + unit.block_size.to_bytes(4, "big")
    body = (
        bytes((0, _device_specific(unit), 0x01 if long_lba and blocks else 0, 0))
        + len(blocks).to_bytes(2, "big")
        + blocks
        + pages
    )
    data = len(body).to_bytes(2, "big") + body
    return Result(data=data[: int.from_bytes(cdb[7:9], "big")])


def _select(unit: LogicalUnit, command: Command, header: int, descriptors: int) -> Result:
    if command.cdb[1] & 0x01:  # SP
        raise Condition(INVALID_FIELD_IN_CDB)
    data = bytes(command.data_out)
    if not data:
        return Result()
    position = header + descriptors
    if len(data) < position:
        raise Condition(PARAMETER_LIST_LENGTH_ERROR)
    accepted: list[bytes] = []
    while position < len(data):
        if position + 2 > len(data) or position + 2 + data[position + 1] > len(data):
            raise Condition(PARAMETER_LIST_LENGTH_ERROR)
        page = data[position : position + 2 + data[position + 1]]
        build = PAGES.get(page[0] & 0x7F)
        if build is None:
            raise Condition(INVALID_FIELD_IN_PARAMETER_LIST)
        now, mask = build(unit, CURRENT), build(unit, CHANGEABLE)
        if len(page) != len(now) or any(
            (new ^ old) & ~may & 0xFF
            for new, old, may in zip(page[2:], now[2:], mask[2:], strict=True)
        ):
            raise Condition(INVALID_FIELD_IN_PARAMETER_LIST)
        accepted.append(page)
        position += len(page)
    for page in accepted:
        if page[0] & 0x3F == 0x0A:
            unit.descriptor_sense = bool(page[2] & D_SENSE)
            unit.software_write_protect = bool(page[4] & SWP)
    unit.attention(MODE_PARAMETERS_CHANGED, but=command.nexus)
    return Result()


@command(0x15, "11 00 00 ff 07", access=Access.WRITE, data_out_length=lambda _unit, cdb: cdb[4])
def mode_select_6(unit: LogicalUnit, command: Command) -> Result:
    """MODE SELECT(6)."""
    data = command.data_out
    if 0 < len(data) < 4:
        raise Condition(PARAMETER_LIST_LENGTH_ERROR)
    return _select(unit, command, 4, data[3] if data else 0)


@command(
    0x55,
    "11 00 00 00 00 00 ff ff 07",
    access=Access.WRITE,
    data_out_length=lambda _unit, cdb: int.from_bytes(cdb[7:9], "big"),
)
def mode_select_10(unit: LogicalUnit, command: Command) -> Result:
    """MODE SELECT(10)."""
    data = command.data_out
    if 0 < len(data) < 8:
        raise Condition(PARAMETER_LIST_LENGTH_ERROR)
    return _select(unit, command, 8, int.from_bytes(data[6:8], "big") if data else 0)
