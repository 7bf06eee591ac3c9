# SPDX-License-Identifier: Apache-2.0
"""READ CAPACITY data (SBC-3 5.15.2 and 5.16.2): how many blocks of what size.

A capacity is the one answer that everything else is computed from, so it is the one that is
refused when it makes no sense: a block length of zero, or an answer too short to hold both numbers.
Whether a size is acceptable for a volume is decided above.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ProtocolError
from .layout import BytesLike, Layout, flag, reserved, uint

_TEN = Layout(
    "READ CAPACITY(10) data",
    uint("last_logical_block_address", 32),
    uint("block_length", 32),
)
_SIXTEEN = Layout(
    "READ CAPACITY(16) data",
    uint("last_logical_block_address", 64),
    uint("block_length", 32),
    reserved(4),
    uint("protection_type", 3),
    flag("protection_enabled"),
    uint("protection_interval_exponent", 4),
    uint("logical_blocks_per_physical_block_exponent", 4),
    flag("lbpme"),
    flag("lbprz"),
    uint("lowest_aligned_lba", 14),
    reserved(16 * 8),
)
_SIXTEEN_MINIMUM = 12
"""SBC-2 ended after the block length."""
_LARGEST_10 = 0xFFFF_FFFF


def _check_block_length(block_length: int) -> None:
    if block_length == 0:
        raise ProtocolError("the logical unit reports a block length of 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCapacity10:
    """READ CAPACITY(10) data."""

    last_logical_block_address: int
    block_length: int

    @property
    def too_large(self) -> bool:
        """The number does not fit; READ CAPACITY(16) has it."""
        return self.last_logical_block_address == _LARGEST_10

    @property
    def blocks(self) -> int:
        """Number of logical blocks."""
        return self.last_logical_block_address + 1

    @classmethod
    def parse(cls, data: BytesLike) -> ReadCapacity10:
        """Raises ProtocolError for less than 8 bytes or a block length of 0."""
        parsed = cls(**_TEN.parse(data, minimum=_TEN.size))
        _check_block_length(parsed.block_length)
        return parsed

    def build(self) -> bytes:
        """8 bytes; an LBA beyond 32 bits is FFFFFFFFh, as the standard says it."""
        last = min(self.last_logical_block_address, _LARGEST_10)
        return _TEN.build({"last_logical_block_address": last, "block_length": self.block_length})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCapacity16:
    """READ CAPACITY(16) data."""

    last_logical_block_address: int
    block_length: int
    protection_type: int = 0
    """P_TYPE; type 1 is 0. Has a meaning only where ``protection_enabled``."""
    protection_enabled: bool = False
    protection_interval_exponent: int = 0
    logical_blocks_per_physical_block_exponent: int = 0
    lbpme: bool = False
    """Logical block provisioning management: blocks can be unmapped."""
    lbprz: bool = False
    """Unmapped blocks read as zeros."""
    lowest_aligned_lba: int = 0

    @property
    def blocks(self) -> int:
        """Number of logical blocks."""
        return self.last_logical_block_address + 1

    @property
    def physical_block_length(self) -> int:
        """Bytes of a physical block."""
        return self.block_length << self.logical_blocks_per_physical_block_exponent

    @classmethod
    def parse(cls, data: BytesLike) -> ReadCapacity16:
        """Raises ProtocolError for less than 12 bytes or a block length of 0."""
        parsed = cls(**_SIXTEEN.parse(data, minimum=_SIXTEEN_MINIMUM))
        _check_block_length(parsed.block_length)
        return parsed

    def build(self) -> bytes:
        """32 bytes."""
        return _SIXTEEN.build_from(self)
