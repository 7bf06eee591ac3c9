# SPDX-License-Identifier: Apache-2.0
"""The unit as a block device, through a real session to a target that misbehaves on request."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import anyio
import pytest

from pyscsi_init.device import scsi_block
from pyscsi_init.device.interface import Operation
from pyscsi_init.errors import (
    DeviceBusy,
    IllegalRequest,
    MediumError,
    OutOfRange,
    ProtocolError,
    ReservationConflict,
    TaskAborted,
    UnitAttention,
    Unsupported,
)
from pyscsi_init.pdu import ScsiResponse, build_sense_segment
from pyscsi_init.scsi import Opcode, build_sense
from pyscsi_init.testing import READS, WRITES, RamDisk
from tests.pyscsi_init.device.running import BLOCK, FAR, SYNCS, Running, device, settled
from tests.support.logs import ExpectLogs
from tests.support.python_target import (
    MEBI,
    WAIT,
    RecordingDisk,
    make_target,
    opened,
    until,
)

pytestmark = pytest.mark.anyio

# -- what the unit says -------------------------------------------------------------------------


@pytest.mark.conformance("SCSI-003")
async def test_scsi_003_a_lost_write_is_told_to_who_flushes(expect_logs: ExpectLogs) -> None:
    """A deferred error says that an acknowledged write is lost: the command that carried the news
    goes on, the next flush must not say that all is well; the one after it may."""
    expect_logs("deferred", at_least=1)
    async with device(make_target(RamDisk(4 * MEBI, write_cache=True))) as (target, unit):
        await unit.write(FAR, b"w" * BLOCK)
        sense = build_sense(3, 0x0C, 0, deferred=True)
        fired: list[int] = []

        def deferred(_: Any, pdu: Any) -> Any:
            if type(pdu).__name__ == "DataIn" and not fired:
                fired.append(1)
                return [
                    ScsiResponse(
                        status=2,
                        initiator_task_tag=pdu.initiator_task_tag,
                        stat_sn=pdu.stat_sn,
                        exp_cmd_sn=pdu.exp_cmd_sn,
                        max_cmd_sn=pdu.max_cmd_sn,
                        residual_underflow=True,
                        residual_count=len(pdu.data),
                        data=build_sense_segment(sense),
                    )
                ]
            return None

        target.faults.on_send = deferred
        assert await unit.read(FAR, BLOCK) == b"w" * BLOCK
        assert fired
        with pytest.raises(MediumError, match="deferred"):
            await unit.flush()
        await unit.flush()


@pytest.mark.conformance("SCSI-007")
@pytest.mark.parametrize("status", [0x08, 0x28])
async def test_scsi_007_busy_for_ever_is_an_error(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scsi_block, "MAX_DELAYED_RETRIES", 3)
    async with device() as (target, unit):
        rule = target.faults.status(status, times=1000, opcodes=READS)
        with pytest.raises(DeviceBusy):
            await unit.read(0, BLOCK)
        assert len(rule.caught) == 4


@pytest.mark.conformance("SCSI-005")
async def test_scsi_005_a_storm_of_unit_attentions_ends() -> None:
    async with device() as (target, unit):
        rule = target.faults.check_condition(6, 0x29, 0, times=100_000, opcodes=WRITES)
        with pytest.raises(UnitAttention):
            await unit.write(FAR, bytes(BLOCK))
        assert len(rule.caught) == scsi_block.MAX_RETRIES + 1
        rule.cancel()
        await unit.write(FAR, bytes(BLOCK))


async def test_a_task_that_another_initiator_aborted_is_sent_again() -> None:
    async with device() as (target, unit):
        target.faults.status(0x40, times=2, opcodes=WRITES)
        await unit.write(FAR, b"a" * BLOCK)
        assert await unit.read(FAR, BLOCK) == b"a" * BLOCK


@pytest.mark.parametrize("missing", [BLOCK, 4 * BLOCK])
async def test_ffp_019_good_with_less_data_is_no_success(missing: int) -> None:
    async with device() as (target, unit):
        target.faults.short_data(missing, times=100_000, opcodes=READS)
        with pytest.raises(ProtocolError, match="less"):
            await unit.read(FAR, 4 * BLOCK)


async def test_recovered_errors_do_not_hide_a_hole(expect_logs: ExpectLogs) -> None:
    """RECOVERED ERROR is a success only with all of the data."""
    expect_logs("", at_least=1)
    async with device() as (target, unit):
        await unit.write(FAR, b"d" * BLOCK)
        target.faults.check_condition(1, 0x17, 0, times=2, opcodes=READS)
        assert await unit.read(FAR, BLOCK) == b"d" * BLOCK


@pytest.mark.parametrize("key", [(3, 0x11, 0), (4, 0x44, 0)])
async def test_errors_of_the_medium_are_told_at_once(key: tuple[int, int, int]) -> None:
    async with device() as (target, unit):
        rule = target.faults.check_condition(*key, times=5, opcodes=READS, lba=range(2048, 2056))
        error = (await settled(Running(unit, Operation.READ, FAR, bytearray(BLOCK))))[0]
        assert type(error).__name__ in ("MediumError", "HardwareError")
        assert len(rule.caught) == 1


# -- FUA, flushes, fallbacks ---------------------------------------------------------------------


@pytest.mark.conformance("SCSI-025")
@pytest.mark.parametrize("write_cache", [None, True, False])
@pytest.mark.parametrize("operation", [Operation.WRITE, Operation.WRITE_ZEROES])
async def test_fua_on_a_unit_that_does_not_know_it(
    write_cache: bool | None, operation: Operation
) -> None:
    """The write is followed by a flush, unless there is nothing to flush."""
    async with device(dpofua=False, write_cache=write_cache) as (target, unit):
        before = sum(target.counters.commands[code] for code in SYNCS)
        data = b"f" * BLOCK if operation is Operation.WRITE else None
        running = Running(unit, operation, FAR, data, length=BLOCK, fua=True)
        assert await running.error() is None
        after = sum(target.counters.commands[code] for code in SYNCS)
        assert after - before == (0 if write_cache is False else 1)
        assert not unit._then_flush


async def test_emulated_fua_survives_troubles(expect_logs: ExpectLogs) -> None:
    """A retry or a recovered error of the write must not lose the flush behind it."""
    expect_logs("", at_least=0)
    async with device(dpofua=False, write_cache=True) as (target, unit):
        for fault in (
            lambda: target.faults.check_condition(6, 0x29, 0, opcodes=WRITES),
            lambda: target.faults.check_condition(1, 0x17, 0, opcodes=WRITES),
            lambda: target.faults.status(0x08, opcodes=WRITES),
            lambda: target.faults.status(0x08, opcodes=SYNCS),
            lambda: target.faults.check_condition(6, 0x29, 0, opcodes=SYNCS),
        ):
            before = sum(target.counters.commands[code] for code in SYNCS)
            fault()
            assert await Running(unit, Operation.WRITE, FAR, b"f" * BLOCK, fua=True).error() is None
            assert sum(target.counters.commands[code] for code in SYNCS) > before
            assert not unit._then_flush


async def test_emulated_fua_that_fails_leaves_nothing() -> None:
    async with device(dpofua=False, write_cache=True) as (target, unit):
        target.faults.check_condition(3, 0x0C, 0, opcodes=WRITES)
        assert await Running(unit, Operation.WRITE, FAR, bytes(BLOCK), fua=True).error() is not None
        assert not unit._then_flush
        target.faults.check_condition(3, 0x0C, 0, opcodes=SYNCS)
        error = await Running(unit, Operation.WRITE, FAR, bytes(BLOCK), fua=True).error()
        assert isinstance(error, MediumError)
        assert not unit._then_flush
        assert not unit._tasks


@pytest.mark.conformance("SCSI-025")
@pytest.mark.parametrize("write_cache", [None, True])
@pytest.mark.parametrize("fua", [True, False])
async def test_a_unit_without_synchronize_cache(write_cache: bool | None, fua: bool) -> None:
    """SBC: 20/00 means that there is no cache, unless the unit claims one."""
    async with device(dpofua=False, write_cache=write_cache) as (target, unit):
        target.faults.check_condition(5, 0x20, 0, times=1000, opcodes=SYNCS)
        if fua:
            running = Running(unit, Operation.WRITE, FAR, bytes(BLOCK), fua=True)
        else:
            running = Running(unit, Operation.FLUSH, 0)
        error = await running.error()
        if write_cache:
            assert isinstance(error, IllegalRequest)
        else:
            assert error is None
            assert not unit.commands.flush_needed


@pytest.mark.conformance("SCSI-026")
async def test_discards_fall_back_and_end() -> None:
    disk = RamDisk(4 * MEBI, thin=True)
    async with device(make_target(disk)) as (target, unit):
        assert unit.can_discard
        refused: list[int] = []
        for opcode in (Opcode.WRITE_SAME_16, Opcode.UNMAP, Opcode.WRITE_SAME_10):
            target.faults.check_condition(5, 0x20, 0, times=1000, opcodes={opcode})
            refused.append(opcode)
            running = [
                Running(unit, Operation.DISCARD, FAR + n * BLOCK, length=BLOCK) for n in range(4)
            ]
            errors = await settled(*running)
            assert all(error is None or isinstance(error, IllegalRequest) for error in errors)
        assert not unit.can_discard
        error = await Running(unit, Operation.DISCARD, FAR, length=BLOCK).error()
        assert isinstance(error, Unsupported)
        assert unit.watch.witness.contents == ()


@pytest.mark.conformance("SCSI-027")
async def test_zeros_fall_back_to_writes() -> None:
    async with device() as (target, unit):
        await unit.write(FAR, b"x" * 8 * BLOCK)
        target.faults.check_condition(
            5, 0x20, 0, times=1000, opcodes={Opcode.WRITE_SAME_10, Opcode.WRITE_SAME_16}
        )
        running = [
            Running(unit, Operation.WRITE_ZEROES, FAR + n * BLOCK, length=BLOCK) for n in range(8)
        ]
        assert await settled(*running) == [None] * 8
        assert await unit.read(FAR, 8 * BLOCK) == bytes(8 * BLOCK)


# -- limits of what may be under way, cancellation, the end ---------------------------------------


async def test_queue_depth_holds_and_everything_is_served() -> None:
    target = make_target()
    most = 0
    async with device(target, replace(WAIT, queue_depth=4)) as (_, unit):
        hold = target.faults.hold_writes()
        running = [
            Running(unit, Operation.WRITE, FAR + n * BLOCK, bytes([n]) * BLOCK) for n in range(32)
        ]
        while any(not each.times for each in running):
            await until(lambda: hold.held or all(each.times for each in running))
            await anyio.wait_all_tasks_blocked()
            most = max(most, hold.held)
            hold.release(1, keep=True)
        assert most == 4
        assert await settled(*running) == [None] * 32


async def test_the_window_of_the_target_holds() -> None:
    target = make_target(command_window=2)
    async with device(target) as (_, unit):
        hold = target.faults.hold_writes()
        running = [
            Running(unit, Operation.WRITE, FAR + n * BLOCK, bytes([n]) * BLOCK) for n in range(16)
        ]
        await until(lambda: hold.held == 2)
        await anyio.wait_all_tasks_blocked()
        assert hold.held == 2
        hold.release()
        assert await settled(*running) == [None] * 16


async def test_cancelling_in_every_state() -> None:
    """Queued, on the wire, waiting for a busy unit: it ends once, and soon."""
    target = make_target(command_window=1)
    async with device(target) as (_, unit):
        hold = target.faults.hold_writes(lba=FAR // BLOCK)
        sent = Running(unit, Operation.WRITE, FAR, b"s" * BLOCK)
        queued = Running(unit, Operation.WRITE, FAR + BLOCK, b"q" * BLOCK)
        await until(lambda: hold.held)
        unit.cancel(queued.request)
        assert isinstance(await queued.error(), TaskAborted)
        unit.cancel(sent.request)
        assert isinstance(await sent.error(), TaskAborted)
        hold.release()
        target.faults.status(0x08, times=1000, opcodes=READS)
        busy = Running(unit, Operation.READ, FAR, bytearray(BLOCK))
        await until(lambda: unit._tasks.get(busy.request, 1) is None)
        unit.cancel(busy.request)
        unit.cancel(busy.request)
        assert isinstance(await busy.error(), TaskAborted)
        target.faults.clear()
        assert await unit.read(FAR, BLOCK) == bytes(BLOCK)
        unit.cancel(sent.request)  # long over


async def test_a_newer_write_after_a_cancelled_one_wins() -> None:
    """The old write was on its way to the medium when its caller gave up; the answer to the abort
    comes before the newer write leaves, so it cannot be overtaken."""
    disk = RecordingDisk(4 * MEBI)
    target = make_target(disk)
    async with device(target) as (_, unit):
        for _ in range(5):
            hold = target.faults.hold_writes(lba=FAR // BLOCK, times=1)
            old = Running(unit, Operation.WRITE, FAR, b"o" * BLOCK)
            await until(lambda hold=hold: hold.held)
            unit.cancel(old.request)
            await old.error()
            await unit.write(FAR, b"n" * BLOCK)
            hold.release()
            await anyio.wait_all_tasks_blocked()
            assert await unit.read(FAR, BLOCK) == b"n" * BLOCK


async def test_the_callers_buffer_is_its_own_again() -> None:
    """What completed early, or was aborted, is not read from the caller's memory any more."""
    disk = RamDisk(8 * MEBI)
    target = make_target(disk, initial_r2t=True, immediate_data=False)
    async with device(target) as (_, unit):
        target.faults.check_condition(0xB, 0x47, 5, times=3, opcodes=WRITES)
        buffer = bytearray(os.urandom(MEBI))
        kept = bytes(buffer)
        assert await Running(unit, Operation.WRITE, FAR, buffer).error() is None
        buffer[:] = bytes(MEBI)
        assert await unit.read(FAR, MEBI) == kept


async def test_closing_waits_for_what_is_under_way() -> None:
    """Requests in flight complete first; nothing is aborted that is about to end by itself."""
    target = make_target()
    async with opened(target) as lun:
        hold = target.faults.hold_writes()
        running = [
            Running(lun.unit, Operation.WRITE, FAR + n * BLOCK, bytes([n]) * BLOCK)
            for n in range(4)
        ]
        await until(lambda: hold.held == 4)
        async with anyio.create_task_group() as group:
            group.start_soon(lun.unit.aclose)
            await anyio.wait_all_tasks_blocked()
            assert not any(each.times for each in running)
            hold.release()
        assert await settled(*running) == [None] * 4


async def test_the_barrier_stays_until_the_last_request_is_over() -> None:
    """The session dies while the device is being closed: what is in flight is not replayed without
    a reset."""
    target = make_target()
    async with opened(target) as lun:
        unit = lun.unit
        hold = target.faults.hold_writes(times=1)
        write = Running(unit, Operation.WRITE, FAR, b"w" * BLOCK)
        await until(lambda: hold.held)
        async with anyio.create_task_group() as group:
            group.start_soon(unit.aclose)
            await anyio.wait_all_tasks_blocked()
            target.drop_connections()
            await until(lambda: target.counters.task_management[5])
            assert not write.times
            hold.release()
        assert await write.error() is None
        assert lun.session.restorers == []
        assert lun.session.async_events == []


async def test_closing_with_a_silent_unit_is_bounded() -> None:
    target = make_target()
    settings = replace(WAIT, logout_timeout=0.1, task_management_timeout=0.1)
    async with device(target, settings) as (_, unit):
        target.faults.never_answer(opcodes=WRITES)
        target.faults.ignore_task_management = 1
        write = Running(unit, Operation.WRITE, FAR, bytes(BLOCK))
        with anyio.fail_after(5):
            await unit.aclose()
        assert write.times == 1
        assert isinstance(write.request.error, Exception)


@pytest.mark.parametrize("operation", Operation)
async def test_ranges_are_checked_here(operation: Operation) -> None:
    async with device(make_target(RamDisk(MEBI, thin=True))) as (target, unit):
        before = sum(target.counters.commands.values())
        for offset, length in ((MEBI, BLOCK), (MEBI - BLOCK, 2 * BLOCK), (1 << 70, BLOCK)):
            data = bytearray(length) if operation <= Operation.WRITE else None
            running = Running(unit, operation, offset, data, length=length)
            error = await running.error()
            if operation is not Operation.FLUSH:
                assert isinstance(error, OutOfRange)
        if operation is not Operation.FLUSH:
            assert sum(target.counters.commands.values()) == before


async def test_reservation_conflicts_are_told_at_once() -> None:
    async with device() as (target, unit):
        rule = target.faults.status(0x18, times=5, opcodes=WRITES)
        with pytest.raises(ReservationConflict):
            await unit.write(FAR, bytes(BLOCK))
        assert len(rule.caught) == 1
