# SPDX-License-Identifier: Apache-2.0
"""Error recovery levels 1 and 2 between the library and the Python target: every PDU that can be
missing or damaged, and connections that die under load."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from pyscsi_init import LogicalUnit, Settings
from pyscsi_init.errors import OutcomeUnknown
from pyscsi_init.pdu import InitiatorOpcode, TargetOpcode
from pyscsi_init.testing import PduRule, Target
from tests.support.python_target import KIBI, MEBI, make_target, opened, until

pytestmark = pytest.mark.anyio

SIZE = 96 * KIBI
LOGICAL_UNIT_RESET, TASK_REASSIGN = 5, 8


def level(number: int, *, digest: bool = False, **kw: Any) -> Settings:
    kw.setdefault("recovery_timeout", None)
    kw.setdefault("noop_interval", 0.3)  # the last status of all is missed by silence alone
    return Settings(
        default_time2wait=0,
        error_recovery_level=number,
        data_digest=("CRC32C" if digest else "None",),
        max_recv_data_segment_length=8 * KIBI,
        max_burst_length=32 * KIBI,
        first_burst_length=16 * KIBI,
        **kw,
    )


def target_of(number: int, **kw: Any) -> Target:
    kw.setdefault("acknowledge_data", True)
    kw.setdefault("sequence_timeout", 0.2)
    kw.setdefault("max_recv_data_segment_length", 8 * KIBI)
    return make_target(
        error_recovery_level=number,
        default_time2retain=20,
        **kw,
    )


class Load:
    """Workers with pieces of their own; each piece is read back and compared."""

    def __init__(self, lun: LogicalUnit) -> None:
        self.lun = lun
        self.written: dict[int, bytes] = {}
        self.done = 0
        self.stopped = False

    async def work(self, number: int, count: int) -> None:
        choice = random.Random(number)
        while self.done < count or not self.stopped:
            piece = choice.randrange(20) * 8 + number
            if piece in self.written and choice.random() < 0.5:
                assert await self.lun.read(piece * SIZE, SIZE) == self.written[piece]
            else:
                data = os.urandom(16) * (SIZE // 16)
                await self.lun.write(piece * SIZE, data)
                self.written[piece] = data
            self.done += 1

    async def check(self) -> None:
        for piece, data in self.written.items():
            assert await self.lun.read(piece * SIZE, SIZE) == data


RULES: dict[str, Callable[[Target], PduRule]] = {
    "Data-In damaged": lambda t: t.faults.damage(TargetOpcode.DATA_IN, every=9, times=60),
    "Data-In lost": lambda t: t.faults.withhold(TargetOpcode.DATA_IN, every=11, times=60),
    "status lost": lambda t: t.faults.withhold(TargetOpcode.SCSI_RESPONSE, every=7, times=20),
    "R2T lost": lambda t: t.faults.withhold(TargetOpcode.READY_TO_TRANSFER, every=13, times=6),
    "command damaged": lambda t: t.faults.damage(
        InitiatorOpcode.SCSI_COMMAND, sent=False, every=7, times=20
    ),
    "Data-Out damaged": lambda t: t.faults.damage(
        InitiatorOpcode.DATA_OUT, sent=False, every=9, times=40
    ),
    "Data-Out lost": lambda t: t.faults.withhold(
        InitiatorOpcode.DATA_OUT, sent=False, every=31, times=10
    ),
    "command lost": lambda t: t.faults.withhold(InitiatorOpcode.SCSI_COMMAND, sent=False, skip=30),
}


@pytest.mark.one_loop
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("collapse", [True, False])
async def test_what_is_lost_or_damaged_is_repaired(name: str, collapse: bool) -> None:
    digest = "damaged" in name
    target = target_of(1, phase_collapse=collapse)
    async with opened(target, level(1, digest=digest), lun=0) as lun:
        assert lun.session.parameters.error_recovery_level == 1
        rule = RULES[name](target)
        load = Load(lun)
        load.stopped = True
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(load.work, number, 250)
        assert rule.caught
        await load.check()
        assert lun.session.statistics.losses == 0, lun.session.last_error


async def test_level_0_loses_the_connection_for_the_same_fault() -> None:
    target = target_of(0)
    async with opened(target, level(1)) as lun:
        assert lun.session.parameters.error_recovery_level == 0
        target.faults.withhold(TargetOpcode.DATA_IN, skip=1)
        await lun.write(0, bytes(SIZE))
        assert await lun.read(0, SIZE) == bytes(SIZE)
        assert lun.session.statistics.losses == 1
        assert target.counters.pdus_received[InitiatorOpcode.SNACK_REQUEST] == 0


async def test_a_session_outlives_its_connections_under_load() -> None:
    target = target_of(2)
    async with opened(target, level(2)) as lun:
        load = Load(lun)
        session = lun.session
        tsih = session.tsih
        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(load.work, number, 0)
            for cut in range(1, 9):
                count = load.done
                await until(lambda count=count: load.done > count + 10)
                if cut % 2:
                    target.drop_connections()
                else:
                    target.faults.drop_after_sent = target.sessions[0].connection.sent + cut
                await until(lambda cut=cut: session.statistics.continuations == cut)
            load.stopped = True
        await load.check()
        assert session.tsih == tsih
        assert target.counters.connections_reinstated == 8
        assert target.counters.sessions_reinstated == 0
        assert target.counters.task_management[LOGICAL_UNIT_RESET] == 0, "no barrier is needed"
        assert target.counters.task_management[TASK_REASSIGN] == session.statistics.reassigned > 8


async def test_a_raw_command_is_not_done_twice_and_its_outcome_is_known() -> None:
    """At level 0 it would end with OutcomeUnknown."""
    target = target_of(2)
    async with opened(target, level(2)) as lun:
        rule = target.faults.hold(opcodes={0x2A})
        cdb = bytes.fromhex("2a000000000000000100")
        results: list[object] = []

        async def write() -> None:
            results.append(await lun.session.execute(0, cdb, data_out=b"\x5a" * 512))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await rule.wait()
            target.drop_connections()
            await until(lambda: lun.session.statistics.continuations)
            rule.release()
        assert len(results) == 1
        assert target.counters.commands[0x2A] == 1
        assert await lun.read(0, 512) == b"\x5a" * 512


async def test_where_the_target_keeps_nothing_the_barrier_comes() -> None:
    target = target_of(2)
    target.settings.default_time2retain = 0
    async with opened(target, level(2)) as lun:
        held = target.faults.hold_writes()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lun.write, 0, b"\x11" * 4096)
            await held.wait()
            target.drop_connections()
            await until(lambda: lun.session.statistics.logins >= 2)
            held.release()
        assert lun.session.statistics.continuations == 0
        assert target.counters.task_management[LOGICAL_UNIT_RESET] == 1
        assert await lun.read(0, 4096) == b"\x11" * 4096


async def test_a_session_that_the_target_forgot_is_begun_anew_behind_the_barrier() -> None:
    target = target_of(2)
    async with opened(target, level(2)) as lun:
        held = target.faults.hold_writes(times=1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lun.write, 0, b"\x22" * 4096)
            await held.wait()
            session = target.sessions[0]
            session.connection.close()
            session.end()
            await until(lambda: lun.session.statistics.logins >= 2)
            held.release()
        assert lun.session.statistics.continuations == 0
        assert target.counters.task_management[LOGICAL_UNIT_RESET] == 1
        assert await lun.read(0, 4096) == b"\x22" * 4096


async def test_who_will_not_wait_is_told() -> None:
    """recovery_timeout ends the waiting at level 2, too."""
    target = target_of(2)
    async with opened(target, level(2, recovery_timeout=0.0)) as lun:
        rule = target.faults.never_answer(opcodes={0x2A})
        cdb = bytes.fromhex("2a000000000000000100")
        errors: list[Exception] = []

        async def write() -> None:
            try:
                await lun.session.execute(0, cdb, data_out=bytes(512))
            except OutcomeUnknown as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            await rule.wait()
            target.drop_connections()
        assert len(errors) == 1


async def test_capacity_is_unchanged_by_a_continuation() -> None:
    target = target_of(2)
    async with opened(target, level(2)) as lun:
        target.drop_connections()
        await until(lambda: lun.session.statistics.continuations == 1)
        assert lun.size_bytes == 16 * MEBI
        assert not lun.session.recovering
