# SPDX-License-Identifier: Apache-2.0
"""Reading CDBs: every packed builder against its declaration, and any bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import ProtocolError
from pyscsi_init.scsi import (
    Direction,
    PersistentReserveIn,
    PersistentReserveOut,
    cdb_length,
    command_name,
    describe_cdb,
    parse_cdb,
    sbc,
    spc,
)
from pyscsi_init.scsi.cdb_layouts import LAYOUTS, SERVICE_ACTION_LAYOUTS

LBA_10 = st.integers(0, 0xFFFFFFFF)
LBA_16 = st.integers(0, (1 << 64) - 1)
BLOCKS_10 = st.integers(0, 0xFFFF)
BLOCKS_16 = st.integers(0, 0xFFFFFFFF)
IN, OUT, NONE = Direction.IN, Direction.OUT, Direction.NONE


@given(LBA_10, BLOCKS_10, st.booleans(), st.booleans())
def test_the_packed_10_byte_cdbs_are_the_declared_ones(
    lba: int, blocks: int, fua: bool, dpo: bool
) -> None:
    for build, direction in ((sbc.read_10, IN), (sbc.write_10, OUT)):
        cdb = build(lba, blocks, fua, dpo)
        parsed = parse_cdb(cdb)
        assert (parsed.lba, parsed.blocks, parsed.fua, parsed.dpo) == (lba, blocks, fua, dpo)
        assert parsed.direction is direction
        layout, _ = LAYOUTS[cdb[0]]
        assert layout.build_from(parsed) == cdb


@given(LBA_16, BLOCKS_16, st.booleans(), st.booleans())
def test_the_packed_16_byte_cdbs_are_the_declared_ones(
    lba: int, blocks: int, fua: bool, dpo: bool
) -> None:
    for build, direction in ((sbc.read_16, IN), (sbc.write_16, OUT)):
        cdb = build(lba, blocks, fua, dpo)
        parsed = parse_cdb(cdb)
        assert (parsed.lba, parsed.blocks, parsed.fua, parsed.dpo) == (lba, blocks, fua, dpo)
        assert parsed.direction is direction
        layout, _ = LAYOUTS[cdb[0]]
        assert layout.build_from(parsed) == cdb


@given(LBA_16, BLOCKS_16, st.booleans(), st.booleans(), st.booleans())
def test_write_same_and_synchronize_cache_come_back(
    lba: int, blocks: int, one: bool, two: bool, three: bool
) -> None:
    same = parse_cdb(sbc.write_same_16(lba, blocks, one, two, three))
    assert (same.lba, same.blocks) == (lba, blocks)
    assert (same.unmap, same.anchor, same.ndob) == (one, two, three)
    assert same.data_length(512) == (0 if three else 512)
    assert same.direction is (NONE if three else OUT)
    flush = parse_cdb(sbc.synchronize_cache_16(lba, blocks, one))
    assert (flush.lba, flush.blocks, flush.immed) == (lba, blocks, one)
    assert flush.data_length(512) == 0


BUILT = [
    spc.test_unit_ready(),
    spc.request_sense(),
    spc.inquiry(255, 0x83),
    spc.mode_sense_6(8, dbd=True),
    spc.mode_sense_10(0x3F, 512, 0xFF, long_lba_accepted=True),
    spc.report_luns(4096, 2),
    *[spc.persistent_reserve_in(action, 256) for action in PersistentReserveIn],
    *[
        spc.persistent_reserve_out(action, reservation_type=5, scope=0)
        for action in PersistentReserveOut
    ],
    spc.report_target_port_groups(64, extended_header=True),
    spc.set_target_port_groups(8),
    spc.report_supported_operation_codes(20, opcode=0x9E, service_action=0x10),
    sbc.read_capacity_10(),
    sbc.read_capacity_16(),
    sbc.get_lba_status(77, 24),
    sbc.synchronize_cache_10(1, 2, immed=True),
    sbc.unmap(24, anchor=True),
    sbc.write_same_10(1, 2, unmap=True, anchor=True),
    sbc.compare_and_write(5, 1, fua=True),
    sbc.verify_10(5, 2, 1, dpo=True),
    sbc.verify_16(5, 2, 3),
    sbc.write_and_verify_10(5, 2, 1),
    sbc.write_and_verify_16(5, 2, dpo=True),
    sbc.start_stop_unit(start=True, load_eject=True, immed=True),
]


@pytest.mark.parametrize("cdb", BUILT, ids=command_name)
def test_every_builder_agrees_with_its_declaration(cdb: bytes) -> None:
    parsed = parse_cdb(cdb)
    row = SERVICE_ACTION_LAYOUTS.get((cdb[0], cdb[1] & 0x1F)) or LAYOUTS[cdb[0]]
    assert row[0].build_from(parsed) == cdb
    assert len(cdb) == cdb_length(cdb[0])
    assert parse_cdb(cdb.ljust(16, b"\0")) == parsed
    assert parsed.name == command_name(cdb)


@pytest.mark.parametrize(
    ("cdb", "direction", "length"),
    [
        ("00 0000000000", NONE, 0),
        ("12 00 00 0024 00", IN, 36),
        ("25" + "00" * 9, IN, 8),
        ("08 000001 00 00", IN, 256 * 512),  # READ(6): 0 is 256
        ("0a 1fffff 01 00", OUT, 512),
        ("28 00 00000001 00 0000 00", IN, 0),
        ("a8 00 00000001 00010000 00 00", IN, 65536 * 512),
        ("aa 00 00000001 00000002 00 00", OUT, 1024),
        ("8b 00 0000000000000001 00000002 00 00", OUT, 1024),
        ("89 00 0000000000000001 000000 02 00 00", OUT, 2048),
        ("2e 02 00000001 00 0003 00", OUT, 1536),
        ("ae 00 00000001 00000003 00 00", OUT, 1536),
        ("8e 00 0000000000000001 00000003 00 00", OUT, 1536),
        ("2f 00 00000001 00 0003 00", NONE, 0),  # VERIFY of the medium only
        ("2f 02 00000001 00 0003 00", OUT, 1536),  # BYTCHK 01b
        ("8f 06 0000000000000001 00000003 00 00", OUT, 512),  # BYTCHK 11b: one block
        ("af 06 00000001 00000000 00 00", OUT, 0),
        ("34 00 00000001 00 0003 00", NONE, 0),
        ("90 02 0000000000000001 00000003 00 00", NONE, 0),
        ("41 00 00000001 00 0003 00", OUT, 512),
        ("42 00 00000000 00 0018 00", OUT, 24),
        ("15 10 0000 18 00", OUT, 24),
        ("55 11 0000000000 0018 00", OUT, 24),
        ("16 0000000000", NONE, 0),
        ("17 0000000000", NONE, 0),
        ("1e 000000 01 00", NONE, 0),
        ("5f 06 05 0000 00000018 00", OUT, 24),
        ("a3 0d 00000000 00000010 00 00", IN, 16),
    ],
)
def test_direction_and_length(cdb: str, direction: Direction, length: int) -> None:
    parsed = parse_cdb(bytes.fromhex(cdb))
    assert parsed.direction is direction
    assert parsed.data_length(512) == length


def test_fields() -> None:
    assert parse_cdb(bytes.fromhex("0a 1fffff 01 00")).lba == 0x1FFFFF
    assert parse_cdb(bytes.fromhex("0a ffffff 01 00")).lba == 0x1FFFFF  # reserved bits
    sense = parse_cdb(bytes.fromhex("1a 08 7f 02 ff 04"))
    assert (sense.page_control, sense.page_code, sense.subpage_code) == (1, 0x3F, 2)
    assert sense.dbd
    assert sense.naca
    verify = parse_cdb(bytes.fromhex("2e f6 00000001 05 0003 00"))
    assert (verify.protect, verify.dpo, verify.byte_check, verify.group_number) == (7, True, 3, 5)
    select = parse_cdb(bytes.fromhex("15 11 0000 18 00"))
    assert (select.page_format, select.save_pages) == (True, True)
    stop = parse_cdb(bytes.fromhex("1b 01 0000 32 00"))
    assert (stop.immed, stop.power_condition, stop.load_eject, stop.start) == (True, 3, True, False)
    assert parse_cdb(bytes.fromhex("1e 000000 03 00")).prevent == 3
    reserve = parse_cdb(bytes.fromhex("5f 01 16 0000 00000018 00"))
    assert (reserve.service_action, reserve.scope, reserve.reservation_type) == (1, 1, 6)
    codes = parse_cdb(bytes.fromhex("a3 0c 82 9e 0010 00000014 00 00"))
    assert (codes.return_timeouts, codes.reporting_options) == (True, 2)
    assert (codes.requested_opcode, codes.requested_service_action) == (0x9E, 0x10)


@pytest.mark.parametrize(
    "cdb",
    ["", "28", "28 00 00000001 00 0000", "9e", "9e 1f" + "00" * 14, "f7" + "00" * 15, "7f" * 16],
)
def test_what_cannot_be_read_is_refused(cdb: str) -> None:
    with pytest.raises(ProtocolError):
        parse_cdb(bytes.fromhex(cdb))


@pytest.mark.parametrize(
    ("cdb", "text"),
    [
        (sbc.read_16(4096, 8), "READ(16) of 8 blocks at LBA 4096"),
        (spc.inquiry(255, 0xB0), "INQUIRY of page B0h"),
        (spc.inquiry(36), "INQUIRY"),
        (spc.mode_sense_6(8), "MODE SENSE(6) of page 08h"),
        (sbc.unmap(24), "UNMAP"),
        (b"\xf7", "command F7h"),
        (b"", "an empty CDB"),
    ],
)
def test_description(cdb: bytes, text: str) -> None:
    assert describe_cdb(cdb) == text


@given(st.binary(max_size=40))
def test_any_bytes_are_a_cdb_or_a_protocol_error(cdb: bytes) -> None:
    assert describe_cdb(cdb)
    try:
        parsed = parse_cdb(memoryview(cdb))
    except ProtocolError:
        return
    assert parsed.opcode == cdb[0]
    assert parsed.data_length(512) >= 0


@pytest.mark.parametrize("opcode", sorted(LAYOUTS))
@given(rest=st.binary(min_size=15, max_size=15))
def test_any_bytes_behind_a_known_operation_code(opcode: int, rest: bytes) -> None:
    parsed = parse_cdb(bytes((opcode,)) + rest)
    assert parsed.opcode == opcode
    assert parsed.data_length(4096) >= 0
