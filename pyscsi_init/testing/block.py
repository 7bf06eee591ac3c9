# SPDX-License-Identifier: Apache-2.0
"""Block commands (SBC-3 clause 5): capacity, READ, WRITE, VERIFY, COMPARE AND WRITE, caches.

Provisioning (UNMAP, WRITE SAME, GET LBA STATUS) is in provisioning.py. Ranges are checked before
anything is touched, so a command that fails has changed nothing.
"""

from __future__ import annotations

from .commands import Command, address, check_range, command, refuse_protection
from .conditions import (
    INVALID_FIELD_IN_CDB,
    MEDIUM_REMOVAL_PREVENTED,
    MISCOMPARE_DURING_VERIFY,
    Condition,
    Result,
)
from .inquiry import MOST_COMPARE_AND_WRITE_BLOCKS, MOST_TRANSFER_BYTES
from .reservations import Access
from .unit import LogicalUnit

USAGE_10 = "ff ff ff ff 1f ff ff 07"
USAGE_12 = "ff ff ff ff ff ff ff ff 1f 07"
USAGE_16 = "ff ff ff ff ff ff ff ff ff ff ff ff 1f 07"
FLAGS = "fa"
"""Protection bits (which are refused with the same condition), DPO, FUA, FUA_NV."""


def transfer_length(unit: LogicalUnit, cdb: bytes) -> int:
    """Bytes of data that the CDB's number of blocks means."""
    return address(cdb)[1] * unit.block_size


def _range(unit: LogicalUnit, cdb: bytes) -> tuple[int, int]:
    """Checked (byte offset, byte length) of a transfer."""
    lba, blocks = address(cdb)
    check_range(unit, lba, blocks)
    length = blocks * unit.block_size
    if length > MOST_TRANSFER_BYTES:
        raise Condition(INVALID_FIELD_IN_CDB)
    return lba * unit.block_size, length


# Capacity


@command(0x25, "00 ff ff ff ff 00 00 01 07", access=Access.ALWAYS, needs_medium=True)
def read_capacity_10(unit: LogicalUnit, command: Command) -> Result:
    """READ CAPACITY(10)."""
    if not command.cdb[8] & 1 and any(command.cdb[2:6]):
        raise Condition(INVALID_FIELD_IN_CDB)
    last = min(unit.blocks - 1, 0xFFFFFFFF)
    return Result(data=last.to_bytes(4, "big") + unit.block_size.to_bytes(4, "big"))


@command(
    0x9E,
    "1f ff ff ff ff ff ff ff ff ff ff ff ff 01 07",
    service_action=0x10,
    access=Access.ALWAYS,
    needs_medium=True,
)
def read_capacity_16(unit: LogicalUnit, command: Command) -> Result:
    """READ CAPACITY(16)."""
    cdb = command.cdb
    if not cdb[14] & 1 and any(cdb[2:10]):
        raise Condition(INVALID_FIELD_IN_CDB)
    exponent = max(0, (4096 // unit.block_size).bit_length() - 1)
    data = (
        (unit.blocks - 1).to_bytes(8, "big")
        + unit.block_size.to_bytes(4, "big")
        + bytes((0, exponent, 0xC0 if unit.disk.thin else 0, 0))  # LBPME, LBPRZ
        + bytes(16)
    )
    return Result(data=data[: int.from_bytes(cdb[10:14], "big")])


# READ


def _read(unit: LogicalUnit, command: Command) -> Result:
    if command.cdb[0] != 0x08:
        refuse_protection(command.cdb)
    return Result(data=unit.disk.read(*_range(unit, command.cdb)))


command(0x08, "1f ff ff ff 07", needs_medium=True)(_read)
command(0x28, f"{FLAGS} {USAGE_10}", needs_medium=True)(_read)
command(0xA8, f"{FLAGS} {USAGE_12}", needs_medium=True)(_read)
command(0x88, f"{FLAGS} {USAGE_16}", needs_medium=True)(_read)


# WRITE, WRITE AND VERIFY


def _write(unit: LogicalUnit, command: Command) -> Result:
    cdb = command.cdb
    if cdb[0] != 0x0A:
        refuse_protection(cdb)
    offset, _ = _range(unit, cdb)
    # When the initiator had less than the CDB says, whole blocks of what came are written.
    data = memoryview(command.data_out)
    whole = len(data) // unit.block_size * unit.block_size
    unit.disk.write(offset, data[:whole])
    fua = cdb[0] != 0x0A and bool(cdb[1] & 0x08)
    return Result(flush=fua and unit.disk.write_cache)


def _write_and_verify(unit: LogicalUnit, command: Command) -> Result:
    if command.cdb[1] & 0x08:  # no FUA in WRITE AND VERIFY
        raise Condition(INVALID_FIELD_IN_CDB)
    return _write(unit, command)


for _opcode, _usage in (
    (0x0A, "1f ff ff ff 07"),
    (0x2A, f"{FLAGS} {USAGE_10}"),
    (0xAA, f"{FLAGS} {USAGE_12}"),
    (0x8A, f"{FLAGS} {USAGE_16}"),
):
    command(
        _opcode,
        _usage,
        access=Access.WRITE,
        data_out_length=transfer_length,
        needs_medium=True,
    )(_write)
for _opcode, _usage in ((0x2E, USAGE_10), (0xAE, USAGE_12), (0x8E, USAGE_16)):
    command(
        _opcode,
        f"f2 {_usage}",
        access=Access.WRITE,
        data_out_length=transfer_length,
        needs_medium=True,
    )(_write_and_verify)


# XDWRITEREAD, the one command here that transfers both ways


@command(
    0x53,
    f"1c {USAGE_10}",
    access=Access.WRITE,
    data_out_length=transfer_length,
    needs_medium=True,
)
def xdwriteread_10(unit: LogicalUnit, command: Command) -> Result:
    """XDWRITEREAD(10): what was there XOR what came goes back, and what came is
    written, unless DISABLE WRITE says no."""
    cdb = command.cdb
    offset, _ = _range(unit, cdb)
    data = memoryview(command.data_out)
    whole = len(data) // unit.block_size * unit.block_size
    old = int.from_bytes(unit.disk.read(offset, whole), "big")
    changed = (old ^ int.from_bytes(data[:whole], "big")).to_bytes(whole, "big")
    if cdb[1] & 0x04:
        return Result(data=changed)
    unit.disk.write(offset, data[:whole])
    return Result(data=changed, flush=bool(cdb[1] & 0x08) and unit.disk.write_cache)


# VERIFY, COMPARE AND WRITE, ORWRITE


def _compare(unit: LogicalUnit, offset: int, data: bytes | bytearray | memoryview) -> None:
    stored = unit.disk.read(offset, len(data))
    if stored == data:
        return
    first = next(index for index, value in enumerate(data) if stored[index] != value)
    raise Condition(MISCOMPARE_DURING_VERIFY, information=first)


def _verify_length(unit: LogicalUnit, cdb: bytes) -> int:
    check = cdb[1] >> 1 & 0x03
    if check == 1:
        return transfer_length(unit, cdb)
    return unit.block_size if check == 3 else 0


def _verify(unit: LogicalUnit, command: Command) -> Result:
    refuse_protection(command.cdb)
    lba, blocks = address(command.cdb)
    check_range(unit, lba, blocks)
    check = command.cdb[1] >> 1 & 0x03
    if check == 2:
        raise Condition(INVALID_FIELD_IN_CDB)
    if check == 1:
        _compare(unit, lba * unit.block_size, command.data_out)
    elif check == 3:
        for block in range(lba, lba + blocks):
            _compare(unit, block * unit.block_size, command.data_out)
    return Result()


for _opcode, _usage in ((0x2F, USAGE_10), (0xAF, USAGE_12), (0x8F, USAGE_16)):
    command(_opcode, f"f6 {_usage}", data_out_length=_verify_length, needs_medium=True)(_verify)


@command(
    0x89,
    "fa ff ff ff ff ff ff ff ff 00 00 00 ff 1f 07",
    access=Access.WRITE,
    data_out_length=lambda unit, cdb: 2 * cdb[13] * unit.block_size,
    needs_medium=True,
)
def compare_and_write(unit: LogicalUnit, command: Command) -> Result:
    """COMPARE AND WRITE: one step, because handlers do not wait."""
    refuse_protection(command.cdb)
    lba, blocks = address(command.cdb)
    if blocks > MOST_COMPARE_AND_WRITE_BLOCKS:
        raise Condition(INVALID_FIELD_IN_CDB)
    check_range(unit, lba, blocks)
    length = blocks * unit.block_size
    # The two halves are told apart by the length, so a wrong one must not be made to fit.
    if command.data_out_offered != 2 * length:
        raise Condition(INVALID_FIELD_IN_CDB)
    data = memoryview(command.data_out)
    _compare(unit, lba * unit.block_size, data[:length])
    unit.disk.write(lba * unit.block_size, data[length : 2 * length])
    return Result(flush=bool(command.cdb[1] & 0x08) and unit.disk.write_cache)


@command(
    0x8B,
    f"{FLAGS} {USAGE_16}",
    access=Access.WRITE,
    data_out_length=transfer_length,
    needs_medium=True,
)
def orwrite_16(unit: LogicalUnit, command: Command) -> Result:
    """ORWRITE(16)."""
    refuse_protection(command.cdb)
    offset, length = _range(unit, command.cdb)
    if length:
        old = int.from_bytes(unit.disk.read(offset, length), "big")
        new = int.from_bytes(command.data_out, "big")
        unit.disk.write(offset, (old | new).to_bytes(length, "big"))
    return Result()


# Caches


def _synchronize_cache(unit: LogicalUnit, command: Command) -> Result:
    lba, blocks = address(command.cdb)
    check_range(unit, lba, blocks)
    return Result(flush=not command.cdb[1] & 0x02)


command(0x35, f"06 {USAGE_10}", access=Access.WRITE, needs_medium=True)(_synchronize_cache)
command(0x91, f"06 {USAGE_16}", access=Access.WRITE, needs_medium=True)(_synchronize_cache)

CONDITION_MET = 0x04


def _prefetch(unit: LogicalUnit, command: Command) -> Result:
    lba, blocks = address(command.cdb)
    check_range(unit, lba, blocks)
    return Result(status=CONDITION_MET)


command(0x34, f"02 {USAGE_10}", needs_medium=True)(_prefetch)
command(0x90, f"02 {USAGE_16}", needs_medium=True)(_prefetch)


# Power and medium


@command(0x1B, "01 00 0f f7 07", access=Access.WRITE)
def start_stop_unit(unit: LogicalUnit, command: Command) -> Result:
    """START STOP UNIT; the medium cannot be ejected, so LOEJ only stops and starts."""
    power_condition, flags = command.cdb[4] >> 4, command.cdb[4]
    if power_condition or flags & 0x04:  # with NO_FLUSH or a power condition START is ignored
        return Result()
    if flags & 0x02 and not flags & 0x01 and unit.prevented:
        raise Condition(MEDIUM_REMOVAL_PREVENTED)
    unit.started = bool(flags & 0x01)
    return Result()


@command(0x1E, "00 00 00 03 07", access=Access.ALWAYS)
def prevent_allow_medium_removal(unit: LogicalUnit, command: Command) -> Result:
    """PREVENT ALLOW MEDIUM REMOVAL."""
    if command.cdb[4] & 0x01:
        unit.prevented.add(command.nexus)
    else:
        unit.prevented.discard(command.nexus)
    return Result()
