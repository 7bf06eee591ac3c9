# SPDX-License-Identifier: Apache-2.0
"""SCSI commands on one logical unit, without a wire: what real peers do not look at.

The bulk of the commands is held against libiscsi's test suite (tests/interop).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyscsi_init.testing import LogicalUnit, Nexus, RamDisk
from pyscsi_init.testing.commands import REGISTRY, Command
from pyscsi_init.testing.conditions import POWER_ON_OR_RESET, Result
from pyscsi_init.testing.execution import data_out_length, execute

Run = Callable[..., Result]


def code(result: Result) -> tuple[int, int, int]:
    """Sense key, ASC and ASCQ of a CHECK CONDITION."""
    assert result.status == 2, result
    if result.sense[0] == 0x72:  # descriptor format
        return result.sense[1], result.sense[2], result.sense[3]
    return result.sense[2], result.sense[12], result.sense[13]


def test_standard_inquiry(run: Run) -> None:
    data = run("12 00 00 00 60 00").data
    assert (len(data), data[0], data[4]) == (96, 0, 91)
    assert data[8:36] == b"PYSCSI  TESTING TARGET  0001"
    assert len(run("12 00 00 00 05 00").data) == 5


def test_vpd_pages_are_those_that_are_listed(run: Run) -> None:
    listed = run("12 01 00 00 ff 00").data[4:]
    assert bytes(listed) == bytes((0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2))
    for page in listed:
        data = run(bytes((0x12, 1, page, 0, 255, 0))).data
        assert data[1] == page
        assert int.from_bytes(data[2:4], "big") == len(data) - 4
    assert run("12 01 80 00 ff 00").data[4:] == b"ABC123"
    assert code(run("12 01 c0 00 ff 00")) == (5, 0x24, 0)


def test_a_lun_without_a_unit_says_so(alice: Nexus) -> None:
    def ask(cdb: str) -> Result:
        return execute(None, Command(bytes.fromhex(cdb).ljust(16, b"\0"), alice, luns=(0, 1)))

    assert ask("12 00 00 00 60 00").data[0] == 0x7F
    assert code(ask("00")) == (5, 0x25, 0)
    assert code(ask("28")) == (5, 0x25, 0)
    assert ask("03 00 00 00 12 00").data[2] == 5
    assert ask("a0 00 00 00 00 00 00 00 01 00 00 00").data[3] == 16


def test_unit_attentions_come_first_and_once(run: Run, unit: LogicalUnit) -> None:
    unit.attention(POWER_ON_OR_RESET)
    unit.grow(2 << 20)
    assert run("12 00 00 00 60 00").status == 0, "INQUIRY passes"
    assert code(run("ff")) == (6, 0x29, 0), "before the operation code is looked at"
    assert code(run("00")) == (6, 0x2A, 9)
    assert run("00").status == 0
    assert int.from_bytes(run("25").data[:4], "big") == 4095


def test_request_sense_takes_an_attention(run: Run, unit: LogicalUnit) -> None:
    unit.attention(POWER_ON_OR_RESET)
    assert run("03 00 00 00 12 00").data[2] == 6
    assert run("00").status == 0


def test_unknown_commands_and_bits(run: Run) -> None:
    assert code(run("c1")) == (5, 0x20, 0)
    assert code(run("9e 1f")) == (5, 0x24, 0), "an unknown service action"
    assert code(run("00 01")) == (5, 0x24, 0), "a bit that TEST UNIT READY does not have"
    assert code(run("28 20 00 00 00 00 00 00 01 00")) == (5, 0x24, 0), "RDPROTECT"


def test_ranges_end_with_the_medium(run: Run) -> None:
    assert run("28 00 00 00 07 ff 00 00 01 00").status == 0
    result = run("28 00 00 00 07 ff 00 00 02 00")
    assert code(result) == (5, 0x21, 0)
    assert result.sense[0] & 0x80
    assert int.from_bytes(result.sense[3:7], "big") == 2048
    assert code(run("88 00 ff ff ff ff ff ff ff ff 00 00 00 01")) == (5, 0x21, 0)


def test_write_protection(run: Run, unit: LogicalUnit) -> None:
    unit.disk.read_only = True
    assert run("1a 00 3f 00 ff 00").data[2] & 0x80
    for cdb, size in (("2a 00 00 00 00 00 00 00 01 00", 512), ("42 00 00 00 00 00 00 00 18", 24)):
        assert code(run(cdb, bytes(size))) == (7, 0x27, 0)
    assert run("28 00 00 00 00 00 00 00 01 00").status == 0
    assert run("35").status == 0


def test_unmap_checks_everything_before_it_does_anything(run: Run, unit: LogicalUnit) -> None:
    unit.disk.fill(0, 1 << 20, b"x" * 512)

    def unmap(*ranges: tuple[int, int]) -> Result:
        body = b"".join(
            lba.to_bytes(8, "big") + blocks.to_bytes(4, "big") + bytes(4) for lba, blocks in ranges
        )
        data = (len(body) + 6).to_bytes(2, "big") + len(body).to_bytes(2, "big") + bytes(4) + body
        return run(bytes((0x42, 0, 0, 0, 0, 0, 0)) + len(data).to_bytes(2, "big") + b"\0", data)

    assert code(unmap((0, 8), (2047, 2))) == (5, 0x21, 0)
    assert unit.disk.read(0, 512) == b"x" * 512
    assert unmap((0, 8), (2040, 8), (10**9, 0)).status == 0
    assert unit.disk.read(0, 8 * 512) == bytes(8 * 512)
    assert unit.disk.read(8 * 512, 512) == b"x" * 512
    status = run("9e 12 00 00 00 00 00 00 00 00 00 00 00 ff 00 00").data[8:]
    found = [
        (
            int.from_bytes(status[i : i + 8], "big"),
            int.from_bytes(status[i + 8 : i + 12], "big"),
            status[i + 12],
        )
        for i in range(0, len(status), 16)
    ]
    assert found == [(0, 8, 1), (8, 2032, 0), (2040, 8, 1)]


def test_a_unit_that_is_not_thin_has_no_unmap(alice: Nexus) -> None:
    unit = LogicalUnit(RamDisk(1 << 20))
    command = Command(bytes.fromhex("42").ljust(16, b"\0"), alice)
    assert code(execute(unit, command)) == (5, 0x20, 0)


def test_write_same_unmaps_only_zeros(run: Run, unit: LogicalUnit) -> None:
    """With LBPRZ an unmapped block reads as zeros, so other patterns have to be written."""
    cdb = "93 08 00 00 00 00 00 00 00 04 00 00 00 04 00 00"
    assert run(cdb, b"\xff" * 512).status == 0
    assert unit.disk.read(4 * 512, 4 * 512) == b"\xff" * 2048
    assert list(unit.disk.extents(4, 4)) == [(4, 4, True)]
    assert run(cdb, bytes(512)).status == 0
    assert unit.disk.read(4 * 512, 4 * 512) == bytes(2048)
    assert list(unit.disk.extents(4, 4)) == [(4, 4, False)]
    assert code(run(cdb, bytes(1024))) == (5, 0x24, 0), "not one block of data"


def test_compare_and_write_is_all_or_nothing(run: Run, unit: LogicalUnit) -> None:
    cdb = "89 00 00 00 00 00 00 00 00 03 00 00 00 02 00 00"
    old, new = bytes(1024), b"n" * 1024
    assert run(cdb, old + new).status == 0
    assert unit.disk.read(3 * 512, 1024) == new
    result = run(cdb, new[:700] + b"?" + new[701:] + old)
    assert code(result) == (0xE, 0x1D, 0)
    assert int.from_bytes(result.sense[3:7], "big") == 700
    assert unit.disk.read(3 * 512, 1024) == new


def test_a_flush_is_asked_for(run: Run, unit: LogicalUnit) -> None:
    unit.disk.write_cache = True
    assert run("35").flush
    assert not run("35 02").flush, "IMMED"
    assert run("2a 08 00 00 00 00 00 00 01 00", bytes(512)).flush, "FUA"
    assert not run("2a 00 00 00 00 00 00 00 01 00", bytes(512)).flush
    assert run("1a 08 08 00 ff 00").data[4 + 2] & 0x04, "WCE"


def test_mode_select_changes_two_bits(run: Run, unit: LogicalUnit, bob: Nexus) -> None:
    page = bytearray(run("1a 08 0a 00 ff 00").data[4:])
    changeable = run("1a 08 4a 00 ff 00").data[4:]
    assert (changeable[2], changeable[4]) == (0x04, 0x08)
    page[2] |= 0x04
    page[4] |= 0x08
    assert run("15 10 00 00 10 00", bytes(4) + bytes(page)).status == 0
    assert unit.write_protected
    assert code(run("00", nexus=bob)) == (6, 0x2A, 1), "others are told"
    assert run("ff").sense[0] == 0x72, "descriptor format"
    page[3] ^= 0xFF
    assert code(run("15 10 00 00 10 00", bytes(4) + bytes(page))) == (5, 0x26, 0)


def test_a_stopped_unit_is_not_ready(run: Run) -> None:
    assert run("1b 00 00 00 00").status == 0
    assert code(run("00")) == (2, 4, 2)
    assert code(run("28 00 00 00 00 00 00 00 01")) == (2, 4, 2)
    assert run("12 00 00 00 60").status == 0
    assert run("1b 00 00 00 01").status == 0
    assert run("00").status == 0


def test_the_list_of_commands_is_the_registry(run: Run) -> None:
    data = run("a3 0c 00 00 00 00 00 00 ff ff").data
    listed = {
        (data[i], int.from_bytes(data[i + 2 : i + 4], "big") if data[i + 5] & 1 else None)
        for i in range(4, len(data), 8)
    }
    assert listed == set(REGISTRY)


@pytest.mark.parametrize("entry", REGISTRY.values(), ids=lambda entry: f"{entry.opcode:02x}")
def test_usage_data_is_as_long_as_the_command(run: Run, entry: object) -> None:
    usage, opcode, action = entry.usage, entry.opcode, entry.service_action  # type: ignore[attr-defined]
    assert len(usage) == {0: 6, 1: 10, 2: 10, 4: 16, 5: 12}[opcode >> 5]
    options = 1 if action is None else 2
    cdb = bytes((0xA3, 0x0C, options, opcode)) + (action or 0).to_bytes(2, "big")
    data = run(cdb + bytes((0, 0, 1, 0))).data
    assert data[1] & 7 == 3
    assert data[4] == opcode


def test_how_much_data_a_command_means(unit: LogicalUnit) -> None:
    def length(cdb: str) -> int:
        return data_out_length(unit, bytes.fromhex(cdb).ljust(16, b"\0"))

    assert length("2a 00 00 00 00 00 00 00 08 00") == 4096
    assert length("0a 00 00 00 00 00") == 256 * 512
    assert length("28 00 00 00 00 00 00 00 08 00") == 0
    assert length("89 00 00 00 00 00 00 00 00 00 00 00 00 03") == 3072
    assert length("93 01 00 00 00 00 00 00 00 00 00 00 00 ff") == 0, "NDOB"
    assert length("2f 02 00 00 00 00 00 00 08 00") == 4096, "BYTCHK"
    assert length("2f 00 00 00 00 00 00 00 08 00") == 0
    assert length("fe") == 0


def test_no_cdb_does_more_than_end_in_a_status(unit: LogicalUnit, alice: Nexus) -> None:
    for opcode in range(256):
        for second in range(0, 256, 5):
            cdb = bytes((opcode, second)) + bytes((0xFF,)) * 14
            assert execute(unit, Command(cdb, alice)).status in (0, 2, 4, 0x18)
