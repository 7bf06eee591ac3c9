# SPDX-License-Identifier: Apache-2.0
"""The LUN as a block device, and other devices with the same interface."""

from .alignment import AlignmentDevice
from .fault import FaultDevice
from .identity import Identity
from .interface import BlockDevice, BlockRequest, Buffer, Limits, Operation
from .late import LateDevice
from .logical_unit import LogicalUnit, attach_unit, open_lun, require_writable, resolve_chap
from .ram import RamDevice
from .record import UnitRecord
from .splitting import SplittingDevice

__all__ = [
    "AlignmentDevice",
    "BlockDevice",
    "BlockRequest",
    "Buffer",
    "FaultDevice",
    "Identity",
    "LateDevice",
    "Limits",
    "LogicalUnit",
    "Operation",
    "RamDevice",
    "SplittingDevice",
    "UnitRecord",
    "attach_unit",
    "open_lun",
    "require_writable",
    "resolve_chap",
]
