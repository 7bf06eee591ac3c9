# SPDX-License-Identifier: Apache-2.0
"""CDBs of the primary commands (SPC-4 clause 6): what every logical unit understands.

Each function gives the bytes of one CDB. The allocation length is always the caller's: it is also
the Expected Data Transfer Length of the transport, and both must be the same number. What comes
back is parsed in the module of that structure. Nothing here knows what a logical unit supports.
"""

from __future__ import annotations

from ..errors import LocalProtocolError
from .opcodes import (
    MaintenanceIn,
    MaintenanceOut,
    Opcode,
    PersistentReserveIn,
    PersistentReserveOut,
)
from .packing import CdbFormat

_TEST_UNIT_READY = CdbFormat("TEST UNIT READY", 6, "B5x")
_REQUEST_SENSE = CdbFormat("REQUEST SENSE", 6, "BB2xBx")
_INQUIRY = CdbFormat("INQUIRY", 6, "BBBHx")
_MODE_SENSE_6 = CdbFormat("MODE SENSE(6)", 6, "BBBBBx")
_MODE_SENSE_10 = CdbFormat("MODE SENSE(10)", 10, "BBBB3xHx")
_REPORT_LUNS = CdbFormat("REPORT LUNS", 12, "BxB3xI2x")
_RESERVE_IN = CdbFormat("PERSISTENT RESERVE IN", 10, "BB5xHx")
_RESERVE_OUT = CdbFormat("PERSISTENT RESERVE OUT", 10, "BBB2xIx")
_MAINTENANCE = CdbFormat("MAINTENANCE IN", 12, "BB4xI2x")
_SUPPORTED_OPCODES = CdbFormat("REPORT SUPPORTED OPERATION CODES", 12, "BBBBHI2x")

_EVPD = 0x01
_DESC = 0x01
_DBD = 0x08
_LLBAA = 0x10
_LARGEST_PAGE = 0x3F
_EXTENDED_HEADER = 0x20

ALL_PAGES = 0x3F
"""MODE SENSE page code: every page (SPC-4 table 147)."""


def test_unit_ready() -> bytes:
    """TEST UNIT READY (6.47): no data."""
    return _TEST_UNIT_READY.pack(Opcode.TEST_UNIT_READY)


def request_sense(allocation_length: int = 252, *, descriptor_format: bool = False) -> bytes:
    """REQUEST SENSE (6.39); 252 is the most that sense data can have (SPC-4 4.5.1)."""
    desc = _DESC if descriptor_format else 0
    return _REQUEST_SENSE.pack(Opcode.REQUEST_SENSE, desc, allocation_length)


def inquiry(allocation_length: int, page: int | None = None) -> bytes:
    """INQUIRY (6.6): the standard data, or a vital product data page."""
    evpd = 0 if page is None else _EVPD
    return _INQUIRY.pack(Opcode.INQUIRY, evpd, page or 0, allocation_length)


def mode_sense_6(
    page: int, allocation_length: int = 255, subpage: int = 0, dbd: bool = False
) -> bytes:
    """MODE SENSE(6) (6.13) of the current values. ``dbd``: without block descriptors."""
    _check_page(page)
    flags = _DBD if dbd else 0
    return _MODE_SENSE_6.pack(Opcode.MODE_SENSE_6, flags, page, subpage, allocation_length)


def mode_sense_10(
    page: int,
    allocation_length: int = 255,
    subpage: int = 0,
    dbd: bool = False,
    *,
    long_lba_accepted: bool = False,
) -> bytes:
    """MODE SENSE(10) (6.14) of the current values."""
    _check_page(page)
    flags = (_DBD if dbd else 0) | (_LLBAA if long_lba_accepted else 0)
    return _MODE_SENSE_10.pack(Opcode.MODE_SENSE_10, flags, page, subpage, allocation_length)


def _check_page(page: int) -> None:
    # The two bits above the page code would ask for other than current values.
    if not 0 <= page <= _LARGEST_PAGE:
        raise LocalProtocolError(f"mode page {page:#x} is not between 0 and 3Fh")


def report_luns(allocation_length: int, select: int = 0) -> bytes:
    """REPORT LUNS (6.33). ``select``: 0 ordinary, 1 well known, 2 all. At least 16 bytes."""
    if allocation_length < 16:
        raise LocalProtocolError("REPORT LUNS needs an allocation length of at least 16 (SPC-4)")
    return _REPORT_LUNS.pack(Opcode.REPORT_LUNS, select, allocation_length)


def persistent_reserve_in(action: PersistentReserveIn, allocation_length: int) -> bytes:
    """PERSISTENT RESERVE IN (6.15)."""
    return _RESERVE_IN.pack(Opcode.PERSISTENT_RESERVE_IN, action, allocation_length)


def persistent_reserve_out(
    action: PersistentReserveOut,
    *,
    reservation_type: int = 0,
    scope: int = 0,
    parameter_list_length: int = 24,
) -> bytes:
    """PERSISTENT RESERVE OUT (6.16); the parameter list has 24 bytes without TransportIDs."""
    if not (0 <= scope <= 0xF and 0 <= reservation_type <= 0xF):
        raise LocalProtocolError(
            f"scope {scope} and type {reservation_type} of a persistent reservation: "
            "each has 4 bits, see ReservationType"
        )
    return _RESERVE_OUT.pack(
        Opcode.PERSISTENT_RESERVE_OUT,
        action,
        scope << 4 | reservation_type,
        parameter_list_length,
    )


def report_target_port_groups(allocation_length: int, *, extended_header: bool = False) -> bytes:
    """REPORT TARGET PORT GROUPS (6.37)."""
    action = MaintenanceIn.REPORT_TARGET_PORT_GROUPS | (_EXTENDED_HEADER if extended_header else 0)
    return _MAINTENANCE.pack(Opcode.MAINTENANCE_IN, action, allocation_length)


def set_target_port_groups(parameter_list_length: int) -> bytes:
    """SET TARGET PORT GROUPS (6.45)."""
    action = MaintenanceOut.SET_TARGET_PORT_GROUPS
    return _MAINTENANCE.pack(Opcode.MAINTENANCE_OUT, action, parameter_list_length)


def report_supported_operation_codes(
    allocation_length: int, *, opcode: int | None = None, service_action: int | None = None
) -> bytes:
    """REPORT SUPPORTED OPERATION CODES (6.35): all, or one command with its usage map."""
    if opcode is None and service_action is not None:
        raise LocalProtocolError("a service action is asked for without its operation code")
    options = (opcode is not None) + (service_action is not None)
    return _SUPPORTED_OPCODES.pack(
        Opcode.MAINTENANCE_IN,
        MaintenanceIn.REPORT_SUPPORTED_OPERATION_CODES,
        options,
        opcode or 0,
        service_action or 0,
        allocation_length,
    )
