# SPDX-License-Identifier: Apache-2.0
"""A logical unit that misbehaves, seen by who uses it: what is repeated, and what is told.

Library level, target and initiator in one loop. Connections that die are in
test_losses_on_python_target.py, logins in test_logins_on_python_target.py.
"""

from __future__ import annotations

import os
from typing import Any

import anyio
import pytest

from pyscsi_init import LogicalUnit, Settings, open_lun
from pyscsi_init.errors import (
    DataProtect,
    DeliveryFailure,
    HardwareError,
    IdentityMismatch,
    IllegalRequest,
    IscsiError,
    MediumError,
    NotReady,
    OutOfRange,
    ProtocolError,
    ReservationConflict,
    SpaceExhausted,
    TaskRejected,
)
from pyscsi_init.pdu import ScsiResponse
from pyscsi_init.scsi import (
    PersistentReserveOut,
    ReservationType,
    ReserveOutParameters,
    persistent_reserve_out,
)
from pyscsi_init.testing import READS, WRITES, RamDisk, SenseCode, TargetServer
from tests.support.logs import ExpectLogs
from tests.support.python_target import (
    MEBI,
    PATIENCE,
    WAIT,
    make_target,
    opened,
    until,
    url_of,
)

pytestmark = pytest.mark.anyio

BUSY, TASK_SET_FULL = 0x08, 0x28
UNIT_ATTENTIONS = (
    (0x6, 0x29, 0x00),
    (0x6, 0x29, 0x01),
    (0x6, 0x29, 0x02),
    (0x6, 0x29, 0x03),
    (0x6, 0x29, 0x07),
    (0x6, 0x2A, 0x01),
    (0x6, 0x2A, 0x06),
    (0x6, 0x2F, 0x00),
    (0x6, 0x38, 0x07),
    (0x6, 0x3F, 0x0E),
    (0x6, 0x3F, 0x03),
    (0x6, 0x28, 0x00),
    (0x6, 0x2A, 0x09),
    (0x6, 0x47, 0x7F),
    (0x6, 0x5A, 0x00),
    (0x6, 0xFF, 0xFF),
)


async def written_and_read(lun: LogicalUnit) -> None:
    data = os.urandom(3 * 4096 + 7)
    await lun.write(12_345, data)
    assert await lun.read(12_345, len(data)) == data


@pytest.mark.parametrize("status", [BUSY, TASK_SET_FULL])
@pytest.mark.parametrize("opcodes", [READS, WRITES, {0x35}], ids=["read", "write", "flush"])
async def test_a_busy_unit_is_asked_again(status: int, opcodes: frozenset[int]) -> None:
    disk = RamDisk(16 * MEBI, write_cache=True)
    target = make_target(disk)
    async with opened(target) as lun:
        rule = target.faults.status(status, times=4, opcodes=opcodes)
        with anyio.fail_after(PATIENCE):
            await lun.write(4096, b"x" * 512)
            await lun.flush()
            assert await lun.read(4096, 512) == b"x" * 512
        assert len(rule.caught) == 4
        assert disk.flushes == 1
        assert lun.session.statistics.losses == 0


@pytest.mark.parametrize("descriptor", [False, True])
async def test_unit_attentions_in_a_row(descriptor: bool) -> None:
    """Each is taken once and the command repeated, whatever it says about the unit."""
    target = make_target(sense_format="descriptor" if descriptor else "fixed")
    async with opened(target) as lun:
        for code in UNIT_ATTENTIONS:
            target.luns[0].attention(SenseCode(*code))
        nexus = target.sessions[0].nexus
        assert len(target.luns[0].nexuses[nexus]) == 16
        with anyio.fail_after(PATIENCE):
            await written_and_read(lun)
            assert target.luns[0].nexuses[nexus] == []
            for code in UNIT_ATTENTIONS:
                target.luns[0].attention(SenseCode(*code))
                await written_and_read(lun)
        assert lun.session.statistics.losses == 0


async def test_growth_is_told_by_a_unit_attention() -> None:
    target = make_target()
    async with opened(target) as lun:
        sizes: list[int] = []
        lun.size_changed.append(sizes.append)
        target.luns[0].grow(24 * MEBI)
        await lun.read(0, 512)
        await until(lambda: sizes)
        assert sizes == [24 * MEBI]
        assert lun.size_bytes == 24 * MEBI
        await lun.write(20 * MEBI + 5, b"beyond the old end")
        assert target.luns[0].disk.read(20 * MEBI + 5, 18) == b"beyond the old end"
        with pytest.raises(OutOfRange):
            await lun.read(24 * MEBI - 1, 2)


async def test_shrinking_is_told_and_nothing_lands_beyond_the_end() -> None:
    target = make_target()
    async with opened(target) as lun:
        sizes: list[int] = []
        lun.size_changed.append(sizes.append)
        target.luns[0].grow(8 * MEBI)  # a size is a size
        await lun.read(0, 512)
        await until(lambda: sizes)
        assert sizes == [8 * MEBI]
        with pytest.raises(OutOfRange):
            await lun.write(8 * MEBI, b"x" * 512)


async def test_an_untold_shrink_is_found_by_the_error() -> None:
    target = make_target(unit_attention_on_capacity_change=False)
    async with opened(target) as lun:
        sizes: list[int] = []
        lun.size_changed.append(sizes.append)
        target.luns[0].grow(8 * MEBI)
        with pytest.raises(OutOfRange, match="21/00"):
            await lun.read(12 * MEBI, 512)
        await until(lambda: sizes)
        assert sizes == [8 * MEBI]


@pytest.mark.parametrize(
    ("sense", "error", "text"),
    [
        ((0x3, 0x11, 0x00), MediumError, "LBA 1234"),
        ((0x3, 0x0C, 0x02), MediumError, "LBA 1234"),
        ((0x4, 0x44, 0x00), HardwareError, "44"),
        ((0x2, 0x04, 0x02), NotReady, "start it"),
        ((0x2, 0x3A, 0x00), NotReady, "MEDIUM NOT PRESENT"),
        ((0x7, 0x27, 0x07), SpaceExhausted, "extend it"),
        ((0x7, 0x27, 0x00), DataProtect, "WRITE PROTECTED"),
        ((0xB, 0x10, 0x01), IscsiError, "10"),
    ],
)
async def test_errors_are_told_once_and_the_unit_goes_on(
    sense: tuple[int, int, int], error: type[IscsiError], text: str
) -> None:
    target = make_target()
    async with opened(target) as lun:
        rule = target.faults.check_condition(*sense, information=1234, opcodes=READS | WRITES)
        with pytest.raises(error, match=f"(?i){text}") as caught:
            await lun.write(512 * 1230, b"x" * 512 * 8)
        if sense[0] == 0x3:
            assert isinstance(caught.value, MediumError)
            assert caught.value.information == 1234
        assert len(rule.caught) == 1
        await written_and_read(lun)


@pytest.mark.parametrize("code", [(0xB, 0x47, 0x05), (0xB, 0x0C, 0x0D), (0xB, 0x00, 0x00)])
async def test_what_the_transport_broke_is_sent_again(code: tuple[int, int, int]) -> None:
    target = make_target()
    async with opened(target) as lun:
        rule = target.faults.check_condition(*code, times=5, opcodes=WRITES)
        await written_and_read(lun)
        assert len(rule.caught) == 5


async def test_a_unit_that_becomes_ready_is_waited_for() -> None:
    target = make_target()
    async with opened(target) as lun:
        rule = target.faults.check_condition(0x2, 0x04, 0x01, times=3, opcodes=READS)
        with anyio.fail_after(PATIENCE):
            await written_and_read(lun)
        assert len(rule.caught) == 3


async def test_a_deferred_error_is_told_in_the_log_and_the_command_repeated(
    expect_logs: ExpectLogs,
) -> None:
    """Response code 71h: the error is of an earlier command (SPC-4 4.5.5)."""
    expect_logs("deferred", logger="pyscsi_init.device")
    target = make_target()
    async with opened(target) as lun:
        rule = target.faults.check_condition(0x3, 0x0C, 0x00, opcodes=READS)

        def defer(_: object, pdu: object) -> None:
            data = bytes(getattr(pdu, "data", b""))
            if getattr(pdu, "status", 0) == 0x02 and data[2:3] == b"\x70":
                pdu.data = data[:2] + b"\x71" + data[3:]  # type: ignore[attr-defined]

        target.faults.on_send = defer
        await written_and_read(lun)
        assert len(rule.caught) == 1


async def test_reservation_conflict() -> None:
    """Another initiator reserves: writes end with the conflict, reads go on; then it lets go."""
    target = make_target()
    key = 0x1234

    async def reserve_out(lun: LogicalUnit, action: PersistentReserveOut, **keys: Any) -> None:
        await lun.execute(
            persistent_reserve_out(action, reservation_type=ReservationType.WRITE_EXCLUSIVE),
            data_out=ReserveOutParameters(**keys).build(),
        )

    async with TargetServer([target]).running() as portal:
        url = url_of(portal.address)
        async with (
            open_lun(url, settings=WAIT, initiator_name="iqn.2026-11.example:one") as ours,
            open_lun(url, settings=WAIT, initiator_name="iqn.2026-11.example:two") as other,
        ):
            await reserve_out(other, PersistentReserveOut.REGISTER, service_action_key=key)
            await reserve_out(other, PersistentReserveOut.RESERVE, key=key)
            before = await ours.read(0, 512)
            with pytest.raises(ReservationConflict, match="another initiator"):
                await ours.write(0, b"x" * 512)
            with pytest.raises(ReservationConflict):
                await ours.write_zeroes(0, 512)
            assert await ours.read(0, 512) == before
            await other.write(0, b"y" * 512)
            await reserve_out(other, PersistentReserveOut.RELEASE, key=key)
            await ours.write(0, b"z" * 512)
            assert await other.read(0, 512) == b"z" * 512


@pytest.mark.parametrize("reason", [0x04, 0x05, 0x09])
async def test_a_rejected_command_ends_with_the_reason(reason: int) -> None:
    target = make_target()
    async with opened(target) as lun:
        target.faults.reject(reason, opcodes=WRITES)
        with pytest.raises(TaskRejected) as caught:
            await lun.write(4096, b"x" * 512)
        assert caught.value.reason == reason
        await written_and_read(lun)
        assert lun.session.statistics.losses == 0


@pytest.mark.parametrize("reason", [0x02, 0x06])
async def test_a_rejected_command_that_may_be_sent_again_is(reason: int) -> None:
    """RFC 7143 11.17.1: "Can the original PDU be resent?" Yes, for these."""
    target = make_target()
    async with opened(target) as lun:
        rule = target.faults.reject(reason, opcodes=WRITES, times=2)
        with anyio.fail_after(PATIENCE):
            await written_and_read(lun)
        assert len(rule.caught) == 2


async def test_a_target_failure_is_told() -> None:
    target = make_target()
    async with opened(target) as lun:
        target.faults.response(0x01, opcodes=WRITES)
        with pytest.raises(DeliveryFailure):
            await lun.write(4096, b"x" * 512)
        await written_and_read(lun)


async def test_short_data_is_never_taken_for_all_of_it() -> None:
    """GOOD with a residual (RFC 7143 11.4.5): not what a READ of whole blocks can end with."""
    target = make_target()
    async with opened(target) as lun:
        await lun.write(0, b"x" * 8192)
        rule = target.faults.short_data(512, opcodes=READS, times=3)
        assert await lun.read(0, 8192) == b"x" * 8192
        assert len(rule.caught) == 3
        target.faults.short_data(512, opcodes=READS, times=1000)
        with pytest.raises(ProtocolError, match="512 bytes less"):
            await lun.read(0, 8192)


async def test_a_write_that_was_taken_in_part_is_written_again() -> None:
    target = make_target()
    async with opened(target) as lun:
        parts = 2

        def claim_a_residual(_: object, pdu: object) -> None:
            nonlocal parts
            if isinstance(pdu, ScsiResponse) and parts:
                parts -= 1
                pdu.residual_underflow, pdu.residual_count = True, 512

        target.faults.on_send = claim_a_residual
        await lun.write(0, b"x" * 8192)
        assert target.luns[0].commands[0x2A] == 3


async def test_a_unit_that_vanishes_and_comes_back() -> None:
    target = make_target()
    async with opened(target) as lun:
        await lun.write(0, b"kept" * 128)
        unit = target.remove_lun(0)
        for _ in range(2):
            with pytest.raises(IllegalRequest, match="no such LUN") as caught:
                await lun.read(0, 512)
            assert (caught.value.asc, caught.value.ascq) == (0x25, 0x00)
        target.add_lun(0, unit)
        assert await lun.read(0, 512) == b"kept" * 128
        await written_and_read(lun)


async def test_another_unit_behind_the_lun_is_never_written(expect_logs: ExpectLogs) -> None:
    """The target says that its INQUIRY data changed: the command waits until that is looked at."""
    expect_logs("another logical unit", logger="pyscsi_init.session")
    target = make_target()
    async with opened(target) as lun:
        await lun.write(0, b"mine" * 128)
        stranger = RamDisk(16 * MEBI)
        target.luns[0].swap(stranger)
        with anyio.fail_after(PATIENCE), pytest.raises(IdentityMismatch):
            await lun.write(0, b"lost" * 128)
        with pytest.raises(IdentityMismatch):
            await lun.read(0, 512)
        assert stranger.read(0, 16 * MEBI) == bytes(16 * MEBI)
        assert isinstance(lun.session.failed, IdentityMismatch)


async def test_write_protected_later() -> None:
    target = make_target()
    async with opened(target) as lun:
        await lun.write(0, b"x" * 512)
        target.luns[0].disk.read_only = True
        with pytest.raises(DataProtect, match=r"(?i)write protected"):
            await lun.write(0, b"y" * 512)
        assert await lun.read(0, 512) == b"x" * 512
        target.luns[0].disk.read_only = False
        await lun.write(0, b"z" * 512)


async def test_a_unit_that_knows_no_write_same_is_given_zeros() -> None:
    target = make_target()
    async with opened(target) as lun:
        target.faults.check_condition(0x5, 0x20, 0x00, times=9, opcodes={0x41, 0x93})
        await lun.write(0, b"x" * MEBI)
        await lun.write_zeroes(1000, 500_000)
        assert await lun.read(0, MEBI) == b"x" * 1000 + bytes(500_000) + b"x" * (MEBI - 501_000)


async def test_many_requests_while_the_unit_complains() -> None:
    """A hundred writes at once, every third command refused in some passing way: all are done."""
    target = make_target(command_window=16)
    async with opened(target, Settings(recovery_timeout=None, queue_depth=64)) as lun:
        count = 0

        def third(_: object) -> bool:
            nonlocal count
            count += 1
            return count % 3 == 0

        target.faults.status(TASK_SET_FULL, times=15, when=third)
        target.faults.check_condition(0x6, 0x29, 0x00, times=15, when=third)
        target.faults.check_condition(0xB, 0x47, 0x05, times=15, when=third)
        model = {number: os.urandom(1024) for number in range(100)}
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for number, data in model.items():
                    group.start_soon(lun.write, number * 1024, data)
        assert sum(len(rule.caught) for rule in target.faults.rules) == 45
        target.faults.clear()
        for number, data in model.items():
            assert await lun.read(number * 1024, 1024) == data
