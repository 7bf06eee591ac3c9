# SPDX-License-Identifier: Apache-2.0
"""How a command can end, in SCSI terms: a result, or a condition that becomes sense data.

Command handlers return a :class:`Result` or raise a :class:`Condition`; turning the latter into a
CHECK CONDITION is done in one place (execution.py), so that a handler reads like the clause of the
standard that it implements. Knows no PDU.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class SenseCode(NamedTuple):
    """Sense key, additional sense code, additional sense code qualifier."""

    sense_key: int
    asc: int
    ascq: int


BECOMING_READY = SenseCode(0x2, 0x04, 0x01)
INITIALIZING_COMMAND_REQUIRED = SenseCode(0x2, 0x04, 0x02)
ACCESS_STATE_TRANSITION = SenseCode(0x2, 0x04, 0x0A)
PORT_IN_STANDBY_STATE = SenseCode(0x2, 0x04, 0x0B)
PORT_IN_UNAVAILABLE_STATE = SenseCode(0x2, 0x04, 0x0C)
MEDIUM_NOT_PRESENT = SenseCode(0x2, 0x3A, 0x00)
PARAMETER_LIST_LENGTH_ERROR = SenseCode(0x5, 0x1A, 0x00)
INVALID_COMMAND_OPERATION_CODE = SenseCode(0x5, 0x20, 0x00)
LBA_OUT_OF_RANGE = SenseCode(0x5, 0x21, 0x00)
INVALID_FIELD_IN_CDB = SenseCode(0x5, 0x24, 0x00)
LOGICAL_UNIT_NOT_SUPPORTED = SenseCode(0x5, 0x25, 0x00)
INVALID_FIELD_IN_PARAMETER_LIST = SenseCode(0x5, 0x26, 0x00)
INVALID_RELEASE_OF_PERSISTENT_RESERVATION = SenseCode(0x5, 0x26, 0x04)
SAVING_PARAMETERS_NOT_SUPPORTED = SenseCode(0x5, 0x39, 0x00)
MEDIUM_REMOVAL_PREVENTED = SenseCode(0x5, 0x53, 0x02)
INSUFFICIENT_REGISTRATION_RESOURCES = SenseCode(0x5, 0x55, 0x04)
POWER_ON_OR_RESET = SenseCode(0x6, 0x29, 0x00)
BUS_DEVICE_RESET_FUNCTION_OCCURRED = SenseCode(0x6, 0x29, 0x03)
I_T_NEXUS_LOSS_OCCURRED = SenseCode(0x6, 0x29, 0x07)
MODE_PARAMETERS_CHANGED = SenseCode(0x6, 0x2A, 0x01)
RESERVATIONS_PREEMPTED = SenseCode(0x6, 0x2A, 0x03)
RESERVATIONS_RELEASED = SenseCode(0x6, 0x2A, 0x04)
REGISTRATIONS_PREEMPTED = SenseCode(0x6, 0x2A, 0x05)
ASYMMETRIC_ACCESS_STATE_CHANGED = SenseCode(0x6, 0x2A, 0x06)
CAPACITY_DATA_HAS_CHANGED = SenseCode(0x6, 0x2A, 0x09)
COMMANDS_CLEARED_BY_ANOTHER_INITIATOR = SenseCode(0x6, 0x2F, 0x00)
INQUIRY_DATA_HAS_CHANGED = SenseCode(0x6, 0x3F, 0x03)
REPORTED_LUNS_DATA_HAS_CHANGED = SenseCode(0x6, 0x3F, 0x0E)
WRITE_PROTECTED = SenseCode(0x7, 0x27, 0x00)
SPACE_ALLOCATION_FAILED = SenseCode(0x7, 0x27, 0x07)
UNEXPECTED_UNSOLICITED_DATA = SenseCode(0xB, 0x0C, 0x0C)
INCORRECT_AMOUNT_OF_DATA = SenseCode(0xB, 0x0C, 0x0D)
PROTOCOL_SERVICE_CRC_ERROR = SenseCode(0xB, 0x47, 0x05)
INTERNAL_TARGET_FAILURE = SenseCode(0x4, 0x44, 0x00)
MISCOMPARE_DURING_VERIFY = SenseCode(0xE, 0x1D, 0x00)

GOOD = 0x00
CHECK_CONDITION = 0x02
BUSY = 0x08
RESERVATION_CONFLICT = 0x18
TASK_SET_FULL = 0x28


@dataclass(slots=True)
class Result:
    """Status and data-in of one command."""

    status: int = GOOD
    data: bytes | memoryview = b""
    sense: bytes = b""
    flush: bool = False
    """The medium has to be flushed before the status may be sent."""


class Condition(Exception):
    """A handler's way to end with CHECK CONDITION."""

    def __init__(self, code: SenseCode, information: int | None = None) -> None:
        self.code = code
        self.information = information
        super().__init__(f"{code.sense_key:X}/{code.asc:02X}/{code.ascq:02X}")


class Conflict(Exception):
    """A handler's way to end with RESERVATION CONFLICT."""


@dataclass(frozen=True, slots=True)
class Nexus:
    """An I_T nexus (RFC 7143 4.4.3): initiator port and target port group."""

    initiator_name: str
    isid: bytes
    target_name: str
    target_portal_group_tag: int

    @property
    def initiator_port(self) -> str:
        """The SCSI initiator port name (RFC 7143 4.4.2)."""
        return f"{self.initiator_name},i,0x{self.isid.hex()}"

    @property
    def target_port(self) -> str:
        """The SCSI target port name (RFC 7143 4.4.2)."""
        return f"{self.target_name},t,0x{self.target_portal_group_tag:04x}"
