# SPDX-License-Identifier: Apache-2.0
"""Golden CDBs of the block commands, written out from SBC-3 clause 5 by hand."""

from __future__ import annotations

import struct

import pytest

from pyscsi_init.errors import LocalProtocolError
from pyscsi_init.scsi import sbc

LBA_32 = 0x01020304
LBA_64 = 0x0102030405060708


@pytest.mark.conformance("SCSI-022")
@pytest.mark.conformance("SCSI-027")
@pytest.mark.conformance("SCSI-028")
@pytest.mark.parametrize(
    ("cdb", "golden"),
    [
        (sbc.read_capacity_10(), "25 00 00000000 0000 00 00"),
        (sbc.read_capacity_16(), "9e 10 0000000000000000 00000020 00 00"),
        (sbc.get_lba_status(LBA_64, 24), "9e 12 0102030405060708 00000018 00 00"),
        (sbc.read_10(LBA_32, 0x1234), "28 00 01020304 00 1234 00"),
        (sbc.read_10(LBA_32, 8, fua=True), "28 08 01020304 00 0008 00"),
        (sbc.read_10(LBA_32, 8, dpo=True), "28 10 01020304 00 0008 00"),
        (sbc.read_10(0xFFFFFFFF, 0xFFFF, True, True), "28 18 ffffffff 00 ffff 00"),
        (sbc.read_10(0, 0), "28 00 00000000 00 0000 00"),
        (sbc.read_16(LBA_64, 0x10000), "88 00 0102030405060708 00010000 00 00"),
        (sbc.read_16(LBA_64, 8, fua=True), "88 08 0102030405060708 00000008 00 00"),
        (sbc.write_10(LBA_32, 8), "2a 00 01020304 00 0008 00"),
        (sbc.write_10(LBA_32, 8, fua=True), "2a 08 01020304 00 0008 00"),
        (sbc.write_16(LBA_64, 8), "8a 00 0102030405060708 00000008 00 00"),
        (sbc.write_16(LBA_64, 8, True, True), "8a 18 0102030405060708 00000008 00 00"),
        (sbc.synchronize_cache_10(), "35 00 00000000 00 0000 00"),
        (sbc.synchronize_cache_10(LBA_32, 7, immed=True), "35 02 01020304 00 0007 00"),
        (sbc.synchronize_cache_16(), "91 00 0000000000000000 00000000 00 00"),
        (sbc.synchronize_cache_16(LBA_64, 7, immed=True), "91 02 0102030405060708 00000007 00 00"),
        (sbc.unmap(24), "42 00 00000000 00 0018 00"),
        (sbc.unmap(24, anchor=True), "42 01 00000000 00 0018 00"),
        (sbc.write_same_10(LBA_32, 9), "41 00 01020304 00 0009 00"),
        (sbc.write_same_10(LBA_32, 9, unmap=True), "41 08 01020304 00 0009 00"),
        (sbc.write_same_10(LBA_32, 9, True, anchor=True), "41 18 01020304 00 0009 00"),
        (sbc.write_same_16(LBA_64, 9), "93 00 0102030405060708 00000009 00 00"),
        (sbc.write_same_16(LBA_64, 9, unmap=True), "93 08 0102030405060708 00000009 00 00"),
        (sbc.write_same_16(LBA_64, 9, ndob=True), "93 01 0102030405060708 00000009 00 00"),
        (sbc.write_same_16(LBA_64, 9, True, True, True), "93 19 0102030405060708 00000009 00 00"),
        (sbc.compare_and_write(LBA_64, 1), "89 00 0102030405060708 000000 01 00 00"),
        (sbc.compare_and_write(7, 255, True, True), "89 18 0000000000000007 000000 ff 00 00"),
        (sbc.verify_10(LBA_32, 8), "2f 00 01020304 00 0008 00"),
        (sbc.verify_10(LBA_32, 8, 1), "2f 02 01020304 00 0008 00"),
        (sbc.verify_10(LBA_32, 8, 3, dpo=True), "2f 16 01020304 00 0008 00"),
        (sbc.verify_16(LBA_64, 0x10000), "8f 00 0102030405060708 00010000 00 00"),
        (sbc.verify_16(LBA_64, 8, 1), "8f 02 0102030405060708 00000008 00 00"),
        (sbc.write_and_verify_10(LBA_32, 8), "2e 00 01020304 00 0008 00"),
        (sbc.write_and_verify_10(LBA_32, 8, 1, True), "2e 12 01020304 00 0008 00"),
        (sbc.write_and_verify_16(LBA_64, 8, 1), "8e 02 0102030405060708 00000008 00 00"),
        (sbc.start_stop_unit(start=True), "1b 00 0000 01 00"),
        (sbc.start_stop_unit(start=False, load_eject=True, immed=True), "1b 01 0000 02 00"),
    ],
)
def test_golden_cdb(cdb: bytes, golden: str) -> None:
    assert cdb == bytes.fromhex(golden)


@pytest.mark.parametrize(
    ("build", "lba", "blocks"),
    [
        (sbc.read_10, 0x1_0000_0000, 1),
        (sbc.read_10, 0, 0x10000),
        (sbc.write_10, -1, 1),
        (sbc.read_16, 1 << 64, 1),
        (sbc.write_16, 0, 1 << 32),
        (sbc.synchronize_cache_10, 1 << 32, 0),
        (sbc.write_same_16, 0, 1 << 32),
        (sbc.compare_and_write, 0, 256),
        (sbc.verify_10, 1 << 32, 1),
        (sbc.verify_16, 0, 1 << 32),
        (sbc.write_and_verify_10, 0, 0x10000),
        (sbc.write_and_verify_16, 1 << 64, 1),
    ],
)
def test_a_value_that_does_not_fit_is_the_callers_error(build, lba: int, blocks: int) -> None:
    with pytest.raises(LocalProtocolError, match="cannot hold"):
        build(lba, blocks)


@pytest.mark.conformance("SCSI-022")
@pytest.mark.parametrize(
    ("lba", "blocks", "fits"),
    [
        (0, 0, True),
        (0xFFFFFFFF, 0xFFFF, True),
        (0x1_0000_0000, 1, False),
        (0xFFFFFFFF, 0x10000, False),
    ],
)
def test_the_10_byte_form_fits_up_to_its_fields(lba: int, blocks: int, fits: bool) -> None:
    assert sbc.fits_10(lba, blocks) is fits


@pytest.mark.conformance("SCSI-026")
def test_unmap_list_of_two_ranges() -> None:
    data = sbc.unmap_parameter_list([(0x11, 0x22), (LBA_64, 0xFFFFFFFF)])
    assert data == bytes.fromhex(
        "0026 0020 00000000"  # UNMAP DATA LENGTH n-1, BLOCK DESCRIPTOR DATA LENGTH n-7
        "0000000000000011 00000022 00000000"
        "0102030405060708 ffffffff 00000000"
    )
    data_length, descriptor_length = struct.unpack_from(">HH", data)
    assert data_length == len(data) - 2
    assert descriptor_length == len(data) - 8


def test_an_empty_unmap_list_has_a_header_only() -> None:
    assert sbc.unmap_parameter_list([]) == bytes.fromhex("0006 0000 00000000")


@pytest.mark.parametrize("ranges", [[(0, 1 << 32)], [(1 << 64, 1)], [(0, 1)] * 4096])
def test_an_unmap_list_that_cannot_be_built_is_refused(ranges: list[tuple[int, int]]) -> None:
    with pytest.raises(LocalProtocolError):
        sbc.unmap_parameter_list(ranges)


@pytest.mark.parametrize("byte_check", [-1, 4])
def test_bytchk_has_two_bits(byte_check: int) -> None:
    with pytest.raises(LocalProtocolError, match="BYTCHK"):
        sbc.verify_10(0, 1, byte_check)
