# SPDX-License-Identifier: Apache-2.0
"""The LUN as a block device, and other devices with the same interface."""

from ..buffers import Buffer
from .alignment import AlignmentDevice
from .fault import FaultDevice
from .fence import Fence, Fencing, node_key
from .identity import Identity
from .interface import BlockDevice, BlockRequest, Limits, Operation
from .late import LateDevice
from .logical_unit import LogicalUnit, attach_unit, open_lun, require_writable, resolve_chap
from .ram import RamDevice
from .record import FenceRecord, UnitRecord
from .reservation import PersistentReservations
from .splitting import SplittingDevice
from .target_ports import TargetPort
from .unit_services import Extent

__all__ = [
    "AlignmentDevice",
    "BlockDevice",
    "BlockRequest",
    "Buffer",
    "Extent",
    "FaultDevice",
    "Fence",
    "FenceRecord",
    "Fencing",
    "Identity",
    "LateDevice",
    "Limits",
    "LogicalUnit",
    "Operation",
    "PersistentReservations",
    "RamDevice",
    "SplittingDevice",
    "TargetPort",
    "UnitRecord",
    "attach_unit",
    "node_key",
    "open_lun",
    "require_writable",
    "resolve_chap",
]
