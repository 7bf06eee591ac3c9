# SPDX-License-Identifier: Apache-2.0
"""Operation codes and service actions, and their names as the standards print them.

One table for everybody who builds a CDB, reads one, or tells a person which command failed. What
the bytes after the operation code mean is said elsewhere: building in spc.py and sbc.py, reading
in cdb.py.
"""

from __future__ import annotations

import enum

from .layout import BytesLike


class Opcode(enum.IntEnum):
    """SPC-4 annex E and SBC-3 table 14; the number is the length of the CDB."""

    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    FORMAT_UNIT = 0x04
    READ_6 = 0x08
    WRITE_6 = 0x0A
    INQUIRY = 0x12
    MODE_SELECT_6 = 0x15
    RESERVE_6 = 0x16
    RELEASE_6 = 0x17
    MODE_SENSE_6 = 0x1A
    START_STOP_UNIT = 0x1B
    RECEIVE_DIAGNOSTIC_RESULTS = 0x1C
    SEND_DIAGNOSTIC = 0x1D
    PREVENT_ALLOW_MEDIUM_REMOVAL = 0x1E
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    WRITE_10 = 0x2A
    WRITE_AND_VERIFY_10 = 0x2E
    VERIFY_10 = 0x2F
    PRE_FETCH_10 = 0x34
    SYNCHRONIZE_CACHE_10 = 0x35
    READ_DEFECT_DATA_10 = 0x37
    WRITE_BUFFER = 0x3B
    READ_BUFFER = 0x3C
    WRITE_SAME_10 = 0x41
    UNMAP = 0x42
    SANITIZE = 0x48
    LOG_SELECT = 0x4C
    LOG_SENSE = 0x4D
    MODE_SELECT_10 = 0x55
    RESERVE_10 = 0x56
    RELEASE_10 = 0x57
    MODE_SENSE_10 = 0x5A
    PERSISTENT_RESERVE_IN = 0x5E
    PERSISTENT_RESERVE_OUT = 0x5F
    VARIABLE_LENGTH = 0x7F
    THIRD_PARTY_COPY_OUT = 0x83
    THIRD_PARTY_COPY_IN = 0x84
    ATA_PASS_THROUGH_16 = 0x85
    READ_16 = 0x88
    COMPARE_AND_WRITE = 0x89
    WRITE_16 = 0x8A
    ORWRITE_16 = 0x8B
    WRITE_AND_VERIFY_16 = 0x8E
    VERIFY_16 = 0x8F
    PRE_FETCH_16 = 0x90
    SYNCHRONIZE_CACHE_16 = 0x91
    WRITE_SAME_16 = 0x93
    WRITE_ATOMIC_16 = 0x9C
    SERVICE_ACTION_IN_16 = 0x9E
    REPORT_LUNS = 0xA0
    ATA_PASS_THROUGH_12 = 0xA1
    MAINTENANCE_IN = 0xA3
    MAINTENANCE_OUT = 0xA4
    READ_12 = 0xA8
    WRITE_12 = 0xAA
    WRITE_AND_VERIFY_12 = 0xAE
    VERIFY_12 = 0xAF


class ServiceActionIn(enum.IntEnum):
    """SERVICE ACTION IN(16), SBC-3 table 14."""

    READ_CAPACITY_16 = 0x10
    GET_LBA_STATUS = 0x12
    REPORT_REFERRALS = 0x13


class MaintenanceIn(enum.IntEnum):
    """MAINTENANCE IN, SPC-4 annex E."""

    REPORT_TARGET_PORT_GROUPS = 0x0A
    REPORT_SUPPORTED_OPERATION_CODES = 0x0C
    REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS = 0x0D


class MaintenanceOut(enum.IntEnum):
    """MAINTENANCE OUT, SPC-4 annex E."""

    SET_TARGET_PORT_GROUPS = 0x0A


class PersistentReserveIn(enum.IntEnum):
    """PERSISTENT RESERVE IN, SPC-4 table 199."""

    READ_KEYS = 0x00
    READ_RESERVATION = 0x01
    REPORT_CAPABILITIES = 0x02
    READ_FULL_STATUS = 0x03


class PersistentReserveOut(enum.IntEnum):
    """PERSISTENT RESERVE OUT, SPC-4 table 208."""

    REGISTER = 0x00
    RESERVE = 0x01
    RELEASE = 0x02
    CLEAR = 0x03
    PREEMPT = 0x04
    PREEMPT_AND_ABORT = 0x05
    REGISTER_AND_IGNORE_EXISTING_KEY = 0x06
    REGISTER_AND_MOVE = 0x07


SERVICE_ACTIONS: dict[int, type[enum.IntEnum]] = {
    Opcode.PERSISTENT_RESERVE_IN: PersistentReserveIn,
    Opcode.PERSISTENT_RESERVE_OUT: PersistentReserveOut,
    Opcode.SERVICE_ACTION_IN_16: ServiceActionIn,
    Opcode.MAINTENANCE_IN: MaintenanceIn,
    Opcode.MAINTENANCE_OUT: MaintenanceOut,
}
"""Operation codes whose byte 1 says in its low five bits which command it is."""

SERVICE_ACTION_MASK = 0x1F

_LEAVES_THE_MEDIUM = frozenset(
    {
        Opcode.TEST_UNIT_READY,
        Opcode.REQUEST_SENSE,
        Opcode.READ_6,
        Opcode.INQUIRY,
        Opcode.RESERVE_6,
        Opcode.RELEASE_6,
        Opcode.MODE_SENSE_6,
        Opcode.START_STOP_UNIT,
        Opcode.RECEIVE_DIAGNOSTIC_RESULTS,
        Opcode.PREVENT_ALLOW_MEDIUM_REMOVAL,
        Opcode.READ_CAPACITY_10,
        Opcode.READ_10,
        Opcode.VERIFY_10,
        Opcode.PRE_FETCH_10,
        Opcode.SYNCHRONIZE_CACHE_10,
        Opcode.READ_DEFECT_DATA_10,
        Opcode.READ_BUFFER,
        Opcode.LOG_SENSE,
        Opcode.RESERVE_10,
        Opcode.RELEASE_10,
        Opcode.MODE_SENSE_10,
        Opcode.PERSISTENT_RESERVE_IN,
        Opcode.THIRD_PARTY_COPY_IN,
        Opcode.READ_16,
        Opcode.VERIFY_16,
        Opcode.PRE_FETCH_16,
        Opcode.SYNCHRONIZE_CACHE_16,
        Opcode.SERVICE_ACTION_IN_16,
        Opcode.REPORT_LUNS,
        Opcode.MAINTENANCE_IN,
        Opcode.READ_12,
        Opcode.VERIFY_12,
    }
)

_PRINTED = {
    ServiceActionIn.READ_CAPACITY_16.name: "READ CAPACITY(16)",
    Opcode.SERVICE_ACTION_IN_16.name: "SERVICE ACTION IN(16)",
    Opcode.PREVENT_ALLOW_MEDIUM_REMOVAL.name: "PREVENT ALLOW MEDIUM REMOVAL",
    Opcode.PRE_FETCH_10.name: "PRE-FETCH(10)",
    Opcode.PRE_FETCH_16.name: "PRE-FETCH(16)",
    Opcode.THIRD_PARTY_COPY_OUT.name: "THIRD-PARTY COPY OUT",
    Opcode.THIRD_PARTY_COPY_IN.name: "THIRD-PARTY COPY IN",
}


def _print(name: str) -> str:
    """READ_10 -> READ(10), as the standards print it."""
    if name in _PRINTED:
        return _PRINTED[name]
    stem, _, length = name.rpartition("_")
    if length in ("6", "10", "12", "16"):
        return f"{stem.replace('_', ' ')}({length})"
    return name.replace("_", " ")


def command_name(cdb: BytesLike) -> str:
    """``READ(16)``, ``READ CAPACITY(16)``, or ``command F7h`` for an unknown one; never fails."""
    if len(cdb) == 0:
        return "an empty CDB"
    try:
        opcode = Opcode(cdb[0])
    except ValueError:
        return f"command {cdb[0]:02X}h"
    actions = SERVICE_ACTIONS.get(opcode)
    if actions is None or len(cdb) < 2:
        return _print(opcode.name)
    action = cdb[1] & SERVICE_ACTION_MASK
    try:
        name = _print(actions(action).name)
    except ValueError:
        return f"{_print(opcode.name)} service action {action:02X}h"
    if actions in (PersistentReserveIn, PersistentReserveOut):
        return f"{_print(opcode.name)} {name}"
    return name


def may_modify(cdb: BytesLike) -> bool:
    """Whether a command may change what the medium holds, also without Data-Out: FORMAT UNIT,
    WRITE SAME with NDOB, SANITIZE, and every command that is not known here."""
    return len(cdb) == 0 or cdb[0] not in _LEAVES_THE_MEDIUM
