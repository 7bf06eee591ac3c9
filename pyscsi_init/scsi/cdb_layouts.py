# SPDX-License-Identifier: Apache-2.0
"""The CDBs as SPC-4 clause 6 and SBC-3 clause 5 draw them, bit by bit, each with its direction.

One declaration for each drawing; commands that share a drawing share it. Field names are those of
:class:`~pyscsi_init.scsi.cdb.ParsedCdb`. Relative addressing, FUA_NV, SYNC_NV and other obsolete
bits are reserved here.
"""

from __future__ import annotations

import enum
from typing import Any

from .layout import Layout, flag, reserved, uint
from .opcodes import (
    MaintenanceIn,
    MaintenanceOut,
    Opcode,
    PersistentReserveIn,
    PersistentReserveOut,
    ServiceActionIn,
)


class Direction(enum.Enum):
    """Where the data of a command go, seen from the initiator as SAM-5 does."""

    NONE = "none"
    IN = "in"
    OUT = "out"


_OPCODE = uint("opcode", 8)
_CONTROL = (reserved(5), flag("naca"), reserved(2))
_GROUP = (reserved(3), uint("group_number", 5))
_SERVICE_ACTION = (reserved(3), uint("service_action", 5))
_LENGTHS = {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}


def cdb_length(opcode: int) -> int:
    """The length of a CDB by its group code (SPC-4 4.2.5.1); 0 where the group has none."""
    return _LENGTHS.get(opcode >> 5, 0)


def _layout(title: str, *fields: Any) -> Layout:
    return Layout(title, _OPCODE, *fields)


def _six(title: str, *fields: Any) -> Layout:
    return _layout(title, *fields, *_CONTROL)


_READ_WRITE_FLAGS = (uint("protect", 3), flag("dpo"), flag("fua"), reserved(3))
_VERIFY_FLAGS = (uint("protect", 3), flag("dpo"), reserved(1), uint("byte_check", 2), reserved(1))
_IMMED_FLAGS = (reserved(6), flag("immed"), reserved(1))
_WRITE_SAME_FLAGS = (
    uint("protect", 3),
    flag("anchor"),
    flag("unmap"),
    reserved(2),
)


def _range_10(title: str, *flags: Any) -> Layout:
    return _six(title, *flags, uint("lba", 32), *_GROUP, uint("blocks", 16))


def _range_12(title: str, *flags: Any) -> Layout:
    return _six(title, *flags, uint("lba", 32), uint("blocks", 32), *_GROUP)


def _range_16(title: str, *flags: Any) -> Layout:
    return _six(title, *flags, uint("lba", 64), uint("blocks", 32), *_GROUP)


_READ_WRITE_6 = _six("a 6-byte CDB", reserved(3), uint("lba", 21), uint("blocks", 8))
_READ_WRITE_10 = _range_10("a 10-byte CDB", *_READ_WRITE_FLAGS)
_READ_WRITE_12 = _range_12("a 12-byte CDB", *_READ_WRITE_FLAGS)
_READ_WRITE_16 = _range_16("a 16-byte CDB", *_READ_WRITE_FLAGS)
_VERIFY_10 = _range_10("a 10-byte VERIFY CDB", *_VERIFY_FLAGS)
_VERIFY_12 = _range_12("a 12-byte VERIFY CDB", *_VERIFY_FLAGS)
_VERIFY_16 = _range_16("a 16-byte VERIFY CDB", *_VERIFY_FLAGS)
_CACHE_10 = _range_10("a 10-byte cache CDB", *_IMMED_FLAGS)
_CACHE_16 = _range_16("a 16-byte cache CDB", *_IMMED_FLAGS)
_MODE_PAGE = (uint("page_control", 2), uint("page_code", 6), uint("subpage_code", 8))
_MODE_SELECT_FLAGS = (reserved(3), flag("page_format"), reserved(3), flag("save_pages"))
_RESERVE_6 = _six("RESERVE(6)", reserved(32))
_RESERVE_10 = _six("RESERVE(10)", reserved(64))

_N, _I, _O = Direction.NONE, Direction.IN, Direction.OUT

LAYOUTS: dict[int, tuple[Layout, Direction]] = {
    Opcode.TEST_UNIT_READY: (_six("TEST UNIT READY", reserved(32)), _N),
    Opcode.REQUEST_SENSE: (
        _six(
            "REQUEST SENSE",
            reserved(7),
            flag("descriptor_format"),
            reserved(16),
            uint("allocation_length", 8),
        ),
        _I,
    ),
    Opcode.INQUIRY: (
        _six(
            "INQUIRY",
            reserved(7),
            flag("evpd"),
            uint("page_code", 8),
            uint("allocation_length", 16),
        ),
        _I,
    ),
    Opcode.MODE_SELECT_6: (
        _six("MODE SELECT(6)", *_MODE_SELECT_FLAGS, reserved(16), uint("parameter_list_length", 8)),
        _O,
    ),
    Opcode.MODE_SELECT_10: (
        _six(
            "MODE SELECT(10)", *_MODE_SELECT_FLAGS, reserved(40), uint("parameter_list_length", 16)
        ),
        _O,
    ),
    Opcode.MODE_SENSE_6: (
        _six(
            "MODE SENSE(6)",
            reserved(4),
            flag("dbd"),
            reserved(3),
            *_MODE_PAGE,
            uint("allocation_length", 8),
        ),
        _I,
    ),
    Opcode.MODE_SENSE_10: (
        _six(
            "MODE SENSE(10)",
            reserved(3),
            flag("long_lba_accepted"),
            flag("dbd"),
            reserved(3),
            *_MODE_PAGE,
            reserved(24),
            uint("allocation_length", 16),
        ),
        _I,
    ),
    Opcode.RESERVE_6: (_RESERVE_6, _N),
    Opcode.RELEASE_6: (_RESERVE_6, _N),
    Opcode.RESERVE_10: (_RESERVE_10, _N),
    Opcode.RELEASE_10: (_RESERVE_10, _N),
    Opcode.START_STOP_UNIT: (
        _six(
            "START STOP UNIT",
            reserved(7),
            flag("immed"),
            reserved(16),
            uint("power_condition", 4),
            reserved(2),
            flag("load_eject"),
            flag("start"),
        ),
        _N,
    ),
    Opcode.PREVENT_ALLOW_MEDIUM_REMOVAL: (
        _six("PREVENT ALLOW MEDIUM REMOVAL", reserved(30), uint("prevent", 2)),
        _N,
    ),
    Opcode.REPORT_LUNS: (
        _six(
            "REPORT LUNS",
            reserved(8),
            uint("select_report", 8),
            reserved(24),
            uint("allocation_length", 32),
            reserved(8),
        ),
        _I,
    ),
    Opcode.UNMAP: (
        _six(
            "UNMAP",
            reserved(7),
            flag("anchor"),
            reserved(32),
            *_GROUP,
            uint("parameter_list_length", 16),
        ),
        _O,
    ),
    Opcode.WRITE_SAME_10: (_range_10("WRITE SAME(10)", *_WRITE_SAME_FLAGS, reserved(1)), _O),
    Opcode.WRITE_SAME_16: (_range_16("WRITE SAME(16)", *_WRITE_SAME_FLAGS, flag("ndob")), _O),
    Opcode.COMPARE_AND_WRITE: (
        _six(
            "COMPARE AND WRITE",
            *_READ_WRITE_FLAGS,
            uint("lba", 64),
            reserved(24),
            uint("blocks", 8),
            *_GROUP,
        ),
        _O,
    ),
    Opcode.READ_CAPACITY_10: (_six("READ CAPACITY(10)", reserved(64)), _I),
    Opcode.READ_6: (_READ_WRITE_6, _I),
    Opcode.READ_10: (_READ_WRITE_10, _I),
    Opcode.READ_12: (_READ_WRITE_12, _I),
    Opcode.READ_16: (_READ_WRITE_16, _I),
    Opcode.WRITE_6: (_READ_WRITE_6, _O),
    Opcode.WRITE_10: (_READ_WRITE_10, _O),
    Opcode.WRITE_12: (_READ_WRITE_12, _O),
    Opcode.WRITE_16: (_READ_WRITE_16, _O),
    Opcode.ORWRITE_16: (_READ_WRITE_16, _O),
    Opcode.WRITE_AND_VERIFY_10: (_VERIFY_10, _O),
    Opcode.WRITE_AND_VERIFY_12: (_VERIFY_12, _O),
    Opcode.WRITE_AND_VERIFY_16: (_VERIFY_16, _O),
    Opcode.VERIFY_10: (_VERIFY_10, _O),
    Opcode.VERIFY_12: (_VERIFY_12, _O),
    Opcode.VERIFY_16: (_VERIFY_16, _O),
    Opcode.PRE_FETCH_10: (_CACHE_10, _N),
    Opcode.PRE_FETCH_16: (_CACHE_16, _N),
    Opcode.SYNCHRONIZE_CACHE_10: (_CACHE_10, _N),
    Opcode.SYNCHRONIZE_CACHE_16: (_CACHE_16, _N),
}
"""Operation code -> its CDB and the direction of its data."""

_RESERVE_IN = _six(
    "PERSISTENT RESERVE IN", *_SERVICE_ACTION, reserved(40), uint("allocation_length", 16)
)
_RESERVE_OUT = _six(
    "PERSISTENT RESERVE OUT",
    *_SERVICE_ACTION,
    uint("scope", 4),
    uint("reservation_type", 4),
    reserved(16),
    uint("parameter_list_length", 32),
)
_CAPACITY_16 = _six(
    "READ CAPACITY(16)",
    *_SERVICE_ACTION,
    reserved(64),
    uint("allocation_length", 32),
    reserved(8),
)
_LBA_STATUS = _six(
    "GET LBA STATUS",
    *_SERVICE_ACTION,
    uint("lba", 64),
    uint("allocation_length", 32),
    reserved(8),
)
_MAINTENANCE_IN = _six(
    "MAINTENANCE IN",
    uint("parameter_data_format", 3),
    uint("service_action", 5),
    reserved(32),
    uint("allocation_length", 32),
    reserved(8),
)
_SUPPORTED_OPCODES = _six(
    "REPORT SUPPORTED OPERATION CODES",
    *_SERVICE_ACTION,
    flag("return_timeouts"),
    reserved(4),
    uint("reporting_options", 3),
    uint("requested_opcode", 8),
    uint("requested_service_action", 16),
    uint("allocation_length", 32),
    reserved(8),
)
_MAINTENANCE_OUT = _six(
    "MAINTENANCE OUT",
    *_SERVICE_ACTION,
    reserved(32),
    uint("parameter_list_length", 32),
    reserved(8),
)

SERVICE_ACTION_LAYOUTS: dict[tuple[int, int], tuple[Layout, Direction]] = {
    **{(Opcode.PERSISTENT_RESERVE_IN, a): (_RESERVE_IN, _I) for a in PersistentReserveIn},
    **{(Opcode.PERSISTENT_RESERVE_OUT, a): (_RESERVE_OUT, _O) for a in PersistentReserveOut},
    (Opcode.SERVICE_ACTION_IN_16, ServiceActionIn.READ_CAPACITY_16): (_CAPACITY_16, _I),
    (Opcode.SERVICE_ACTION_IN_16, ServiceActionIn.GET_LBA_STATUS): (_LBA_STATUS, _I),
    (Opcode.SERVICE_ACTION_IN_16, ServiceActionIn.REPORT_REFERRALS): (_LBA_STATUS, _I),
    (Opcode.MAINTENANCE_IN, MaintenanceIn.REPORT_SUPPORTED_OPERATION_CODES): (
        _SUPPORTED_OPCODES,
        _I,
    ),
    (Opcode.MAINTENANCE_IN, MaintenanceIn.REPORT_TARGET_PORT_GROUPS): (_MAINTENANCE_IN, _I),
    (Opcode.MAINTENANCE_IN, MaintenanceIn.REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS): (
        _MAINTENANCE_IN,
        _I,
    ),
    (Opcode.MAINTENANCE_OUT, MaintenanceOut.SET_TARGET_PORT_GROUPS): (_MAINTENANCE_OUT, _O),
}
"""Operation code and service action -> the CDB and the direction of its data."""

for _code, (_declared, _) in LAYOUTS.items():
    if _declared.size != cdb_length(_code):
        raise AssertionError(f"{_declared.title} is declared with {_declared.size} bytes")
for (_code, _action), (_declared, _) in SERVICE_ACTION_LAYOUTS.items():
    if _declared.size != cdb_length(_code):
        raise AssertionError(f"{_declared.title} is declared with {_declared.size} bytes")
