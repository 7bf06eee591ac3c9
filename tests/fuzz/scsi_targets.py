# SPDX-License-Identifier: Apache-2.0
"""Everything that a logical unit says of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyscsi_init import scsi
from pyscsi_init.scsi import (
    BlockDeviceCharacteristics,
    BlockLimits,
    CachingPage,
    ControlPage,
    DeviceIdentification,
    LogicalBlockProvisioning,
    ModeParameters,
    ReadCapacity10,
    ReadCapacity16,
    RegisteredKeys,
    ReservationCapabilities,
    ReservationStatus,
    ReserveOutParameters,
    StandardInquiry,
    SupportedPages,
    TargetPortGroups,
    UnitSerialNumber,
)
from tests.fuzz.target import FuzzTarget

DESIGNATORS = bytes.fromhex(
    "00830044"
    "01030010600140500000000000000000deadbeef"  # NAA, 16 bytes
    "01030008500140512345678f"
    "02010010" + b"VENDOR  serial-1".hex() + "51940004000000020115000400000001"
)
SENSE = [
    bytes.fromhex("700006000000000a00000000290000000000"),
    bytes.fromhex("f00005123456780a00000000240000c00005"),
    bytes.fromhex("72062900000000140010060002800000000000001234000a80000000000000ff0102"),
    bytes.fromhex("730300110000000c000a8000000000000000ffff"),
]


def parser(parse: Callable[[bytes], Any]) -> Callable[[bytes], None]:
    """What was understood can be printed, and does not depend on how it was given."""

    def run(data: bytes) -> None:
        parsed = parse(data)
        assert repr(parsed)
        assert parse(memoryview(data)) == parsed  # type: ignore[arg-type]

    return run


def sense(data: bytes) -> None:
    parsed = scsi.parse_sense(data)
    assert repr(parsed)
    scsi.sense_action(parsed)
    assert str(scsi.scsi_error(2, data, "READ(10)"))
    assert scsi.sense_text(parsed.asc, parsed.ascq)


def identification(data: bytes) -> None:
    page = DeviceIdentification.parse(data)
    for designator in page.designators:
        assert designator.text.isprintable()
    scsi.logical_unit_designators(page.designators)


def cdb(data: bytes) -> None:
    parsed = scsi.parse_cdb(data)
    assert parsed.name
    assert parsed.data_length(512) >= 0
    scsi.describe_cdb(data)


def luns(data: bytes) -> None:
    scsi.report_luns_length(data)
    for lun in scsi.parse_report_luns(data):
        assert scsi.lun_text(lun)
        scsi.decode_lun(lun)


def _page(code: int, body: str) -> bytes:
    data = bytes.fromhex(body)
    return bytes([0, code]) + len(data).to_bytes(2, "big") + data


INQUIRY = bytes.fromhex("00000612 5b000002") + b"VENDOR  PRODUCT ID      1.00" + bytes(60)
MODE_6 = bytes.fromhex("2300001008000000000002000812" + "0400" + "00" * 16 + "0a0a" + "00" * 10)
MODE_10 = bytes.fromhex("0030001000000008" + "0000000000000200" + "0812" + "0400" + "00" * 16)
ALUA = bytes.fromhex(
    "00000018" + "00 0f 0001 00 01 00 02 00000001 00000002" + "010f000200020001 00000003"
)

PARSERS: list[tuple[str, Callable[[bytes], Any], list[bytes]]] = [
    ("inquiry", StandardInquiry.parse, [INQUIRY]),
    ("vpd 00h", SupportedPages.parse, [_page(0x00, "0080 83b0 b1b2")]),
    ("vpd 80h", UnitSerialNumber.parse, [_page(0x80, b"serial".hex())]),
    ("vpd 83h", DeviceIdentification.parse, [DESIGNATORS]),
    ("vpd b0h", BlockLimits.parse, [_page(0xB0, "0001" + "0008" * 7 + "00000001" * 10)]),
    ("vpd b1h", BlockDeviceCharacteristics.parse, [_page(0xB1, "0001" + "00" * 58)]),
    ("vpd b2h", LogicalBlockProvisioning.parse, [_page(0xB2, "00e40200")]),
    ("vpd length", scsi.vpd_length, [DESIGNATORS]),
    ("mode 6", ModeParameters.parse_6, [MODE_6]),
    ("mode 10", ModeParameters.parse_10, [MODE_10]),
    ("mode caching", CachingPage.parse, [bytes.fromhex("08120400") + bytes(16)]),
    ("mode control", ControlPage.parse, [bytes.fromhex("0a0a0200") + bytes(8)]),
    ("capacity 10", ReadCapacity10.parse, [bytes.fromhex("0000ffff00000200")]),
    ("capacity 16", ReadCapacity16.parse,
     [bytes.fromhex("00000000ffffffff00000200000003c0") + bytes(16)]),
    ("reservation keys", RegisteredKeys.parse, [bytes.fromhex("0000000100000010") + b"k" * 16]),
    ("reservation", ReservationStatus.parse,
     [bytes.fromhex("0000000100000010") + b"k" * 8 + bytes.fromhex("0000000000050000")]),
    ("reservation capabilities", ReservationCapabilities.parse,
     [bytes.fromhex("00081980ea010000")]),
    ("reserve out", ReserveOutParameters.parse, [b"k" * 16 + bytes(8)]),
    ("port groups", TargetPortGroups.parse, [ALUA]),
]  # fmt: skip

TARGETS = [
    *(FuzzTarget(f"scsi {name}", parser(parse), seeds) for name, parse, seeds in PARSERS),
    FuzzTarget("scsi sense", sense, SENSE, weight=3),
    FuzzTarget("scsi designators", identification, [DESIGNATORS], weight=2),
    FuzzTarget("scsi cdb", cdb, [
        bytes.fromhex("28000000000000000800"),
        bytes.fromhex("88000000000000000000000000080000"),
        bytes.fromhex("9e100000000000000000000000200000"),
        bytes.fromhex("5f01050000000000180000"),
    ]),
    FuzzTarget("scsi report luns", luns,
               [bytes.fromhex("0000001000000000") + bytes(8) + b"\0\1" + bytes(6)]),
]  # fmt: skip
