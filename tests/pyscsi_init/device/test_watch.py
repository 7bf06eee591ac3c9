# SPDX-License-Identifier: Apache-2.0
"""Is it still the same unit, and how large is it: told by the unit, or found after a loss."""

from __future__ import annotations

import os
from dataclasses import replace

import anyio
import pytest

from pyscsi_init.device.interface import Operation
from pyscsi_init.errors import (
    CapacityShrunk,
    IdentityMismatch,
    TaskAborted,
)
from pyscsi_init.scsi import Opcode, build_sense
from pyscsi_init.testing import READS, WRITES, RamDisk
from tests.pyscsi_init.device.running import BLOCK, FAR, Running, device, settled
from tests.support.logs import ExpectLogs
from tests.support.python_target import (
    MEBI,
    PATIENCE,
    WAIT,
    RecordingDisk,
    make_target,
    opened,
    until,
)

pytestmark = pytest.mark.anyio


@pytest.mark.conformance("SCSI-006")
async def test_scsi_006_asy_002_growth_told_without_a_command() -> None:
    """RFC 7143 11.9.1: an asynchronous SCSI event makes us look, like a unit attention does."""
    disk = RamDisk(4 * MEBI)
    target = make_target(disk, unit_attention_on_capacity_change=False)
    async with device(target) as (_, unit):
        sizes: list[int] = []
        unit.size_changed.append(sizes.append)
        disk.resize(8 * MEBI)
        sense = build_sense(6, 0x2A, 9)
        target.sessions[0].async_message(0, data=len(sense).to_bytes(2, "big") + sense)
        await until(lambda: sizes)
        assert sizes == [8 * MEBI]
        assert unit.identity.size_bytes == 8 * MEBI
        await unit.write(6 * MEBI, bytes(BLOCK))


@pytest.mark.conformance("SCSI-006")
async def test_scsi_006_growth_then_shrinking_under_a_loss_is_found(
    expect_logs: ExpectLogs,
) -> None:
    """What was grown into counts: coming back with the old size is a loss of blocks."""
    expect_logs("shrank")
    disk = RamDisk(4 * MEBI)
    target = make_target(disk)
    async with opened(target, replace(WAIT, recovery_timeout=5.0)) as lun:
        disk.resize(8 * MEBI)
        assert await lun.refresh_capacity() == 8 * MEBI
        await lun.write(6 * MEBI, b"beyond")
        disk.resize(4 * MEBI)
        target.drop_connections()
        with anyio.fail_after(PATIENCE), pytest.raises(CapacityShrunk):
            await lun.read(0, BLOCK)
        assert lun.session.failed is not None


# -- is it still the same ------------------------------------------------------------------------


@pytest.mark.conformance("SCSI-016")
async def test_nothing_is_sent_while_it_may_be_another_unit(expect_logs: ExpectLogs) -> None:
    """The medium changed under us: the write that heard of it, and all that come after, wait; none
    of them ever reaches the stranger."""
    expect_logs("failed", at_least=1)
    mine, stranger = RecordingDisk(4 * MEBI), RecordingDisk(4 * MEBI, serial="STRANGER")
    target = make_target(mine)
    async with opened(target) as lun:
        unit = lun.unit
        looking = target.faults.hold(opcodes={Opcode.INQUIRY})
        target.faults.check_condition(6, 0x28, 0, opcodes=WRITES)
        first = Running(unit, Operation.WRITE, FAR, b"1" * BLOCK)
        await until(lambda: unit.watch.suspicious)
        later = [Running(unit, Operation.WRITE, FAR + n * BLOCK, b"2" * BLOCK) for n in range(4)]
        later.append(Running(unit, Operation.READ, FAR, bytearray(BLOCK)))
        unit.cancel(later[0].request)
        assert isinstance(await later[0].error(), TaskAborted)
        target.add_lun(0, stranger, announce=False)
        await until(lambda: looking.held)
        looking.release()
        errors = await settled(first, *later[1:])
        assert all(isinstance(error, IdentityMismatch) for error in errors)
        assert stranger.writes == []
        assert mine.writes == []
        assert isinstance(lun.session.failed, IdentityMismatch)


async def test_a_false_alarm_costs_nothing() -> None:
    target = make_target()
    async with device(target) as (_, unit):
        target.faults.check_condition(6, 0x28, 0, opcodes=WRITES)
        running = [
            Running(unit, Operation.WRITE, FAR + n * BLOCK, bytes([n]) * BLOCK) for n in range(8)
        ]
        assert await settled(*running) == [None] * 8
        assert not unit.watch.suspicious
        for n in range(8):
            assert await unit.read(FAR + n * BLOCK, BLOCK) == bytes([n]) * BLOCK


async def test_a_unit_that_cannot_say_who_it_is(expect_logs: ExpectLogs) -> None:
    """No answer is no permission: what waits ends with the error, what comes next asks again."""
    expect_logs("not how", at_least=1)
    target = make_target()
    async with device(target) as (_, unit):
        target.faults.check_condition(6, 0x28, 0, opcodes=WRITES)
        silent = target.faults.check_condition(4, 0x44, 0, times=1, opcodes={Opcode.INQUIRY})
        error = await Running(unit, Operation.WRITE, FAR, bytes(BLOCK)).error()
        assert error is not None
        assert unit.watch.suspicious
        assert len(silent.caught) == 1
        assert await Running(unit, Operation.WRITE, FAR, b"w" * BLOCK).error() is None
        assert not unit.watch.suspicious


async def test_the_content_is_a_witness_too(expect_logs: ExpectLogs) -> None:
    """A target that swaps the disk and keeps every designator."""
    expect_logs("failed", at_least=1)
    mine, stranger = RamDisk(4 * MEBI, serial="SAME"), RecordingDisk(4 * MEBI, serial="SAME")
    superblock = bytearray(BLOCK)
    superblock[56:58], superblock[104:120] = b"\x53\xef", os.urandom(16)
    target = make_target(mine)
    async with opened(target) as lun:
        await lun.write(1024, bytes(superblock))
        assert lun.unit.witness.contents
        target.add_lun(0, stranger, announce=False)
        target.drop_connections()
        with anyio.fail_after(PATIENCE), pytest.raises(Exception, match=r"content|failed"):
            await lun.write(FAR, bytes(BLOCK))
        assert stranger.writes == []


async def test_the_witness_follows_raw_commands() -> None:
    target = make_target()
    async with opened(target) as lun:
        superblock = bytearray(BLOCK)
        superblock[56:58], superblock[104:120] = b"\x53\xef", b"u" * 16
        await lun.execute(
            bytes.fromhex("2a000000000200000100") + bytes(6), data_out=bytes(superblock)
        )
        await until(lambda: not lun.unit.witness.stale)
        assert lun.unit.witness.contents == (f"ext.{(b'u' * 16).hex()}",)
        target.drop_connections()
        with anyio.fail_after(PATIENCE):
            assert await lun.read(1024, BLOCK) == superblock


async def test_a_refresh_that_a_write_overtakes_is_not_believed() -> None:
    """The start is read while a write to it begins and ends: what was read may be older."""
    target = make_target()
    async with opened(target) as lun:
        unit = lun.unit
        reads = target.faults.hold(opcodes=READS)
        unit.content_changed()
        await until(lambda: reads.held)
        superblock = bytearray(BLOCK)
        superblock[56:58], superblock[104:120] = b"\x53\xef", b"n" * 16
        reads.release(1, keep=True)
        await until(lambda: reads.held)
        await unit.write(1024, bytes(superblock))
        reads.release()
        await until(lambda: not unit.witness.stale)
        assert unit.witness.contents == (f"ext.{(b'n' * 16).hex()}",)
