# SPDX-License-Identifier: Apache-2.0
"""The SCSI rows of the catalogue under I/O: statuses, sense, limits, durability, discards."""

from __future__ import annotations

import os
from dataclasses import replace

import anyio
import pytest

from pyscsi_init.device import depth, scsi_block
from pyscsi_init.device.interface import Operation
from pyscsi_init.errors import (
    AbortedCommand,
    DataProtect,
    IllegalRequest,
    MediumError,
    OutOfRange,
    SpaceExhausted,
)
from pyscsi_init.scsi import Opcode, parse_cdb
from pyscsi_init.testing import READS, WRITES, RamDisk, inquiry
from tests.pyscsi_init.device.running import BLOCK, FAR, SYNCS, Running, device, settled
from tests.support.logs import ExpectLogs
from tests.support.python_target import MEBI, PATIENCE, WAIT, make_target, opened, until

pytestmark = pytest.mark.anyio

REPORT_LUNS = 0xA0

ATTENTIONS = {
    "mode parameters changed": (0x2A, 1),
    "reservations preempted": (0x2A, 3),
    "reservations released": (0x2A, 4),
    "registrations preempted": (0x2A, 5),
    "commands cleared by another initiator": (0x2F, 0),
    "reported LUNs data changed": (0x3F, 0x0E),
    "inquiry data changed": (0x3F, 3),
    "thin provisioning threshold": (0x38, 7),
    "RFC 7143 11.14.5": (0x47, 0x7F),
}


@pytest.mark.conformance("SCSI-005")
@pytest.mark.quirk("Q-34")
@pytest.mark.parametrize("which", ATTENTIONS)
async def test_unit_attentions_under_io(which: str, caplog: pytest.LogCaptureFixture) -> None:
    """The command was not executed: it is sent again, and what was said is reported. The session
    and the other unit go on."""
    caplog.set_level("INFO", "pyscsi_init.device")
    target = make_target(RamDisk(4 * MEBI))
    target.add_lun(1, RamDisk(4 * MEBI), announce=False)
    async with opened(target) as lun:
        rule = target.faults.check_condition(6, *ATTENTIONS[which], opcodes=WRITES, lun=0)
        await lun.write(FAR, b"w" * BLOCK)
        assert len(rule.caught) == 1
        assert await lun.read(FAR, 1) == b"w"
        assert lun.session.statistics.recoveries == 0
        assert target.counters.logins == 1
        await until(lambda: not lun.unit.watch._looking)
    asc, ascq = ATTENTIONS[which]
    assert f"(06/{asc:02X}/{ascq:02X})" in caplog.text


@pytest.mark.conformance("SCSI-006")
@pytest.mark.conformance("SCSI-024")
async def test_capacity_changes(expect_logs: ExpectLogs) -> None:
    """1000 blocks, then 2000 by 2A/09, then 500: growth can be used, what is gone fails here."""
    disk = RamDisk(1000 * BLOCK)
    target = make_target(disk)
    async with device(target) as (_, unit):
        target.luns[0].grow(2000 * BLOCK)
        await unit.read(0, BLOCK)
        await until(lambda: unit.size_bytes == 2000 * BLOCK)
        await unit.write(1999 * BLOCK, b"n" * BLOCK)
        target.luns[0].grow(500 * BLOCK)
        await unit.read(0, BLOCK)
        await until(lambda: unit.size_bytes == 500 * BLOCK)
        before = target.counters.commands[Opcode.READ_10]
        with pytest.raises(OutOfRange):
            await unit.read(500 * BLOCK, BLOCK)
        assert target.counters.commands[Opcode.READ_10] == before


@pytest.mark.conformance("SCSI-024")
async def test_out_of_range_from_the_unit_reads_the_capacity_again() -> None:
    disk = RamDisk(4 * MEBI)
    target = make_target(disk, unit_attention_on_capacity_change=False)
    async with device(target) as (_, unit):
        disk.resize(2 * MEBI)
        with pytest.raises(OutOfRange, match="21/00"):
            await unit.read(3 * MEBI, BLOCK)
        await until(lambda: unit.size_bytes == 2 * MEBI)
        with pytest.raises(OutOfRange):
            await unit.read(3 * MEBI, BLOCK)
        assert len(await unit.read(2 * MEBI - BLOCK, BLOCK)) == BLOCK


@pytest.mark.conformance("SCSI-007")
@pytest.mark.parametrize("status", [0x08, 0x28])
async def test_busy_and_full_are_waited_for(status: int) -> None:
    target = make_target()
    async with opened(target) as lun:
        rule = target.faults.status(status, times=3, opcodes=READS, lba=FAR // BLOCK)
        assert len(await lun.read(FAR, BLOCK)) == BLOCK
        assert len(rule.caught) == 3


@pytest.mark.conformance("SCSI-007")
@pytest.mark.quirk("Q-36")
async def test_a_full_task_set_lowers_the_queue_depth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit that takes four commands: after it has said so it gets four, and more are tried only
    after a long row of successes."""
    monkeypatch.setattr(depth, "SUCCESSES_PER_STEP", 8)
    target = make_target(RamDisk(4 * MEBI))
    async with opened(target) as lun:
        with anyio.fail_after(3 * PATIENCE):
            full = target.faults.status(
                0x28, times=10**6, opcodes=READS, when=lambda _: hold.held >= 4
            )
            hold = target.faults.hold(opcodes=READS)
            requests = [
                Running(lun, Operation.READ, FAR + n * BLOCK, bytearray(BLOCK))  # type: ignore[arg-type]
                for n in range(200)
            ]
            # The first wave is on its way before the unit has said anything.
            await until(lambda: len(full.caught) >= 196)
            while not all(each.times for each in requests):
                await until(lambda: hold.held or all(each.times for each in requests))
                hold.release(1, keep=True)
            assert await settled(*requests) == [None] * 200
            assert len(full.caught) <= 300
            # When nothing is refused any more, the depth grows until nobody counts.
            full.cancel()
            hold.cancel()
            limit = lun.unit._depth.limit
            assert limit is not None
            assert 3 <= limit <= 6
            monkeypatch.setattr(depth, "SUCCESSES_PER_STEP", 0)
            while lun.unit._depth.limit is not None:
                await lun.read(FAR, BLOCK)
            await lun.read(FAR, BLOCK)
            assert lun._longest == lun.unit.limits.max_transfer_bytes, "the short cut is open again"


@pytest.mark.conformance("SCSI-007")
async def test_requests_that_wait_for_a_place_end_with_their_session() -> None:
    target = make_target(RamDisk(4 * MEBI))
    async with opened(target, replace(WAIT, recovery_timeout=0.5)) as lun:
        target.faults.status(0x28, times=10**6, opcodes=READS, when=lambda _: hold.held >= 1)
        hold = target.faults.hold(opcodes=READS)
        running = [
            Running(lun, Operation.READ, FAR + n * BLOCK, bytearray(BLOCK))  # type: ignore[arg-type]
            for n in range(600)
        ]
        await until(lambda: lun.unit._depth.limit == 1)
        target.faults.refuse_logins = [(3, 1)] * 1000
        target.drop_connections()
        errors = await settled(*running)
        assert all(error is not None for error in errors)
        target.faults.clear()


@pytest.mark.conformance("SCSI-011")
@pytest.mark.parametrize(
    ("sense_format", "lba"), [("fixed", 2048), ("descriptor", 2048), ("descriptor", 1 << 33)]
)
async def test_a_medium_error_tells_the_lba(sense_format: str, lba: int) -> None:
    target = make_target(sense_format=sense_format)
    async with opened(target) as lun:
        target.faults.check_condition(3, 0x11, 0, information=lba, opcodes=READS)
        with pytest.raises(MediumError, match=f"first bad LBA {lba}") as caught:
            await lun.read(FAR, BLOCK)
        assert caught.value.information == lba


@pytest.mark.conformance("SCSI-011")
@pytest.mark.conformance("SCSI-032")
async def test_an_aborted_command_is_retried_a_bounded_number_of_times() -> None:
    target = make_target()
    async with opened(target) as lun:
        target.faults.check_condition(0xB, 0x47, 5, times=3, opcodes=WRITES)
        await lun.write(FAR, b"w" * BLOCK)
        rule = target.faults.check_condition(0xB, 0x47, 5, times=10**6, opcodes=WRITES)
        with pytest.raises(AbortedCommand):
            await lun.write(FAR, bytes(BLOCK))
        assert len(rule.caught) == scsi_block.MAX_RETRIES + 1


@pytest.mark.conformance("SCSI-011")
async def test_write_protection_and_a_full_pool_are_two_errors() -> None:
    target = make_target()
    async with opened(target) as lun:
        target.faults.check_condition(7, 0x27, 0, opcodes=WRITES)
        with pytest.raises(DataProtect) as protected:
            await lun.write(FAR, bytes(BLOCK))
        assert not isinstance(protected.value, SpaceExhausted)
        target.faults.check_condition(7, 0x27, 7, opcodes=WRITES)
        with pytest.raises(SpaceExhausted, match="pool"):
            await lun.write(FAR, bytes(BLOCK))


@pytest.mark.conformance("SCSI-012")
@pytest.mark.parametrize("code", [(0x20, 0), (0x24, 0), (0x25, 0), (0x26, 0), (0x1A, 0)])
async def test_an_illegal_request_is_not_repeated(code: tuple[int, int]) -> None:
    target = make_target()
    async with opened(target) as lun:
        rule = target.faults.check_condition(5, *code, times=9, opcodes=READS)
        with pytest.raises(IllegalRequest):
            await lun.read(FAR, BLOCK)
        assert len(rule.caught) == 1


@pytest.mark.conformance("SCSI-017")
@pytest.mark.conformance("SCSI-023")
@pytest.mark.quirk("Q-01")
@pytest.mark.quirk("Q-03")
async def test_a_long_read_is_cut_to_the_units_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 blocks at most: 100 blocks are 13 commands, each with the length that its CDB says."""
    monkeypatch.setattr(inquiry, "MOST_TRANSFER_BYTES", 8 * BLOCK)
    target = make_target(RamDisk(4 * MEBI))
    data = os.urandom(100 * BLOCK)
    target.luns[0].disk.write(FAR, data)
    async with opened(target) as lun:
        seen: list[tuple[int, int]] = []

        def note(_: object, pdu: object) -> None:
            if type(pdu).__name__ == "ScsiCommand":
                command = parse_cdb(pdu.cdb)  # type: ignore[attr-defined]
                assert not pdu.immediate  # type: ignore[attr-defined]
                seen.append(
                    (command.data_length(BLOCK), pdu.expected_data_transfer_length)  # type: ignore[attr-defined]
                )

        target.faults.on_receive = note
        assert await lun.read(FAR, 100 * BLOCK) == data
        assert len(seen) == 13
        assert all(cdb == edtl <= 8 * BLOCK for cdb, edtl in seen)
        target.faults.clear()


@pytest.mark.conformance("SCSI-023")
async def test_the_third_of_five_pieces_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The request has failed as a whole, with the LBA; nothing that was not done is called done."""
    monkeypatch.setattr(inquiry, "MOST_TRANSFER_BYTES", 8 * BLOCK)
    target = make_target(RamDisk(4 * MEBI))
    first = FAR // BLOCK
    async with opened(target) as lun:
        target.faults.check_condition(
            3, 0x0C, 0, information=first + 20, opcodes=WRITES, lba=first + 16
        )
        with pytest.raises(MediumError) as caught:
            await lun.write(FAR, b"w" * 40 * BLOCK)
        assert caught.value.information == first + 20
        stored = target.luns[0].disk.read(FAR + 16 * BLOCK, 8 * BLOCK)
        assert stored == bytes(8 * BLOCK)


@pytest.mark.conformance("SCSI-025")
async def test_flushes_reach_the_unit_and_their_errors_the_caller() -> None:
    target = make_target(RamDisk(4 * MEBI, write_cache=True))
    async with opened(target) as lun:
        for count in range(1, 4):
            await lun.write(FAR, b"w" * BLOCK)
            await lun.flush()
            assert sum(target.counters.commands[opcode] for opcode in SYNCS) == count
        target.faults.check_condition(3, 0x0C, 0, opcodes=SYNCS)
        with pytest.raises(MediumError):
            await lun.flush()
        await lun.flush()


@pytest.mark.conformance("SCSI-025")
@pytest.mark.quirk("Q-20")
async def test_a_flush_has_a_time_of_its_own() -> None:
    """It may take longer than another command."""
    target = make_target(RamDisk(4 * MEBI, write_cache=True))
    chosen = replace(WAIT, command_timeout=1.0, flush_timeout=30.0)
    async with opened(target, chosen) as lun:
        target.faults.answer_late(2.5, opcodes=SYNCS, times=1)
        await lun.flush()
        assert target.counters.task_management.total() == 0, "its time was not up"


@pytest.mark.conformance("SCSI-026")
@pytest.mark.quirk("Q-21")
@pytest.mark.parametrize("refused", [True, False])
async def test_discards_keep_to_the_units_limit(
    refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8192 blocks for a descriptor: 100000 blocks are 13 commands. Where the unit refuses what it
    has promised (26/00), another command is used, or the discard ends with a clean error."""
    monkeypatch.setattr(inquiry, "MOST_UNMAP_BLOCKS", 8192)
    monkeypatch.setattr(inquiry, "MOST_UNMAP_DESCRIPTORS", 1)
    monkeypatch.setattr(inquiry, "_logical_block_provisioning", lambda *_: bytes((0, 0x84, 2, 0)))
    pages = dict(inquiry.PAGES)
    pages[0xB2] = lambda *_: bytes((0, 0x84, 2, 0))  # LBPU, LBPRZ: UNMAP alone
    monkeypatch.setattr(inquiry, "PAGES", pages)
    target = make_target(RamDisk(64 * MEBI, thin=True))
    async with opened(target) as lun:
        await lun.write(FAR, b"w" * BLOCK)
        if refused:
            rule = target.faults.check_condition(5, 0x26, 0, times=99, opcodes={Opcode.UNMAP})
            with pytest.raises(IllegalRequest):
                await lun.discard(0, 100_000 * BLOCK)
            assert not lun.unit.can_discard
            assert len(rule.caught) <= 8
            assert await lun.read(FAR, 1) == b"w"
        else:
            await lun.discard(0, 100_000 * BLOCK)
            assert target.counters.commands[Opcode.UNMAP] == 13
            assert await lun.read(FAR, 1) == b"\0"


@pytest.mark.conformance("SCSI-027")
@pytest.mark.parametrize("code", [(0x20, 0), (0x24, 0)])
async def test_write_same_has_one_block_and_a_way_out(code: tuple[int, int]) -> None:
    target = make_target(RamDisk(4 * MEBI))
    same = {Opcode.WRITE_SAME_10, Opcode.WRITE_SAME_16}
    async with opened(target) as lun:
        lengths: list[int] = []

        def note(_: object, pdu: object) -> None:
            if type(pdu).__name__ == "ScsiCommand" and pdu.cdb[0] in same:  # type: ignore[attr-defined]
                lengths.append(pdu.expected_data_transfer_length)  # type: ignore[attr-defined]

        target.faults.on_receive = note
        await lun.write(FAR, b"w" * 64 * BLOCK)
        await lun.write_zeroes(FAR, 64 * BLOCK)
        assert lengths == [BLOCK]
        assert await lun.read(FAR, 64 * BLOCK) == bytes(64 * BLOCK)
        await lun.write(FAR, b"w" * 64 * BLOCK)
        target.faults.check_condition(5, *code, times=99, opcodes=same)
        await lun.write_zeroes(FAR, 64 * BLOCK)
        assert await lun.read(FAR, 64 * BLOCK) == bytes(64 * BLOCK)
        target.faults.clear()


@pytest.mark.conformance("SCSI-032")
@pytest.mark.parametrize("done", [True, False])
async def test_plain_writes_are_sent_again_with_a_new_number(done: bool) -> None:
    target = make_target(RamDisk(4 * MEBI))
    async with opened(target) as lun:
        seen: list[tuple[int, int]] = []

        def note(_: object, pdu: object) -> None:
            if type(pdu).__name__ == "ScsiCommand" and pdu.cdb[0] in WRITES:  # type: ignore[attr-defined]
                seen.append((pdu.initiator_task_tag, pdu.cmd_sn))  # type: ignore[attr-defined]

        target.faults.on_receive = note
        target.faults.drop(carry_out=done, opcodes=WRITES)
        await lun.write(FAR, b"w" * BLOCK)
        assert await lun.read(FAR, 1) == b"w"
        assert len(seen) == 2
        assert seen[0][0] != seen[1][0]
        assert seen[0][1] != seen[1][1]
        target.faults.clear()
