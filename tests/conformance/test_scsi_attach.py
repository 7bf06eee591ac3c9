# SPDX-License-Identifier: Apache-2.0
"""The SCSI rows of the catalogue at attach: what a unit says of itself, and how it may say it.

Rows that need no session are shown in tests/pyscsi_init/scsi and tests/pyscsi_init/device, with the
same markers.
"""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import pyscsi_init
from pyscsi_init.device.steps import Pause
from pyscsi_init.errors import (
    IdentityMismatch,
    IllegalRequest,
    LunNotFound,
    NotABlockDevice,
    NotReady,
    ScsiError,
    UnexpectedStatus,
    UnitAttention,
)
from pyscsi_init.scsi import SenseKey, encode_lun, parse_sense
from pyscsi_init.testing import LogicalUnit, RamDisk, TargetServer, inquiry
from pyscsi_init.transport import Session, open_session
from tests.support.logs import ExpectLogs
from tests.support.python_target import IQN, MEBI, PATIENCE, WAIT, make_target, opened, url_of

pytestmark = pytest.mark.anyio

INQUIRY, TEST_UNIT_READY, READ_10, READ_CAPACITY_16 = 0x12, 0x00, 0x28, 0x9E
MODE_SENSE_6, MODE_SENSE_10, REPORT_LUNS, PRE_FETCH = 0x1A, 0x5A, 0xA0, 0x34
BLOCK, FAR = 512, 1 << 20


@pytest.mark.conformance("SCSI-001")
@pytest.mark.conformance("SCSI-002")
@pytest.mark.parametrize("sense_format", ["fixed", "descriptor"])
async def test_both_formats_of_sense_are_read(sense_format: str) -> None:
    """SPC-4 4.5: the same condition in either format is the same error."""
    target = make_target(sense_format=sense_format)
    async with opened(target) as lun:
        target.faults.check_condition(5, 0x26, 4, opcodes={TEST_UNIT_READY})
        with pytest.raises(IllegalRequest) as caught:
            await lun.execute(bytes(6))
        error = caught.value
        assert (error.sense_key, error.asc, error.ascq) == (5, 0x26, 4)


@pytest.mark.conformance("SCSI-001")
@pytest.mark.parametrize("length", [0, 1, 2, 3, 8, 14, 18])
async def test_sense_of_any_length(length: int) -> None:
    """Short sense data is read as far as it goes, SenseLength 0 too (RFC 7143 11.4.7.1)."""
    target = make_target()
    async with opened(target) as lun:
        whole = bytes.fromhex("70 00 05 00000000 0a 00000000 26 04 00 000000")

        def shorten(_: Any, pdu: Any) -> None:
            if type(pdu).__name__ == "ScsiResponse" and pdu.status == 2:
                pdu.data = length.to_bytes(2, "big") + whole[:length]

        target.faults.on_send = shorten
        target.faults.check_condition(5, 0x26, 4, opcodes={TEST_UNIT_READY})
        with pytest.raises(ScsiError) as caught:
            await lun.execute(bytes(6))
    sense = parse_sense(whole[:length])
    assert getattr(caught.value, "sense_key", None) == sense.sense_key
    assert getattr(caught.value, "asc", None) == sense.asc


@pytest.mark.conformance("SCSI-004")
@pytest.mark.parametrize("count", [3, 11])
async def test_unit_attentions_at_attach_are_taken(count: int) -> None:
    target = make_target()
    rule = target.faults.check_condition(6, 0x29, 0, times=count, opcodes={TEST_UNIT_READY})
    async with opened(target) as lun:
        assert len(rule.caught) == count
        assert len(await lun.read(0, BLOCK)) == BLOCK


@pytest.mark.conformance("SCSI-004")
async def test_but_not_for_ever() -> None:
    target = make_target()
    target.faults.check_condition(6, 0x29, 0, times=10_000)
    with anyio.fail_after(PATIENCE), pytest.raises((UnitAttention, LunNotFound)):
        async with opened(target):
            pass


@pytest.mark.conformance("SCSI-008")
async def test_a_conflict_at_attach_does_not_stop_it() -> None:
    target = make_target()
    target.faults.status(0x18, times=3, opcodes={TEST_UNIT_READY, MODE_SENSE_6, MODE_SENSE_10})
    async with opened(target) as lun:
        assert len(await lun.read(0, BLOCK)) == BLOCK


@pytest.mark.conformance("SCSI-009")
@pytest.mark.parametrize("phase_collapse", [True, False])
async def test_condition_met_is_a_success(phase_collapse: bool) -> None:
    target = make_target(phase_collapse=phase_collapse)
    async with opened(target) as lun:
        result = await lun.execute(bytes((PRE_FETCH, 0, 0, 0, 0, 0, 0, 0, 8, 0)))
        assert result.status == 0x04
        # And in the last Data-In PDU (S bit): the data and the status are both there.
        target.faults.on_send = lambda _, pdu: setattr(pdu, "status", 4)
        cdb = bytes((INQUIRY, 0, 0, 0, 96, 0))
        result = await lun.execute(cdb, data_in_length=96)
        assert (result.status, len(result.data)) == (0x04, 96)
        target.faults.clear()


@pytest.mark.conformance("SCSI-009")
@pytest.mark.parametrize("status", [0x40, 0x30, 0x10, 0x77])
async def test_other_statuses_are_typed_errors(status: int) -> None:
    target = make_target()
    async with opened(target) as lun:
        target.faults.status(status, opcodes={TEST_UNIT_READY})
        with pytest.raises(UnexpectedStatus) as caught:
            await lun.execute(bytes(6))
        assert caught.value.status == status


@pytest.mark.conformance("SCSI-010")
async def test_a_unit_that_becomes_ready_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyscsi_init.device.steps.Pause", lambda seconds: Pause(seconds / 100))
    target = make_target()
    ready = target.faults.check_condition(2, 4, 1, times=3, opcodes={TEST_UNIT_READY})
    io = target.faults.check_condition(2, 4, 1, times=3, opcodes={READ_10}, skip=5)
    async with opened(target) as lun:
        assert len(ready.caught) == 3
        for _ in range(6):
            await lun.read(FAR, BLOCK)
        assert len(io.caught) == 3


@pytest.mark.conformance("SCSI-010")
@pytest.mark.parametrize("code", [(0x3A, 0), (0x04, 2), (0x04, 0x0B)])
async def test_what_does_not_come_by_waiting_is_told_at_once(code: tuple[int, int]) -> None:
    target = make_target()
    async with opened(target) as lun:
        rule = target.faults.check_condition(2, *code, times=9, opcodes={READ_10})
        with pytest.raises(NotReady):
            await lun.read(FAR, BLOCK)
        assert len(rule.caught) == 1


@pytest.mark.conformance("SCSI-012")
@pytest.mark.conformance("SCSI-019")
@pytest.mark.conformance("SCSI-020")
async def test_what_an_old_unit_does_not_know() -> None:
    """20/00 to READ CAPACITY(16), 24/00 to MODE SENSE and to a VPD page: the documented ways out,
    and no command is sent again as it was."""
    target = make_target(RamDisk(4 * MEBI))
    capacity = target.faults.check_condition(5, 0x20, 0, times=99, opcodes={READ_CAPACITY_16})
    modes = target.faults.check_condition(
        5, 0x24, 0, times=99, opcodes={MODE_SENSE_6, MODE_SENSE_10}
    )
    limits = target.faults.check_condition(
        5, 0x24, 0, times=99, opcodes={INQUIRY}, when=lambda f: f.cdb[1] == 1 and f.cdb[2] == 0xB0
    )
    async with opened(target) as lun:
        assert lun.size_bytes == 4 * MEBI
        assert lun.facts.block_limits is None
        assert (lun.facts.write_protected, lun.facts.write_cache) == (False, None)
        for rule in (capacity, modes, limits):
            sent = [facts.cdb for facts in rule.caught]
            assert len(set(sent)) == len(sent), "the same bytes again"


@pytest.mark.conformance("SCSI-013")
@pytest.mark.quirk("Q-29")
async def test_a_management_lun_is_no_disk() -> None:
    unit = LogicalUnit(RamDisk(4 * MEBI), vendor="LSI", product="Universal Xport")
    with pytest.raises(NotABlockDevice, match="management LUN"):
        async with opened(make_target(unit)):  # type: ignore[arg-type]
            pass


@pytest.mark.conformance("SCSI-014")
@pytest.mark.parametrize("wrong", ["underflow", "overflow"])
async def test_residuals_of_an_allocation_length_are_normal(wrong: str) -> None:
    """SPC-4 4.2.5.6: the answer may be shorter than asked for; a target that counts it wrongly is
    believed for the bytes that came."""
    target = make_target()
    async with opened(target) as lun:
        if wrong == "overflow":

            def overflow(_: Any, pdu: Any) -> None:
                if hasattr(pdu, "residual_overflow"):
                    pdu.residual_overflow, pdu.residual_underflow = True, False
                    pdu.residual_count = 4

            target.faults.on_send = overflow
        length = 96 if wrong == "overflow" else 255
        cdb = bytes((INQUIRY, 0, 0, 0, length, 0))
        result = await lun.execute(cdb, data_in_length=length)
        assert len(result.data) == 96
        assert result.residual_overflow is (wrong == "overflow")
        target.faults.clear()


@pytest.mark.conformance("SCSI-015")
async def test_pages_in_any_order_and_of_any_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = dict(inquiry.PAGES)
    monkeypatch.setitem(pages, 0x00, lambda *_: bytes((0xB0, 0xC7, 0x83, 0x00, 0x80)))
    monkeypatch.setattr(inquiry, "PAGES", pages)
    async with opened(make_target(RamDisk(MEBI, serial="unsorted"))) as lun:
        assert lun.identity.serial_number == "unsorted"
        assert lun.facts.block_limits is not None
        assert lun.facts.provisioning is None, "not listed, so not asked"


@pytest.mark.conformance("SCSI-016")
async def test_another_serial_after_reconnect_is_another_unit(expect_logs: ExpectLogs) -> None:
    expect_logs("another", at_least=1)
    target = make_target(RamDisk(4 * MEBI, serial="one"))
    async with opened(target) as lun:
        target.luns[0].swap(RamDisk(4 * MEBI, serial="two"), announce=False)
        target.drop_connections()
        with pytest.raises(IdentityMismatch):
            await lun.write(FAR, bytes(BLOCK))


@pytest.mark.conformance("SCSI-021")
@pytest.mark.quirk("Q-30")
async def test_report_luns() -> None:
    """A long list is fetched again with its own length; LUN 0 may be missing; a target that does
    not know the command has LUN 0."""
    target = make_target()
    listed = [encode_lun(n) for n in range(5, 1005)]
    async with TargetServer([target]).running() as portal:
        parsed = pyscsi_init.parse_url(url_of(portal.address))
        async with open_session(parsed.portals, IQN, settings=WAIT) as session:
            await _check_luns(session, target, listed)


async def _check_luns(session: Session, target: Any, listed: list[bytes]) -> None:
    assert await session.report_luns() == (bytes(8),)
    target.faults.check_condition(6, 0x3F, 0x0E, opcodes={REPORT_LUNS})
    unit = target.luns.pop(0)
    target.luns.update(dict.fromkeys(range(5, 1005), unit))
    before = target.counters.commands[REPORT_LUNS]
    assert await session.report_luns() == tuple(listed)
    assert target.counters.commands[REPORT_LUNS] - before == 3, "attention, too short, whole"
    target.luns.clear()
    assert await session.report_luns() == ()
    target.faults.check_condition(5, 0x20, 0, opcodes={REPORT_LUNS})
    assert await session.report_luns() == (bytes(8),)
    target.faults.check_condition(5, 0x24, 0, opcodes={REPORT_LUNS})
    with pytest.raises(IllegalRequest):
        await session.report_luns()


@pytest.mark.conformance("SCSI-001")
async def test_the_sense_of_a_refusal_points_at_its_byte() -> None:
    sense = parse_sense(bytes.fromhex("70 00 05 00000000 0a 00000000 24 00 00 c00002"))
    assert sense.sense_key == SenseKey.ILLEGAL_REQUEST
    assert sense.field_pointer == (True, 2)
