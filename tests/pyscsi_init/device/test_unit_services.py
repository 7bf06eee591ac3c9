# SPDX-License-Identifier: Apache-2.0
"""Compare and write, verify, extents: through a session to a target that misbehaves on request."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from pyscsi_init import Extent, LogicalUnit
from pyscsi_init.errors import (
    IllegalRequest,
    LocalProtocolError,
    MediumError,
    Miscompare,
    OutcomeUnknown,
    OutOfRange,
    ReadOnlyDevice,
    ReservationConflict,
    Unsupported,
)
from pyscsi_init.scsi import Opcode, ProvisioningStatus
from pyscsi_init.testing import RamDisk, Target
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

BLOCK = 512
FAR = 1 << 20
CAW, GET_LBA_STATUS, MAINTENANCE_IN = 0x89, 0x9E, 0xA3
VERIFIES = {Opcode.VERIFY_10, Opcode.VERIFY_16}
WRITE_VERIFIES = {Opcode.WRITE_AND_VERIFY_10, Opcode.WRITE_AND_VERIFY_16}


@asynccontextmanager
async def lun_of(target: Target, **kw: Any) -> AsyncIterator[LogicalUnit]:
    with anyio.fail_after(6 * PATIENCE):
        async with opened(target, WAIT, **kw) as lun:
            yield lun


# -- COMPARE AND WRITE --------------------------------------------------------------------------


@pytest.mark.conformance("SCSI-028")
@pytest.mark.parametrize("block_size", [512, 4096])
async def test_a_match_writes_and_a_miscompare_tells_where(block_size: int) -> None:
    async with lun_of(make_target(RamDisk(4 * MEBI, block_size=block_size))) as lun:
        old, new = os.urandom(2 * block_size), os.urandom(2 * block_size)
        await lun.write(FAR, old)
        await lun.compare_and_write(FAR, old, new)
        assert await lun.read(FAR, len(new)) == new
        wrong = bytearray(new)
        wrong[5] ^= 1
        with pytest.raises(Miscompare, match="first difference at byte 5") as caught:
            await lun.compare_and_write(FAR, wrong, old)
        assert caught.value.offset == 5
        assert await lun.read(FAR, len(new)) == new


@pytest.mark.conformance("SCSI-028")
@pytest.mark.conformance("SCSI-032")
@pytest.mark.parametrize("done", [True, False])
async def test_a_lost_one_is_not_sent_again(done: bool) -> None:
    """It would compare with what it wrote itself. The unit is reset before the next command, so
    what is read then stays."""
    target = make_target(RamDisk(4 * MEBI))
    async with lun_of(target) as lun:
        target.faults.drop(carry_out=done, opcodes={CAW})
        with pytest.raises(OutcomeUnknown, match="read the blocks"):
            await lun.compare_and_write(FAR, bytes(BLOCK), b"n" * BLOCK)
        assert await lun.read(FAR, BLOCK) == (b"n" if done else b"\0") * BLOCK
        assert target.counters.commands[CAW] == 1
        assert target.counters.task_management[5] == 1, "LOGICAL UNIT RESET"


async def test_one_that_would_land_later_does_not() -> None:
    """It is still under way when its session dies: the reset waits for it, so it was done before
    the blocks can be read, and nothing newer is lost."""
    target = make_target(RamDisk(4 * MEBI))
    async with lun_of(target) as lun:
        held = target.faults.hold(opcodes={CAW})
        async with anyio.create_task_group() as tasks:

            async def lose() -> None:
                with pytest.raises(OutcomeUnknown):
                    await lun.compare_and_write(FAR, bytes(BLOCK), b"n" * BLOCK)

            tasks.start_soon(lose)
            await held.wait()
            target.drop_connections()
            tasks.start_soon(lun.write, FAR, b"newer" + bytes(BLOCK - 5))
            with anyio.move_on_after(0.3):
                await anyio.sleep_forever()  # real time: the barrier must still be waiting
            assert target.luns[0].commands[Opcode.WRITE_10] == 0
            held.release()
        assert (await lun.read(FAR, 5)) == b"newer"


async def test_a_unit_attention_before_it_is_taken() -> None:
    target = make_target(RamDisk(4 * MEBI))
    async with lun_of(target) as lun:
        for code in ((6, 0x29, 0), (6, 0x2A, 1)):
            target.faults.check_condition(*code, opcodes={CAW})
        target.faults.status(0x08, times=2, opcodes={CAW})
        await lun.compare_and_write(FAR, bytes(BLOCK), b"n" * BLOCK)
        assert await lun.read(FAR, BLOCK) == b"n" * BLOCK


async def test_one_that_was_aborted_half_way_is_not_repeated() -> None:
    target = make_target(RamDisk(4 * MEBI))
    async with lun_of(target) as lun:
        rule = target.faults.check_condition(0xB, 0x44, 0, opcodes={CAW})
        with pytest.raises(Exception, match="ABORTED COMMAND"):
            await lun.compare_and_write(FAR, bytes(BLOCK), b"n" * BLOCK)
        assert len(rule.caught) == 1
        target.faults.status(0x40, opcodes={CAW})
        with pytest.raises(Exception, match="TASK ABORTED"):
            await lun.compare_and_write(FAR, bytes(BLOCK), b"n" * BLOCK)


async def test_compare_and_write_limits() -> None:
    target = make_target(RamDisk(4 * MEBI))
    async with lun_of(target) as lun:
        most = lun.max_compare_and_write_bytes
        assert most == 64 * BLOCK
        await lun.compare_and_write(FAR, bytes(most), b"x" * most)
        with pytest.raises(Unsupported, match="at most 32768"):
            await lun.compare_and_write(FAR, bytes(most + BLOCK), bytes(most + BLOCK))
        with pytest.raises(LocalProtocolError, match="equally"):
            await lun.compare_and_write(FAR, bytes(BLOCK), bytes(2 * BLOCK))
        with pytest.raises(LocalProtocolError, match="whole blocks"):
            await lun.compare_and_write(FAR + 1, bytes(BLOCK), bytes(BLOCK))
        with pytest.raises(OutOfRange):
            await lun.compare_and_write(4 * MEBI, bytes(BLOCK), bytes(BLOCK))
        await lun.compare_and_write(FAR, b"", b"")
        assert target.counters.commands[CAW] == 1
        target.faults.check_condition(5, 0x20, 0, opcodes={CAW})
        with pytest.raises(Unsupported, match="COMPARE AND WRITE"):
            await lun.compare_and_write(FAR, bytes(BLOCK), bytes(BLOCK))
        target.faults.status(0x18, opcodes={CAW})
        with pytest.raises(ReservationConflict):
            await lun.compare_and_write(FAR, bytes(BLOCK), bytes(BLOCK))


async def test_a_read_only_unit_is_not_written() -> None:
    async with lun_of(make_target(), read_only=True) as lun:
        with pytest.raises(ReadOnlyDevice):
            await lun.compare_and_write(FAR, bytes(BLOCK), bytes(BLOCK))
        with pytest.raises(ReadOnlyDevice):
            await lun.write_and_verify(FAR, bytes(BLOCK))


async def test_the_start_of_the_disk_is_followed() -> None:
    """The start bears witness to what disk it is; writing it in these ways must not make another
    disk of it after the next login."""
    target = make_target(RamDisk(4 * MEBI))
    async with lun_of(target) as lun:
        superblock = bytearray(BLOCK)
        superblock[56:58] = b"\x53\xef"
        superblock[104:120] = os.urandom(16)
        await lun.compare_and_write(1024, bytes(BLOCK), superblock)
        target.drop_connections()
        assert await lun.read(1024, BLOCK) == superblock
        superblock[104:120] = os.urandom(16)
        target.faults.drop(carry_out=True, opcodes=WRITE_VERIFIES)
        await lun.write_and_verify(1024, superblock)
        target.drop_connections()
        assert await lun.read(1024, BLOCK) == superblock
        assert lun.session.failed is None


# -- VERIFY, WRITE AND VERIFY -------------------------------------------------------------------


async def test_verify_in_pieces() -> None:
    target = make_target(RamDisk(24 * MEBI))
    async with lun_of(target) as lun:
        await lun.verify(0, lun.size_bytes)
        assert sum(target.counters.commands[each] for each in VERIFIES) == 6
        target.faults.drop(opcodes=VERIFIES)
        await lun.verify(0, BLOCK)  # it only asks, so it is asked again
        rule = target.faults.check_condition(3, 0x11, 0, information=77, opcodes=VERIFIES)
        with pytest.raises(MediumError, match="first bad LBA 77") as caught:
            await lun.verify(0, lun.size_bytes)
        assert caught.value.information == 77
        assert len(rule.caught) == 1
        target.faults.check_condition(5, 0x20, 0, opcodes=VERIFIES)
        with pytest.raises(Unsupported, match=r"VERIFY\(10\)"):
            await lun.verify(0, BLOCK)


async def test_compare_tells_where() -> None:
    target = make_target(RamDisk(24 * MEBI))
    async with lun_of(target) as lun:
        data = os.urandom(9 * MEBI)
        await lun.write(FAR, data)
        await lun.compare(FAR, data)
        wrong = bytearray(data)
        wrong[8 * MEBI + 77] ^= 1
        with pytest.raises(Miscompare) as caught:
            await lun.compare(FAR, wrong)
        assert caught.value.offset == 8 * MEBI + 77
        target.faults.check_condition(0xE, 0x1D, 0, opcodes=VERIFIES)
        with pytest.raises(Miscompare, match="equal now") as caught:
            await lun.compare(FAR, data)
        assert caught.value.offset is None


@pytest.mark.parametrize("compare", [False, True])
async def test_write_and_verify(compare: bool) -> None:
    disk = RecordingDisk(24 * MEBI)
    target = make_target(disk)
    async with lun_of(target) as lun:
        data = os.urandom(9 * MEBI)
        await lun.write_and_verify(FAR, data, compare=compare)
        assert await lun.read(FAR, len(data)) == data
        assert len(disk.writes) == 3
        rule = target.faults.drop(carry_out=True, opcodes=WRITE_VERIFIES)
        await lun.write_and_verify(FAR, b"again" + bytes(BLOCK - 5))
        assert len(rule.caught) == 1
        assert await lun.read(FAR, 5) == b"again"
        assert target.counters.task_management[5] == 1, "LOGICAL UNIT RESET before it"


# -- GET LBA STATUS, REPORT SUPPORTED OPERATION CODES -------------------------------------------


async def test_extents() -> None:
    disk = RamDisk(16 * MEBI, thin=True)
    async with lun_of(make_target(disk)) as lun:
        await lun.write(FAR, b"x" * 8192)
        found = await lun.extents(0, lun.size_bytes)
        assert [(e.offset, e.length, e.deallocated) for e in found] == [
            (0, FAR, True),
            (FAR, 8192, False),
            (FAR + 8192, 15 * MEBI - 8192, True),
        ]
        part = await lun.extents(FAR + 4096, 8192)
        assert [(e.offset, e.length) for e in part] == [(FAR + 4096, 4096), (FAR + 8192, 4096)]
        assert await lun.extents(0, 0) == []


async def test_more_extents_than_one_answer_holds() -> None:
    disk = RamDisk(16 * MEBI, thin=True)
    async with lun_of(make_target(disk)) as lun:
        for at in range(0, 8 * MEBI, 16384):
            await lun.write(at, b"x" * 4096)
        found = await lun.extents(0, 8 * MEBI)
        assert len(found) == 1024
        assert sum(e.length for e in found) == 8 * MEBI
        assert [e.deallocated for e in found] == [False, True] * 512


@pytest.mark.conformance("SCSI-031")
@pytest.mark.quirk("Q-32")
@pytest.mark.parametrize("kind", ["wrong start", "no data"])
async def test_an_answer_to_another_question_is_not_believed(kind: str) -> None:
    target = make_target(RamDisk(16 * MEBI, thin=True))
    async with lun_of(target) as lun:
        if kind == "no data":
            target.faults.short_data(1 << 16, opcodes={GET_LBA_STATUS})
        else:
            target.luns[0].disk.extents = lambda *_: iter([(999, 1, False)])  # type: ignore[method-assign]
        found = await lun.extents(FAR, 8192)
    assert found == [Extent(FAR, 8192, ProvisioningStatus.MAPPED)]


async def test_a_unit_that_is_not_thin_knows_no_extents() -> None:
    async with lun_of(make_target(RamDisk(MEBI))) as lun:
        with pytest.raises(Unsupported, match="GET LBA STATUS"):
            await lun.extents(0, MEBI)


@pytest.mark.conformance("SCSI-031")
@pytest.mark.quirk("Q-30")
@pytest.mark.quirk("Q-32")
async def test_supported_operation_codes_are_asked_on_demand_only() -> None:
    target = make_target()
    async with lun_of(target) as lun:
        assert target.counters.commands[MAINTENANCE_IN] == 0
        assert await lun.supports(Opcode.COMPARE_AND_WRITE) is True
        assert await lun.supports(Opcode.SANITIZE) is False
        assert await lun.supports(0x9E, 0x12) is True
        target.faults.short_data(64, opcodes={MAINTENANCE_IN})
        assert await lun.supports(Opcode.VERIFY_10) is None, "GOOD, and no data"
        target.faults.check_condition(5, 0x20, 0, opcodes={MAINTENANCE_IN})
        assert await lun.supports(Opcode.VERIFY_10) is None, "refused"


async def test_another_unit_gets_nothing(expect_logs: ExpectLogs) -> None:
    """INQUIRY DATA HAS CHANGED before the command: who answers is asked first."""
    expect_logs("another logical unit answers")
    target = make_target(RamDisk(4 * MEBI, serial="one"))
    async with lun_of(target) as lun:
        other = RamDisk(4 * MEBI, serial="two")
        target.luns[0].swap(other)
        with pytest.raises(Exception, match="another"):
            await lun.compare_and_write(FAR, bytes(BLOCK), b"n" * BLOCK)
        # The command and the session ask on their own, and either may be told first.
        await until(lambda: lun.session.failed is not None)
        assert other.read(FAR, BLOCK) == bytes(BLOCK)
        assert target.luns[0].commands[CAW] <= 1


async def test_a_refusal_for_another_reason_is_told_as_it_is() -> None:
    target = make_target()
    async with lun_of(target) as lun:
        target.faults.check_condition(5, 0x26, 0, opcodes=VERIFIES)
        with pytest.raises(IllegalRequest):
            await lun.verify(0, BLOCK)
