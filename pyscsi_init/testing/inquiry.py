# SPDX-License-Identifier: Apache-2.0
"""INQUIRY: standard data and vital product data pages (SPC-4 6.6 and 7.8, SBC-3 6.5).

The pages are laid out here by hand, byte for byte, instead of with the initiator's builders: the
target is an oracle for those.
"""

from __future__ import annotations

from collections.abc import Callable

from .commands import Command, command
from .conditions import INVALID_FIELD_IN_CDB, Condition, Result
from .reservations import Access
from .unit import LogicalUnit

MOST_TRANSFER_BYTES = 8 << 20
MOST_UNMAP_BLOCKS = 1 << 20
MOST_UNMAP_DESCRIPTORS = 256
MOST_WRITE_SAME_BLOCKS = 1 << 15
MOST_COMPARE_AND_WRITE_BLOCKS = 64
NO_LOGICAL_UNIT = 0x7F
"""PERIPHERAL QUALIFIER 3, type 1Fh: there is no logical unit at this LUN."""

VERSION_DESCRIPTORS = (0x00A0, 0x0960, 0x0460, 0x04C0)
"""SAM-5, iSCSI, SPC-4, SBC-3, each without a claim to a revision."""

Page = Callable[[LogicalUnit, Command], bytes]


def _text(value: str, width: int) -> bytes:
    return value.encode("ascii", "replace")[:width].ljust(width)


def standard_data(unit: LogicalUnit | None) -> bytes:
    """Standard INQUIRY data, 96 bytes; without a unit those of an empty LUN."""
    # TPGS: access states that change by themselves, or on request too.
    groups = 0 if unit is None or not unit.access_states else 0x10
    groups |= 0x20 if unit is not None and unit.explicit_access_states else 0
    # Byte 3: HISUP and response data format 2; byte 7: CMDQUE.
    head = bytes((NO_LOGICAL_UNIT if unit is None else 0, 0, 0x06, 0x12, 91, groups, 0, 0x02))
    if unit is None:
        names = _text("PYSCSI", 8) + _text("NO LOGICAL UNIT", 16) + _text("", 4)
    else:
        names = _text(unit.vendor, 8) + _text(unit.product, 16) + _text(unit.revision, 4)
    versions = b"".join(value.to_bytes(2, "big") for value in VERSION_DESCRIPTORS)
    return (head + names + bytes(22) + versions).ljust(96, b"\0")


def _supported_pages(_unit: LogicalUnit, _command: Command) -> bytes:
    return bytes(sorted(PAGES))


def _serial_number(unit: LogicalUnit, _command: Command) -> bytes:
    return unit.disk.serial.encode("ascii", "replace")


def _designator(code_set: int, association: int, kind: int, value: bytes) -> bytes:
    protocol = 0x50 if association else 0  # iSCSI, told with PIV where it concerns a port
    piv = 0x80 if association else 0
    return bytes((protocol | code_set, piv | association << 4 | kind, 0, len(value))) + value


def _device_identification(unit: LogicalUnit, command: Command) -> bytes:
    port = command.nexus.target_port.encode() + b"\0"
    port += bytes(-len(port) % 4)
    tag = command.nexus.target_portal_group_tag
    return (
        _designator(1, 0, 3, unit.naa)
        + _designator(2, 0, 1, _text(unit.vendor, 8) + unit.disk.serial.encode("ascii", "replace"))
        + _designator(1, 1, 4, bytes(2) + tag.to_bytes(2, "big"))
        + _designator(1, 1, 5, bytes(2) + tag.to_bytes(2, "big"))
        + _designator(3, 1, 8, port)
    )


def _block_limits(unit: LogicalUnit, _command: Command) -> bytes:
    thin = unit.disk.thin
    most = MOST_TRANSFER_BYTES // unit.block_size
    page = bytearray(60)
    page[1] = MOST_COMPARE_AND_WRITE_BLOCKS
    page[2:4] = (4096 // unit.block_size).to_bytes(2, "big")
    page[4:8] = most.to_bytes(4, "big")
    page[8:12] = most.to_bytes(4, "big")
    page[16:20] = (MOST_UNMAP_BLOCKS if thin else 0).to_bytes(4, "big")
    page[20:24] = (MOST_UNMAP_DESCRIPTORS if thin else 0).to_bytes(4, "big")
    page[24:28] = (1 if thin else 0).to_bytes(4, "big")
    page[28:32] = (0x80000000 if thin else 0).to_bytes(4, "big")
    page[32:40] = MOST_WRITE_SAME_BLOCKS.to_bytes(8, "big")
    return bytes(page)


def _block_device_characteristics(_unit: LogicalUnit, _command: Command) -> bytes:
    return bytes((0, 1)) + bytes(58)  # MEDIUM ROTATION RATE 0001h: does not rotate


def _logical_block_provisioning(unit: LogicalUnit, _command: Command) -> bytes:
    # LBPU, LBPWS, LBPWS10, LBPRZ (unmapped blocks read as zeros); provisioning type 2: thin
    flags = 0x80 | 0x40 | 0x20 | 0x04
    return bytes((0, flags, 2, 0)) if unit.disk.thin else bytes(4)


PAGES: dict[int, Page] = {
    0x00: _supported_pages,
    0x80: _serial_number,
    0x83: _device_identification,
    0xB0: _block_limits,
    0xB1: _block_device_characteristics,
    0xB2: _logical_block_provisioning,
}


def inquire(unit: LogicalUnit | None, command: Command) -> Result:
    """INQUIRY, also for a LUN without a logical unit."""
    evpd, page = command.cdb[1] & 0x01, command.cdb[2]
    allocation_length = int.from_bytes(command.cdb[3:5], "big")
    if not evpd:
        if page:
            raise Condition(INVALID_FIELD_IN_CDB)
        return Result(data=standard_data(unit)[:allocation_length])
    if unit is None or page not in PAGES:
        raise Condition(INVALID_FIELD_IN_CDB)
    body = PAGES[page](unit, command)
    data = bytes((0, page)) + len(body).to_bytes(2, "big") + body
    return Result(data=data[:allocation_length])


@command(0x12, "01 ff ff ff 07", access=Access.ALWAYS, passes_attention=True)
def inquiry(unit: LogicalUnit, command: Command) -> Result:
    """INQUIRY."""
    return inquire(unit, command)
