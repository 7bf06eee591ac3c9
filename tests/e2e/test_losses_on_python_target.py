# SPDX-License-Identifier: Apache-2.0
"""Connections that die, and targets that do not answer: nothing is lost, nothing old lands on new.

The first tests are about the barrier. They are run against a target whose reset is no barrier too:
there the stale write must land, or the test would prove nothing.
"""

from __future__ import annotations

import os
import random
from typing import Any

import anyio
import pytest

from pyscsi_init import LogicalUnit, Settings
from pyscsi_init.errors import (
    CapacityShrunk,
    IdentityMismatch,
    OutcomeUnknown,
    TaskTimeout,
)
from pyscsi_init.scsi import write_10
from pyscsi_init.session import deadlines
from pyscsi_init.testing import READS, WRITES, RamDisk
from pyscsi_init.transport import recovery
from tests.support.logs import ExpectLogs
from tests.support.python_target import (
    MEBI,
    PATIENCE,
    RecordingDisk,
    make_target,
    opened,
    until,
)

pytestmark = pytest.mark.anyio

LBA, OFFSET, BLOCK = 4096, 4096 * 512, 512
ABORT_TASK, LOGICAL_UNIT_RESET = 1, 5
IMPATIENT = Settings(
    recovery_timeout=None,
    default_time2wait=0,
    login_timeout=0.3,
    command_timeout=0.05,
    flush_timeout=0.1,
    task_management_timeout=0.05,
    noop_interval=0.3,
    noop_timeout=0.3,
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outstanding commands are looked at once a second, and logins are tried with growing pauses:
    right for a network, long for a test."""
    monkeypatch.setattr(deadlines, "SCAN_INTERVAL", 0.02)
    monkeypatch.setattr(recovery, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(recovery, "LONGEST_DELAY", 0.02)


async def written_and_read(lun: LogicalUnit) -> None:
    data = os.urandom(3 * 4096 + 7)
    with anyio.fail_after(PATIENCE):
        await lun.write(12_345, data)
        assert await lun.read(12_345, len(data)) == data


async def test_a_held_write_lands_before_its_replay_and_before_a_newer_one() -> None:
    disk = RecordingDisk(16 * MEBI)
    target = make_target(disk, writes_outlive_session=True, reset_waits_for_writes=True)
    async with opened(target) as lun:
        held = target.faults.hold_writes(lba=LBA, times=1)
        done: list[str] = []

        async def write(data: bytes, name: str) -> None:
            await lun.write(OFFSET, data)
            done.append(name)

        async with anyio.create_task_group() as group:
            group.start_soon(write, b"1" * BLOCK, "first")
            with anyio.fail_after(PATIENCE):
                await held.wait()
            target.drop_connections()
            await until(lambda: target.counters.task_management[LOGICAL_UNIT_RESET])
            group.start_soon(write, b"2" * BLOCK, "second, not ordered with the first")
            await anyio.wait_all_tasks_blocked()
            assert (done, disk.writes, lun.session.recovering) == ([], [], True)
            held.release()
        await lun.write(OFFSET, b"3" * BLOCK)
        # The held one, its replay, and what came while all of it was waiting, in any order.
        assert [first for _, first in disk.writes[:2]] == [b"1", b"1"]
        assert sorted(disk.writes[1:3]) == [(OFFSET, b"1"), (OFFSET, b"2")]
        assert disk.writes[3:] == [(OFFSET, b"3")]
        assert await lun.read(OFFSET, BLOCK) == b"3" * BLOCK


@pytest.mark.parametrize("barrier", [True, False], ids=["reset-waits", "reset-does-not-wait"])
async def test_the_oracle_finds_a_stale_write(barrier: bool) -> None:
    """The same fault on a target whose reset waits, and on one whose reset does not: what the
    initiator does is the same, and only there the old write lands on top of the newer one."""
    disk = RecordingDisk(16 * MEBI)
    target = make_target(disk, writes_outlive_session=True, reset_waits_for_writes=barrier)
    async with opened(target) as lun:
        held = target.faults.hold_writes(lba=LBA, times=1)
        async with anyio.create_task_group() as group:
            group.start_soon(lun.write, OFFSET, b"old" * 170 + b"ol")
            with anyio.fail_after(PATIENCE):
                await held.wait()
            target.drop_connections()
            await until(lambda: target.counters.task_management[LOGICAL_UNIT_RESET])
            if barrier:
                held.release()
        await lun.write(OFFSET, b"new" * 170 + b"ne")
        held.release()
        stale = disk.read(OFFSET, BLOCK).startswith(b"old")
        assert stale is not barrier


async def test_a_write_that_was_given_up_in_time_lands_before_newer_ones() -> None:
    """A command without an answer: ABORT TASK does not stop it here, so only the barrier helps."""
    disk = RecordingDisk(16 * MEBI)
    target = make_target(disk, abort_stops_writes=False)
    async with opened(target, IMPATIENT) as lun:
        held = target.faults.hold_writes(lba=LBA, times=1)
        async with anyio.create_task_group() as group:
            group.start_soon(lun.write, OFFSET, b"1" * BLOCK)
            await until(lambda: target.counters.task_management[LOGICAL_UNIT_RESET])
            held.release()
        assert target.counters.task_management[ABORT_TASK] == 1
        await lun.write(OFFSET, b"2" * BLOCK)
        assert [first for _, first in disk.writes] == [b"1", b"1", b"2"]


@pytest.mark.parametrize(
    ("opcodes", "carry_out"),
    [(READS, False), (WRITES, True), (WRITES, False), ({0x35}, True)],
    ids=["read", "write-done", "write", "flush-done"],
)
@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_a_command_that_is_never_answered(opcodes: Any, carry_out: bool) -> None:
    target = make_target(RamDisk(16 * MEBI, write_cache=True))
    async with opened(target, IMPATIENT) as lun:
        await lun.write(0, b"x" * BLOCK)
        rule = target.faults.never_answer(carry_out=carry_out, opcodes=opcodes, times=1)
        with anyio.fail_after(PATIENCE):
            await lun.write(OFFSET, b"y" * BLOCK)
            await lun.flush()
            assert await lun.read(OFFSET, BLOCK) == b"y" * BLOCK
        assert len(rule.caught) == 1
        assert target.counters.task_management[ABORT_TASK] == 1
        assert lun.session.statistics.recoveries == 1


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_neither_the_command_nor_its_abort_is_answered() -> None:
    target = make_target()
    async with opened(target, IMPATIENT) as lun:
        target.faults.never_answer(opcodes=WRITES, times=1)
        target.faults.ignore_task_management = 1
        await written_and_read(lun)
        assert lun.session.statistics.recoveries == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)
async def test_a_command_that_is_never_answered_again_and_again_is_an_error() -> None:
    """It is the command then, not the network: the others go on."""
    target = make_target()
    async with opened(target, IMPATIENT) as lun:
        rule = target.faults.never_answer(lba=LBA)
        with anyio.fail_after(PATIENCE), pytest.raises(TaskTimeout):
            await lun.write(OFFSET, b"x" * BLOCK)
        assert len(rule.caught) == 4
        await written_and_read(lun)


@pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
async def test_a_silent_target_is_found_by_the_keepalive() -> None:
    target = make_target()
    async with opened(target, IMPATIENT) as lun:
        target.faults.silent = True
        await until(lambda: lun.session.statistics.losses)
        target.faults.silent = False
        await written_and_read(lun)


@pytest.mark.parametrize("carry_out", [True, False])
@pytest.mark.parametrize("opcodes", [READS, WRITES], ids=["read", "write"])
async def test_a_command_kills_the_connection(opcodes: Any, carry_out: bool) -> None:
    target = make_target()
    async with opened(target) as lun:
        rule = target.faults.drop(carry_out=carry_out, opcodes=opcodes, times=3)
        await written_and_read(lun)
        # A READ may be one of the recovery's own: then that recovery starts over.
        assert lun.session.statistics.losses == len(rule.caught) == 3


async def test_a_network_that_comes_and_goes_is_no_error() -> None:
    """The connection dies under one and the same write, time and again, and it is still done."""
    target = make_target()
    async with opened(target) as lun:
        rule = target.faults.drop(lba=LBA, times=25)
        with anyio.fail_after(PATIENCE):
            await lun.write(OFFSET, b"x" * BLOCK)
        assert len(rule.caught) == 25
        assert await lun.read(OFFSET, BLOCK) == b"x" * BLOCK


async def test_a_command_that_kills_every_connection_ends_at_last() -> None:
    """The others must not wait for it for ever."""
    target = make_target()
    async with opened(target) as lun:
        target.faults.drop(lba=LBA, times=1000)
        with anyio.fail_after(PATIENCE), pytest.raises(TaskTimeout, match="64 attempts"):
            await lun.write(OFFSET, b"x" * BLOCK)
        await written_and_read(lun)


async def test_a_raw_command_is_not_repeated() -> None:
    target = make_target()
    async with opened(target) as lun:
        rule = target.faults.drop(carry_out=True, opcodes={0x2A})
        with pytest.raises(OutcomeUnknown):
            await lun.execute(write_10(LBA, 1), data_out=b"r" * BLOCK)
        assert await lun.read(OFFSET, BLOCK) == b"r" * BLOCK
        assert len(rule.caught) == 1
        assert target.counters.commands[0x2A] == 1


@pytest.mark.parametrize(
    ("event", "parameters"),
    [
        (1, (0, 0, 1)),
        (1, (0, 0, 0)),
        (2, (0, 0, 0)),
        (3, (0, 0, 0)),
        (4, (0, 0, 3)),
        (255, (0, 0, 0)),
    ],
    ids=["logout", "logout-now", "drop-connection", "drop-session", "negotiate", "vendor"],
)
async def test_asynchronous_messages(event: int, parameters: tuple[int, int, int]) -> None:
    """RFC 7143 11.9.1: each while writes are in flight, and none of them is lost."""
    target = make_target()
    async with opened(target) as lun:
        late = target.faults.hold_writes(lba=range(LBA, LBA + 8))
        model = {number: os.urandom(BLOCK) for number in range(24)}
        with anyio.fail_after(PATIENCE):
            async with anyio.create_task_group() as group:
                for number, data in model.items():
                    group.start_soon(lun.write, OFFSET + number * BLOCK, data)
                await late.wait(8)
                session = target.sessions[0]
                session.async_message(event, parameters=parameters)
                if event in (2, 3):
                    session.drop()
                await anyio.wait_all_tasks_blocked()
                late.release()
            for number, data in model.items():
                assert await lun.read(OFFSET + number * BLOCK, BLOCK) == data
        assert lun.session.statistics.recoveries == (1 if event in (1, 2, 3) else 0)
        if event == 1:
            assert target.counters.logouts == 1


async def test_commands_are_rejected_until_we_log_out() -> None:
    """Reject 0Ch, waiting for logout, follows an Asynchronous Message that crossed our command."""
    target = make_target()
    async with opened(target) as lun:
        target.faults.reject(0x0C, opcodes=WRITES)
        await written_and_read(lun)
        assert lun.session.statistics.recoveries == 1


@pytest.mark.conformance("ERL-017")
async def test_logins_refused_for_a_while() -> None:
    """0301, service unavailable: it may pass, so a session that exists waits for it."""
    target = make_target()
    async with opened(target) as lun:
        await lun.write(OFFSET, b"before" * 85 + b"be")
        target.faults.refuse_logins = [(3, 1), (3, 2)]
        target.drop_connections()
        await written_and_read(lun)
        assert target.faults.refuse_logins == []
        assert lun.session.statistics.login_failures == 2
        assert (await lun.read(OFFSET, 6)) == b"before"


async def test_a_unit_that_is_not_there_yet_is_waited_for() -> None:
    """A target that restarts may accept logins before it has its disks."""
    target = make_target()
    async with opened(target) as lun:
        await lun.write(OFFSET, b"before" * 85 + b"be")
        unit = target.remove_lun(0)
        target.drop_connections()
        await until(lambda: target.counters.logins >= 3)
        assert lun.session.recovering
        target.add_lun(0, unit)
        await written_and_read(lun)
        assert (await lun.read(OFFSET, 6)) == b"before"


@pytest.mark.parametrize("what", ["another disk", "same serial, other content", "smaller"])
async def test_what_comes_back_is_not_what_was(what: str, expect_logs: ExpectLogs) -> None:
    expect_logs("failed: ", logger="pyscsi_init.session")
    signature = bytes(510) + b"\x55\xaa"
    disk = RamDisk(16 * MEBI, serial="SAME")
    disk.write(0, signature[:440] + b"AAAA" + signature[444:])
    target = make_target(disk)
    async with opened(target) as lun:
        await lun.write(OFFSET, b"mine" * 128)
        stranger = RamDisk(
            8 * MEBI if what == "smaller" else 16 * MEBI,
            serial="OTHER" if what == "another disk" else "SAME",
        )
        stranger.write(0, signature[:440] + b"BBBB" + signature[444:])
        before = stranger.read(0, stranger.size)
        target.luns[0].swap(stranger, announce=False)
        target.drop_connections()
        error = CapacityShrunk if what == "smaller" else IdentityMismatch
        for _ in range(2):
            with anyio.fail_after(PATIENCE), pytest.raises(error):
                await lun.write(OFFSET, b"lost" * 128)
        assert stranger.read(0, stranger.size) == before


async def test_a_loss_under_load_with_many_cuts() -> None:
    target = make_target(command_window=8)
    async with opened(target) as lun:
        model: dict[int, bytes] = {}
        choice = random.Random(7)
        done = 0
        stop = False

        async def writer(number: int) -> None:
            nonlocal done
            while not stop:
                block = choice.randrange(20) * 16 + number
                data = bytes([choice.randrange(256)]) * 3000
                await lun.write(block * 3000, data)
                model[block] = data
                back = choice.choice([b for b in model if b % 16 == number])
                assert await lun.read(back * 3000, 3000) == model[back]
                done += 1

        async with anyio.create_task_group() as group:
            for number in range(16):
                group.start_soon(writer, number)
            for _ in range(8):
                before = done
                await until(lambda before=before: done >= before + 20)  # type: ignore[misc]
                target.drop_connections()
            stop = True
        assert lun.session.statistics.losses == 8
        disk = target.luns[0].disk
        for block, data in model.items():
            assert disk.read(block * 3000, 3000) == data
