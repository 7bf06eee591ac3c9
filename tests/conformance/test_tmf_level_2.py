# SPDX-License-Identifier: Apache-2.0
"""The task management functions of iSCSIProtocolLevel 2 (RFC 7144 6), against a target that does
what a script says, and against the Python target."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

import pyscsi_init
from pyscsi_init import AsynchronousEvent, Session, Settings
from pyscsi_init.errors import (
    ConnectionLost,
    LocalProtocolError,
    OutcomeUnknown,
    ProtocolError,
    TaskAborted,
    TaskManagementFailed,
)
from pyscsi_init.pdu import ScsiCommand, TaskManagementRequest
from pyscsi_init.session import TaskManagementFunction, TaskState
from pyscsi_init.testing import RamDisk, Target, TargetServer, TargetSettings
from pyscsi_init.testing.scripted import ScriptedTarget
from tests.pyscsi_init.session.scripted import Script
from tests.support.scripted_session import INITIATOR, logged_in, session_with

pytestmark = pytest.mark.anyio

F = TaskManagementFunction
LEVEL_2 = Settings(noop_interval=0, iscsi_protocol_level=2)
TEST_UNIT_READY = bytes(6)
Call = Callable[[Session], Awaitable[Any]]


async def query_task(session: Session) -> bool:
    return await session.query_task(session.tasks()[0])


CALLS: list[tuple[F, Call, str]] = [
    (F.QUERY_TASK, query_task, "0005000000000000"),
    (F.QUERY_TASK_SET, lambda session: session.query_task_set(5), "0005000000000000"),
    (F.I_T_NEXUS_RESET, lambda session: session.i_t_nexus_reset(), "0000000000000000"),
    (
        F.QUERY_ASYNCHRONOUS_EVENT,
        lambda session: session.query_asynchronous_event(5),
        "0005000000000000",
    ),
]
QUERIES = [each for each in CALLS if each[0] is not F.I_T_NEXUS_RESET]


def name(value: Any) -> str:
    return value.name if isinstance(value, F) else ""


async def execute(session: Session, ends: list[Exception] | None = None) -> None:
    """A command whose end is taken down."""
    try:
        await session.execute(5, TEST_UNIT_READY)
    except (TaskAborted, OutcomeUnknown) as error:
        assert ends is not None
        ends.append(error)


@pytest.mark.virtual_clock
@pytest.mark.parametrize("answered", ["1", "0", ""])
@pytest.mark.parametrize(("function", "call", "lun"), CALLS, ids=name)
async def test_tmf_009_refused_here_below_level_2(
    function: F, call: Call, lun: str, answered: str
) -> None:
    """RFC 7144 4.1: nothing is sent, also where we offered level 2 and the target did not take
    it."""
    async with (
        logged_in(virtual=True, settings=LEVEL_2, iSCSIProtocolLevel=answered) as (session, peer),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(execute, session)
        command = await peer.expect(ScsiCommand)
        with pytest.raises(LocalProtocolError, match="iSCSIProtocolLevel") as caught:
            await call(session)
        assert function.name.replace("_", " ") in str(caught.value)
        await peer.expect_nothing(1)
        await peer.send(peer.response(command))


@pytest.mark.virtual_clock
@pytest.mark.parametrize(("function", "call", "lun"), CALLS, ids=name)
async def test_tmf_009_as_octets(function: F, call: Call, lun: str) -> None:
    """RFC 7144 6.3: the LUN and the Referenced Task Tag with RefCmdSN where the function has
    them."""
    ends: list[Exception] = []
    async with (
        logged_in(virtual=True, settings=LEVEL_2, iSCSIProtocolLevel="2") as (session, peer),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(execute, session, ends)
        command = await peer.expect(ScsiCommand)
        tasks.start_soon(call, session)
        request = await peer.expect(TaskManagementRequest)
        of_task = function is F.QUERY_TASK
        assert peer.recorder.entries[-1].wire.raw.hex() == (
            f"42{0x80 | function:02x}000000000000{lun}{request.initiator_task_tag:08x}"
            + (f"{command.initiator_task_tag:08x}" if of_task else "ffffffff")
            + f"{peer.exp_cmd_sn:08x}{peer.stat_sn:08x}"
            + (f"{command.cmd_sn:08x}" if of_task else "00000000")
            + "00000000" * 3
        )
        await peer.send(peer.managed(request))
        await anyio.sleep(0.1)
        assert len(ends) == (function is F.I_T_NEXUS_RESET)
        if not ends:
            await peer.send(peer.response(command))


@pytest.mark.virtual_clock
@pytest.mark.parametrize(("function", "call", "lun"), QUERIES, ids=name)
async def test_tmf_009_what_the_answers_mean(function: F, call: Call, lun: str) -> None:
    """RFC 7144 6.4.1, 6.4.2: 7 there is one, 0 there is none, 5 the target does not know the
    function; no task ends by a question, and the session goes on."""
    async with (
        logged_in(virtual=True, settings=LEVEL_2, iSCSIProtocolLevel="2") as (session, peer),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(execute, session)
        command = await peer.expect(ScsiCommand)
        found: list[Any] = []

        async def ask() -> None:
            try:
                found.append(await call(session))
            except TaskManagementFailed as error:
                found.append((error.function, error.response))

        for response in (7, 0, 5):
            tasks.start_soon(ask)
            request = await peer.expect(TaskManagementRequest)
            await peer.send(
                peer.managed(request, response, additional_response_information=0x162904)
            )
            await anyio.sleep(0.1)
        event = AsynchronousEvent(sense_key=6, asc=0x29, ascq=0x04, uade_depth=1)
        expected = [True, False] if function is not F.QUERY_ASYNCHRONOUS_EVENT else [event, None]
        assert found == [*expected, (function, 5)]
        assert len(session.tasks()) == 1
        await peer.send(peer.response(command))


@pytest.mark.parametrize("level", ["1", "2"])
async def test_tmf_009_response_7_is_reserved_below_level_2(level: str) -> None:
    """RFC 7143 11.6.1: a target of level 1 has no such response, and the three bytes mean nothing
    there."""
    script = Script(LEVEL_2, iSCSIProtocolLevel=level).log_in()
    refused = script.manage(F.LOGICAL_UNIT_RESET)
    request = script.one(TaskManagementRequest)
    script.send(script.managed(request, 5, additional_response_information=0xFFFFFF))
    assert refused.request.additional == (0xFFFFFF if level == "2" else 0)
    odd = script.manage(F.LOGICAL_UNIT_RESET)
    script.send(script.managed(script.one(TaskManagementRequest), 7))
    assert odd.done
    if level == "2":
        assert (script.lost, odd.request.response) == (False, 7)
    else:
        assert isinstance(script.ended().error, ProtocolError)


@pytest.mark.virtual_clock
@pytest.mark.parametrize("answered", [True, False])
async def test_tmf_009_the_end_of_a_nexus(answered: bool) -> None:
    """RFC 7144 6.3: I_T NEXUS RESET ends the commands of all units, and the connection may go with
    them, with or without an answer; the session comes back."""
    async with (
        ScriptedTarget().running() as target,
        anyio.create_task_group() as tasks,
        session_with(
            target, virtual=True, settings=LEVEL_2, log_out=False, iSCSIProtocolLevel="2"
        ) as (session, peer),
    ):
        ends: list[Exception] = []
        tasks.start_soon(execute, session, ends)
        await peer.expect(ScsiCommand)
        over: list[str] = []

        async def reset() -> None:
            try:
                await session.i_t_nexus_reset()
            except ConnectionLost:
                over.append("lost")
            else:
                over.append("done")

        tasks.start_soon(reset)
        request = await peer.expect(TaskManagementRequest)
        if answered:
            await peer.send(peer.managed(request))
        peer.fin()
        again = await target.log_in(iSCSIProtocolLevel="2")
        assert over == ["done" if answered else "lost"]
        assert [type(end) for end in ends] == [TaskAborted if answered else OutcomeUnknown]
        tasks.start_soon(execute, session, ends)
        command = await again.expect(ScsiCommand)
        await again.send(again.response(command))
        await again.expect_nothing(1)
        tasks.cancel_scope.cancel()


# -- the Python target --------------------------------------------------------------------------


@asynccontextmanager
async def at_python_target(
    settings: Settings, target_settings: TargetSettings | None = None
) -> AsyncIterator[tuple[Session, Target]]:
    disks = {0: RamDisk(1 << 20), 5: RamDisk(1 << 20)}
    target = Target("iqn.2026-11.example:queries", luns=disks, settings=target_settings)
    async with (
        TargetServer([target]).running() as portal,
        pyscsi_init.open_session(
            [portal], target.name, settings=settings, initiator_name=INITIATOR
        ) as session,
    ):
        yield session, target


async def test_tmf_009_the_python_target_answers() -> None:
    """RFC 7144 6.3: a command that is there and one that is not, a task set, and an event that
    waits."""
    async with at_python_target(LEVEL_2) as (session, target):
        assert session.parameters.iscsi_protocol_level == 2
        async with anyio.create_task_group() as tasks:
            rule = target.faults.hold(lun=5)
            tasks.start_soon(session.execute, 5, TEST_UNIT_READY)
            await rule.wait(1)
            task = session.tasks()[0]
            assert await session.query_task(task)
            assert await session.query_task_set(5)
            assert not await session.query_task_set(0)
            rule.release()
        assert not await session.query_task(task), "it is over: the target is not asked"
        task.state = TaskState.SENT  # as it is while its status is still on the way
        assert not await session.query_task(task)
        assert not await session.query_task_set(5)
        with pytest.raises(TaskManagementFailed) as caught:
            await session.query_task_set(9)
        assert caught.value.response == 2
        assert await session.query_asynchronous_event(5) is None
        target.luns[5].grow(2 << 20)
        for _ in range(2):  # asking takes nothing away
            one = await session.query_asynchronous_event(5)
            assert one == AsynchronousEvent(sense_key=6, asc=0x2A, ascq=0x09, uade_depth=1)
        await session.logical_unit_reset(5)
        several = await session.query_asynchronous_event(5)
        assert several == AsynchronousEvent(sense_key=6, asc=0x2A, ascq=0x09, uade_depth=2)
        assert target.counters.task_management[F.QUERY_TASK] == 2


async def test_tmf_009_the_python_target_ends_a_nexus() -> None:
    """RFC 7144 6.3: the command ends, the session is over, and the next one works."""
    settings = Settings(noop_interval=0, iscsi_protocol_level=2, default_time2wait=0)
    target_settings = TargetSettings(default_time2wait=0)
    async with at_python_target(settings, target_settings) as (session, target):
        back = anyio.Event()

        async def restored() -> None:
            back.set()

        session.restorers.append(restored)
        rule = target.faults.hold(lun=5)
        ends: list[Exception] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(execute, session, ends)
            await rule.wait(1)
            await session.i_t_nexus_reset()
        assert [type(end) for end in ends] == [TaskAborted]
        rule.cancel()
        with anyio.fail_after(10):
            await back.wait()
        await session.execute(5, TEST_UNIT_READY)
        assert session.statistics.logins == 2


async def test_tmf_009_the_python_target_of_level_1() -> None:
    """RFC 7144 7.1.1: the smaller level holds, whoever has it."""
    async with at_python_target(LEVEL_2, TargetSettings(iscsi_protocol_level=1)) as (session, _):
        assert session.parameters.iscsi_protocol_level == 1
    async with at_python_target(Settings()) as (session, _):
        assert session.parameters.iscsi_protocol_level == 1
