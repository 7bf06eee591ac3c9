# SPDX-License-Identifier: Apache-2.0
"""What is asked at attach, and the quirks of units that answer as they like."""

from __future__ import annotations

import pytest

from pyscsi_init.device.probe import (
    UnitFacts,
    probe_capacity,
    probe_identity,
    probe_modes,
    probe_unit,
    read_head,
)
from pyscsi_init.device.steps import Outcome
from pyscsi_init.errors import LunNotFound, MediumError, NotABlockDevice, ProtocolError, ScsiError
from tests.pyscsi_init.device.canned import (
    INQUIRY,
    INVALID_FIELD,
    MODE_SENSE_6,
    MODE_SENSE_10,
    NOT_SUPPORTED,
    POWER_ON,
    READ_10,
    READ_CAPACITY_10,
    READ_CAPACITY_16,
    Change,
    Unit,
    capacity_10,
    capacity_16,
    check,
    inquiry_data,
    naa,
    page,
)


def facts(unit: Unit) -> UnitFacts:
    return unit.run(probe_unit("LUN 0"))


def test_an_ordinary_disk() -> None:
    unit = Unit(blocks=2048)
    found = facts(unit)
    assert found.identity.serial_number == "SER-1"
    assert found.identity.designators == ("naa.6000000000000001",)
    assert (found.identity.vendor, found.identity.product) == ("MAKER", "DISK")
    assert (found.capacity.blocks, found.capacity.block_size) == (2048, 512)
    assert (found.write_protected, found.write_cache, found.dpofua) == (False, None, False)
    assert found.block_limits is None


@pytest.mark.conformance("SCSI-004")
def test_unit_attentions_may_come_at_any_step() -> None:
    for position in range(12):
        unit = Unit()
        original = unit.perform
        calls = iter(range(1000))

        def perform(step, original=original, calls=calls, position=position):  # type: ignore[no-untyped-def]
            if next(calls) == position:
                return POWER_ON
            return original(step)

        unit.perform = perform  # type: ignore[method-assign]
        assert facts(unit).identity.serial_number == "SER-1"


def _no_vpd(unit: Unit) -> None:
    unit.pages.clear()


def _evpd_ignored(unit: Unit) -> None:
    unit.pages = dict.fromkeys(range(256), unit.standard)


def _list_lies(unit: Unit) -> None:
    unit.pages = {0x00: page(0x00, bytes([0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2]))}


def _broken_pages(unit: Unit) -> None:
    unit.pages = {
        0x00: page(0x00, bytes([0x00, 0x80, 0x83, 0xB0, 0xB1, 0xB2])),
        0x80: b"\x00\x80\x00",
        0x83: page(0x83, bytes([0x01, 0x03, 0, 200, 1, 2])),
        0xB0: page(0xB0, b"\1"),
        0xB1: page(0xB1, b""),
        0xB2: page(0xB2, b""),
    }


@pytest.mark.conformance("SCSI-015")
@pytest.mark.parametrize("change", [_no_vpd, _evpd_ignored, _list_lies, _broken_pages])
def test_scsi_015_pages_are_optional_and_may_be_broken(change: Change) -> None:
    unit = Unit()
    change(unit)
    found = facts(unit)
    assert found.capacity.blocks == 2048
    assert found.identity.designators == ()


@pytest.mark.conformance("SCSI-015")
def test_scsi_015_pages_that_are_not_listed_are_not_asked() -> None:
    unit = Unit()
    unit.pages[0xB0] = page(0xB0, bytes(60))
    facts(unit)
    asked = [
        step.cdb[2]  # type: ignore[union-attr]
        for step in unit.log
        if getattr(step, "cdb", b"\xff")[0] == INQUIRY and step.cdb[1] & 1  # type: ignore[union-attr]
    ]
    assert asked == [0x00, 0x80, 0x83]


@pytest.mark.conformance("SCSI-014")
def test_scsi_014_a_long_page_is_fetched_in_two_steps() -> None:
    unit = Unit()
    unit.pages[0x80] = page(0x80, b"S" * 400)
    assert facts(unit).identity.serial_number == "S" * 400


@pytest.mark.conformance("SCSI-016")
def test_scsi_016_a_failure_that_may_pass_is_not_another_identity() -> None:
    """In the barrier "no designators" would be another unit, and the volume would be lost."""
    unit = Unit()
    unit.pages[0x83] = check(4, 0x44)
    with pytest.raises(ScsiError):
        unit.run(probe_identity("LUN 0"))


@pytest.mark.conformance("SCSI-019")
@pytest.mark.conformance("SCSI-012")
@pytest.mark.parametrize("answer", [NOT_SUPPORTED, INVALID_FIELD, b"", bytes(8)])
def test_scsi_019_read_capacity_10_where_16_is_not_known(answer: Outcome | bytes) -> None:
    unit = Unit()
    unit.answers[READ_CAPACITY_16] = answer
    unit.answers[READ_CAPACITY_10] = capacity_10(1 << 20, 4096)
    capacity = unit.run(probe_capacity("LUN 0"))
    assert (capacity.blocks, capacity.block_size, capacity.provisioned) == (1 << 20, 4096, False)


@pytest.mark.conformance("SCSI-019")
def test_scsi_019_too_large_for_10_and_no_16() -> None:
    """FFFFFFFFh is no capacity: a disk cut at 2 TiB would look as if it had shrunk."""
    unit = Unit()
    unit.answers[READ_CAPACITY_16] = NOT_SUPPORTED
    unit.answers[READ_CAPACITY_10] = capacity_10(1 << 33)
    with pytest.raises(NotABlockDevice):
        unit.run(probe_capacity("LUN 0"))


def test_scsi_019_a_failing_16_is_no_reason_for_10() -> None:
    unit = Unit()
    unit.answers[READ_CAPACITY_16] = check(3, 0x11)
    with pytest.raises(MediumError):
        unit.run(probe_capacity("LUN 0"))
    assert READ_CAPACITY_10 not in unit.sent


@pytest.mark.conformance("SCSI-019")
@pytest.mark.parametrize("size", [512, 1024, 2048, 4096, 65536])
def test_scsi_019_block_sizes(size: int) -> None:
    unit = Unit(blocks=1 << 40, size=size)
    capacity = unit.run(probe_capacity("LUN 0"))
    assert (capacity.blocks, capacity.block_size) == (1 << 40, size)


@pytest.mark.conformance("SCSI-019")
@pytest.mark.parametrize("size", [520, 528, 256, 131072, 768])
def test_scsi_019_block_sizes_that_cannot_be_a_file(size: int) -> None:
    unit = Unit(size=size)
    with pytest.raises(NotABlockDevice, match=f"blocks of {size} bytes"):
        unit.run(probe_capacity("LUN 0"))


@pytest.mark.conformance("SCSI-018")
@pytest.mark.conformance("SCSI-019")
def test_scsi_019_thin_and_physical_blocks() -> None:
    unit = Unit()
    unit.answers[READ_CAPACITY_16] = (
        (2047).to_bytes(8, "big") + (512).to_bytes(4, "big") + bytes([0, 3, 0xC0]) + bytes(17)
    )
    capacity = unit.run(probe_capacity("LUN 0"))
    assert capacity.physical_block_size == 4096
    assert capacity.provisioned
    assert capacity.unmapped_reads_zero


def mode_6(device: int, caching: bytes = b"") -> bytes:
    body = caching
    return bytes([3 + len(body), 0, device, 0]) + body


CACHING_ON = bytes([0x08, 0x12, 0x04]) + bytes(17)
CACHING_OFF = bytes([0x08, 0x12, 0x00]) + bytes(17)


@pytest.mark.conformance("SCSI-020")
@pytest.mark.conformance("SCSI-012")
@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ({}, (False, None, False)),
        ({MODE_SENSE_6: mode_6(0x90, CACHING_ON)}, (True, True, True)),
        ({MODE_SENSE_6: mode_6(0x00, CACHING_OFF)}, (False, False, False)),
        ({MODE_SENSE_6: mode_6(0x10)}, (False, None, True)),
        (
            {MODE_SENSE_10: bytes([0, 26, 0, 0x80, 0, 0, 0, 0]) + CACHING_ON},
            (True, True, False),
        ),
        ({MODE_SENSE_6: b"\x03", MODE_SENSE_10: b"\0"}, (False, None, False)),
        ({MODE_SENSE_6: check(4, 0x44), MODE_SENSE_10: check(3, 0x11)}, (False, None, False)),
    ],
)
def test_scsi_020_modes(
    answers: dict[int, bytes | Outcome], expected: tuple[bool, bool | None, bool]
) -> None:
    unit = Unit()
    unit.answers |= answers
    assert unit.run(probe_modes()) == expected


@pytest.mark.conformance("SCSI-013")
@pytest.mark.parametrize(
    ("standard", "error"),
    [
        (inquiry_data(0x1F, 3), LunNotFound),
        (inquiry_data(0x00, 3), LunNotFound),
        (inquiry_data(0x00, 1), LunNotFound),
        (inquiry_data(0x0C), NotABlockDevice),
        (inquiry_data(0x01), NotABlockDevice),
        (inquiry_data(0x1D), NotABlockDevice),
        (check(5, 0x25), LunNotFound),
        (b"", ProtocolError),
    ],
)
def test_scsi_013_what_is_no_disk(standard: bytes | Outcome, error: type[Exception]) -> None:
    unit = Unit()
    unit.standard = standard  # type: ignore[assignment]
    with pytest.raises(error):
        facts(unit)
    assert set(unit.sent) == {INQUIRY}


def test_the_start_is_read_in_pieces_that_any_unit_takes() -> None:
    unit = Unit(blocks=1 << 20)
    unit.content[:] = bytes(range(256)) * 512
    head = unit.run(read_head(512, 69632))
    assert head == unit.content[:69632]
    assert all(
        step.data_in_length <= 32768  # type: ignore[union-attr]
        for step in unit.log
        if step.cdb[0] == READ_10  # type: ignore[union-attr]
    )
    small = Unit(blocks=3)
    assert len(small.run(read_head(512, 3 * 512))) == 1536


@pytest.mark.parametrize("size", [512, 2048, 4096, 8192, 65536])
def test_the_start_need_not_end_with_a_block(size: int) -> None:
    unit = Unit(blocks=1 << 10, size=size)
    unit.content[:] = bytes(range(256)) * 512
    assert unit.run(read_head(size, 69632)) == unit.content[:69632]


@pytest.mark.parametrize("data", [b"", bytes(512)])
def test_a_short_read_of_the_start_is_no_start(data: bytes) -> None:
    unit = Unit()
    unit.answers[READ_10] = data
    with pytest.raises(ProtocolError):
        unit.run(read_head(512, 69632))
    assert unit.sent == [READ_10]


@pytest.mark.conformance("SCSI-016")
def test_designators_of_the_port_say_nothing_of_the_unit() -> None:
    unit = Unit()
    port = bytes([0x01, 0x13, 0, 8]) + (0x5 << 60 | 9).to_bytes(8, "big")
    unit.pages[0x83] = page(0x83, port + naa(7)[4:])
    assert facts(unit).identity.designators == ("naa.6000000000000007",)


def test_nothing_is_asked_twice_for_the_identity() -> None:
    unit = Unit()
    identity = unit.run(probe_identity("LUN 0"))
    assert identity == facts(Unit()).identity
    assert identity.size_bytes == 2048 * 512
    assert MODE_SENSE_6 not in unit.sent
    assert MODE_SENSE_10 not in unit.sent
    assert capacity_16(2048)[:8] == (2047).to_bytes(8, "big")
