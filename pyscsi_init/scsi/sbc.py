# SPDX-License-Identifier: Apache-2.0
"""CDBs of the block commands (SBC-3 clause 5): what a disk understands.

Each function gives the bytes of one CDB; READ and WRITE are on the data path, so they are one
``struct`` call. ``blocks`` is the transfer length: 0 moves no data in these commands (only READ(6)
and WRITE(6), which are not built here, mean 256 by it). Which form fits a range, what the limits
of a device are, and whether it supports a command is decided by the caller.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from ..errors import LocalProtocolError
from .opcodes import Opcode, ServiceActionIn
from .packing import CdbFormat

_RANGE_10 = CdbFormat("a 10-byte CDB", 10, "BBIxHx")
_RANGE_16 = CdbFormat("a 16-byte CDB", 16, "BBQI2x")
_READ_CAPACITY_10 = CdbFormat("READ CAPACITY(10)", 10, "B9x")
_UNMAP = CdbFormat("UNMAP", 10, "BB5xHx")
_COMPARE_AND_WRITE = CdbFormat("COMPARE AND WRITE", 16, "BBQ3xB2x")
_START_STOP_UNIT = CdbFormat("START STOP UNIT", 6, "BB2xBx")
_UNMAP_HEADER = struct.Struct(">HH4x")
_UNMAP_DESCRIPTOR = struct.Struct(">QI4x")

_DPO = 0x10
_FUA = 0x08
_IMMED = 0x02
_ANCHOR = 0x10
_UNMAP_BIT = 0x08
_NDOB = 0x01
_LARGEST_BYTE_CHECK = 3

LARGEST_LBA_10 = 0xFFFF_FFFF
LARGEST_TRANSFER_10 = 0xFFFF
"""What the 10-byte READ and WRITE can address and move; beyond either, the 16-byte form."""


def fits_10(lba: int, blocks: int) -> bool:
    """The range can be named in a 10-byte CDB."""
    return lba <= LARGEST_LBA_10 and blocks <= LARGEST_TRANSFER_10


def read_capacity_10() -> bytes:
    """READ CAPACITY(10) (5.15): 8 bytes come back."""
    return _READ_CAPACITY_10.pack(Opcode.READ_CAPACITY_10)


def read_capacity_16(allocation_length: int = 32) -> bytes:
    """READ CAPACITY(16) (5.16)."""
    return _RANGE_16.pack(
        Opcode.SERVICE_ACTION_IN_16, ServiceActionIn.READ_CAPACITY_16, 0, allocation_length
    )


def get_lba_status(lba: int, allocation_length: int) -> bytes:
    """GET LBA STATUS (5.6)."""
    return _RANGE_16.pack(
        Opcode.SERVICE_ACTION_IN_16, ServiceActionIn.GET_LBA_STATUS, lba, allocation_length
    )


def read_10(lba: int, blocks: int, fua: bool = False, dpo: bool = False) -> bytes:
    """READ(10) (5.11)."""
    flags = (_FUA if fua else 0) | (_DPO if dpo else 0)
    return _RANGE_10.pack(Opcode.READ_10, flags, lba, blocks)


def read_16(lba: int, blocks: int, fua: bool = False, dpo: bool = False) -> bytes:
    """READ(16) (5.13)."""
    flags = (_FUA if fua else 0) | (_DPO if dpo else 0)
    return _RANGE_16.pack(Opcode.READ_16, flags, lba, blocks)


def write_10(lba: int, blocks: int, fua: bool = False, dpo: bool = False) -> bytes:
    """WRITE(10) (5.32)."""
    flags = (_FUA if fua else 0) | (_DPO if dpo else 0)
    return _RANGE_10.pack(Opcode.WRITE_10, flags, lba, blocks)


def write_16(lba: int, blocks: int, fua: bool = False, dpo: bool = False) -> bytes:
    """WRITE(16) (5.34)."""
    flags = (_FUA if fua else 0) | (_DPO if dpo else 0)
    return _RANGE_16.pack(Opcode.WRITE_16, flags, lba, blocks)


def synchronize_cache_10(lba: int = 0, blocks: int = 0, immed: bool = False) -> bytes:
    """SYNCHRONIZE CACHE(10) (5.22); 0 blocks means up to the end of the medium."""
    return _RANGE_10.pack(Opcode.SYNCHRONIZE_CACHE_10, _IMMED if immed else 0, lba, blocks)


def synchronize_cache_16(lba: int = 0, blocks: int = 0, immed: bool = False) -> bytes:
    """SYNCHRONIZE CACHE(16) (5.23); 0 blocks means up to the end of the medium."""
    return _RANGE_16.pack(Opcode.SYNCHRONIZE_CACHE_16, _IMMED if immed else 0, lba, blocks)


def unmap(parameter_list_length: int, anchor: bool = False) -> bytes:
    """UNMAP (5.28); the ranges are in the parameter list."""
    return _UNMAP.pack(Opcode.UNMAP, 1 if anchor else 0, parameter_list_length)


def unmap_parameter_list(ranges: Sequence[tuple[int, int]]) -> bytes:
    """The data of UNMAP: (lba, blocks) per descriptor (5.28.2).

    Its two lengths count what follows each of them: n-1 and n-7.
    """
    try:
        entries = b"".join(_UNMAP_DESCRIPTOR.pack(lba, blocks) for lba, blocks in ranges)
        header = _UNMAP_HEADER.pack(len(entries) + _UNMAP_HEADER.size - 2, len(entries))
    except struct.error as error:
        raise LocalProtocolError(f"an UNMAP list cannot hold a value: {error}") from error
    return header + entries


def write_same_10(lba: int, blocks: int, unmap: bool = False, anchor: bool = False) -> bytes:
    """WRITE SAME(10) (5.43): one block of data, written ``blocks`` times.

    0 blocks means up to the end of the medium, where WSNZ does not forbid it.
    """
    flags = (_UNMAP_BIT if unmap else 0) | (_ANCHOR if anchor else 0)
    return _RANGE_10.pack(Opcode.WRITE_SAME_10, flags, lba, blocks)


def write_same_16(
    lba: int, blocks: int, unmap: bool = False, anchor: bool = False, ndob: bool = False
) -> bytes:
    """WRITE SAME(16) (5.44). ``ndob``: no data-out buffer, the block is zeros."""
    flags = (_UNMAP_BIT if unmap else 0) | (_ANCHOR if anchor else 0) | (_NDOB if ndob else 0)
    return _RANGE_16.pack(Opcode.WRITE_SAME_16, flags, lba, blocks)


def compare_and_write(lba: int, blocks: int, fua: bool = False, dpo: bool = False) -> bytes:
    """COMPARE AND WRITE (5.2): the data are ``blocks`` to compare, then ``blocks`` to write."""
    flags = (_FUA if fua else 0) | (_DPO if dpo else 0)
    return _COMPARE_AND_WRITE.pack(Opcode.COMPARE_AND_WRITE, flags, lba, blocks)


def verify_10(lba: int, blocks: int, byte_check: int = 0, dpo: bool = False) -> bytes:
    """VERIFY(10) (5.29). ``byte_check``: a :class:`ByteCheck`, what the data are compared with."""
    return _RANGE_10.pack(Opcode.VERIFY_10, _verify_flags(byte_check, dpo), lba, blocks)


def verify_16(lba: int, blocks: int, byte_check: int = 0, dpo: bool = False) -> bytes:
    """VERIFY(16) (5.31)."""
    return _RANGE_16.pack(Opcode.VERIFY_16, _verify_flags(byte_check, dpo), lba, blocks)


def write_and_verify_10(lba: int, blocks: int, byte_check: int = 0, dpo: bool = False) -> bytes:
    """WRITE AND VERIFY(10) (5.36): written to the medium itself, and read from there."""
    return _RANGE_10.pack(Opcode.WRITE_AND_VERIFY_10, _verify_flags(byte_check, dpo), lba, blocks)


def write_and_verify_16(lba: int, blocks: int, byte_check: int = 0, dpo: bool = False) -> bytes:
    """WRITE AND VERIFY(16) (5.38)."""
    return _RANGE_16.pack(Opcode.WRITE_AND_VERIFY_16, _verify_flags(byte_check, dpo), lba, blocks)


def _verify_flags(byte_check: int, dpo: bool) -> int:
    if not 0 <= byte_check <= _LARGEST_BYTE_CHECK:
        raise LocalProtocolError(f"BYTCHK has two bits and cannot be {byte_check}")
    return byte_check << 1 | (_DPO if dpo else 0)


def start_stop_unit(*, start: bool, load_eject: bool = False, immed: bool = False) -> bytes:
    """START STOP UNIT (5.25)."""
    action = (0x02 if load_eject else 0) | (0x01 if start else 0)
    return _START_STOP_UNIT.pack(Opcode.START_STOP_UNIT, 1 if immed else 0, action)
