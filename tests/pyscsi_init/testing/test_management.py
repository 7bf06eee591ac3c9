# SPDX-License-Identifier: Apache-2.0
"""Task management: what each function ends, what it leaves alone, and who is told."""

from __future__ import annotations

import pytest

from pyscsi_init.pdu import TaskManagementResponse
from pyscsi_init.testing import RamDisk, Target, TargetServer, TargetSettings
from tests.pyscsi_init.testing.raw_initiator import (
    TEST_UNIT_READY,
    logged_in,
    read_10,
    write_10,
)

pytestmark = pytest.mark.anyio

IQN = "iqn.2024-01.example:disk"
OTHER = b"\x80\0\0\0\0\x02"


def make_target(**settings: object) -> Target:
    return Target(
        IQN,
        luns={0: RamDisk(1 << 20), 1: RamDisk(1 << 20)},
        settings=TargetSettings(**settings),  # type: ignore[arg-type]
    )


async def test_abort_task() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        held = target.faults.hold()
        first = await initiator.start(read_10(0, 1), read=512)
        second = await initiator.start(read_10(1, 1), read=512)
        await held.wait(2)
        assert await initiator.manage(1, referenced=first) == 0
        assert await initiator.manage(1, referenced=first, ref_cmd_sn=100) == 1, "no such task"
        held.release()
        assert (await initiator.finish(second)).status == 0
        assert target.counters.task_management[1] == 2


async def test_aborting_a_command_that_never_came_closes_the_gap() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        lost, initiator.cmd_sn = initiator.cmd_sn, initiator.cmd_sn + 1
        tag = await initiator.start(TEST_UNIT_READY)
        await initiator.start_managing(1, referenced=999, ref_cmd_sn=lost)
        assert (await initiator.finish(tag)).status == 0, "the command behind the gap"
        response = await initiator.receive()
        assert isinstance(response, TaskManagementResponse)
        assert (response.response, initiator.exp_cmd_sn) == (0, lost + 2)


async def test_abort_task_set_ends_the_tasks_of_one_nexus_on_one_unit() -> None:
    target = make_target()
    async with (
        TargetServer([target]).running() as portal,
        logged_in(portal, IQN) as one,
        logged_in(portal, IQN, isid=OTHER) as two,
    ):
        held = target.faults.hold(opcodes={0x28})
        await one.start(read_10(0, 1), read=512)
        elsewhere = await one.start(read_10(0, 1), read=512, lun=1)
        others = await two.start(read_10(0, 1), read=512)
        await held.wait(3)
        assert await one.manage(2) == 0
        held.release()
        assert (await one.finish(elsewhere)).status == 0
        assert (await two.finish(others)).status == 0
        assert (await two.execute(TEST_UNIT_READY)).status == 0


async def test_clear_task_set_ends_those_of_all_and_tells_the_others() -> None:
    target = make_target()
    async with (
        TargetServer([target]).running() as portal,
        logged_in(portal, IQN) as one,
        logged_in(portal, IQN, isid=OTHER) as two,
    ):
        held = target.faults.hold(opcodes={0x28})
        await one.start(read_10(0, 1), read=512)
        await two.start(read_10(0, 1), read=512)
        await held.wait(2)
        assert await one.manage(4) == 0
        held.release()
        assert (await one.execute(TEST_UNIT_READY)).status == 0
        assert (await two.execute(TEST_UNIT_READY)).code == (6, 0x2F, 0)


@pytest.mark.parametrize("to_all", [False, True])
async def test_logical_unit_reset(to_all: bool) -> None:
    target = make_target(reset_unit_attention_to_all=to_all)
    async with (
        TargetServer([target]).running() as portal,
        logged_in(portal, IQN) as one,
        logged_in(portal, IQN, isid=OTHER) as two,
    ):
        assert (await one.execute(b"\x16" + bytes(5))).status == 0
        assert (await two.execute(read_10(0, 1), read=512)).status == 0x18
        assert await one.manage(5) == 0
        assert (await two.execute(TEST_UNIT_READY)).code == (6, 0x29, 3)
        assert (await two.execute(read_10(0, 1), read=512)).status == 0, "no longer reserved"
        assert (await two.execute(TEST_UNIT_READY, lun=1)).status == 0, "another unit"
        answer = await one.execute(TEST_UNIT_READY)
        assert (answer.status == 2) is to_all


async def test_a_reset_ends_a_write_that_waits_for_its_data() -> None:
    target = make_target()
    async with (
        TargetServer([target]).running() as portal,
        logged_in(portal, IQN, ImmediateData="No", InitialR2T="Yes") as initiator,
    ):
        await initiator.start(write_10(0, 1), write=b"x" * 512)
        r2t = await initiator.receive()
        assert r2t.opcode == 0x31
        assert await initiator.manage(5) == 0
        await initiator.answer_r2t(r2t, b"x" * 512)  # type: ignore[arg-type]
        assert (await initiator.execute(TEST_UNIT_READY)).code == (6, 0x29, 3)
        answer = await initiator.execute(read_10(0, 1), read=512)
        assert answer.data == bytes(512), "late data is ignored, and nothing is rejected"
        assert target.counters.rejects == 0


async def test_target_warm_reset_reaches_all_units() -> None:
    async with (
        TargetServer([make_target()]).running() as portal,
        logged_in(portal, IQN) as one,
        logged_in(portal, IQN, isid=OTHER) as two,
    ):
        assert await one.manage(6) == 0
        for lun in (0, 1):
            assert (await two.execute(TEST_UNIT_READY, lun=lun)).code == (6, 0x29, 3)


async def test_target_cold_reset_ends_all_sessions() -> None:
    target = make_target()
    async with (
        TargetServer([target]).running() as portal,
        logged_in(portal, IQN) as one,
        logged_in(portal, IQN, isid=OTHER) as two,
    ):
        assert await one.manage(7) == 0
        assert await one.closed()
        assert await two.closed()
        assert target.sessions == []


@pytest.mark.parametrize(
    ("function", "lun", "response"), [(8, 0, 4), (3, 0, 5), (9, 0, 5), (5, 9, 2), (2, 9, 2)]
)
async def test_what_cannot_be_done_is_told(function: int, lun: int, response: int) -> None:
    async with (
        TargetServer([make_target()]).running() as portal,
        logged_in(portal, IQN) as initiator,
    ):
        assert await initiator.manage(function, lun=lun) == response


async def test_a_request_may_stay_unanswered() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        target.faults.ignore_task_management = 1
        await initiator.start_managing(5)
        await initiator.start_managing(5)
        response = await initiator.receive()
        assert isinstance(response, TaskManagementResponse)
        assert response.initiator_task_tag == 2


# Units that change


async def test_growing_is_told_to_every_nexus() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        target.luns[0].grow(2 << 20)
        assert (await initiator.execute(TEST_UNIT_READY)).code == (6, 0x2A, 9)
        capacity = await initiator.execute(b"\x25" + bytes(9), read=8)
        assert int.from_bytes(capacity.data[:4], "big") == 4095


async def test_growing_in_silence() -> None:
    target = make_target(unit_attention_on_capacity_change=False)
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        target.luns[0].grow(2 << 20)
        assert (await initiator.execute(TEST_UNIT_READY)).status == 0


async def test_login_may_bring_an_attention() -> None:
    target = make_target(unit_attention_on_login=True)
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        assert (await initiator.execute(TEST_UNIT_READY)).code == (6, 0x29, 0)
        assert (await initiator.execute(TEST_UNIT_READY)).status == 0


async def test_another_disk_behind_the_same_lun() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        before = await initiator.execute(bytes.fromhex("120180 00ff00"), read=255)
        target.luns[0].swap(RamDisk(1 << 20, serial="ANOTHER"))
        assert (await initiator.execute(TEST_UNIT_READY)).code == (6, 0x3F, 3)
        after = await initiator.execute(bytes.fromhex("120180 00ff00"), read=255)
        assert (before.data != after.data, after.data[4:]) == (True, b"ANOTHER")


async def test_luns_come_and_go() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        target.remove_lun(1)
        assert (await initiator.execute(TEST_UNIT_READY, lun=1)).code == (5, 0x25, 0)
        assert (await initiator.execute(TEST_UNIT_READY)).code == (6, 0x3F, 0x0E)
        target.add_lun(2, RamDisk(512))
        assert (await initiator.execute(TEST_UNIT_READY)).code == (6, 0x3F, 0x0E)
        assert (await initiator.execute(TEST_UNIT_READY, lun=2)).status == 0
