# SPDX-License-Identifier: Apache-2.0
"""Task management: what tests/pyscsi_init/session/test_management.py does not show alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from pyscsi_init import Session, Settings
from pyscsi_init.errors import (
    ConnectionLost,
    OutcomeUnknown,
    TaskAborted,
    TaskManagementFailed,
    TaskTimeout,
)
from pyscsi_init.pdu import (
    DataOut,
    NopOut,
    ScsiCommand,
    TaskManagementRequest,
)
from pyscsi_init.session import Replay, TaskManagementFunction, TaskState
from pyscsi_init.testing.scripted import ScriptedTarget
from tests.pyscsi_init.session.scripted import LUN, LUN_5, RESERVED, Script
from tests.support.scripted_session import logged_in, session_with

F = TaskManagementFunction
TEST_UNIT_READY = bytes(6)
WRITE = bytes.fromhex("2a000000000000000100") + bytes(6)
ASKED = {"InitialR2T": "Yes", "ImmediateData": "No"}

CALLS: list[tuple[F, Callable[[Session], Awaitable[None]]]] = [
    (F.ABORT_TASK_SET, lambda session: session.abort_task_set(5)),
    (F.CLEAR_ACA, lambda session: session.clear_aca(5)),
    (F.CLEAR_TASK_SET, lambda session: session.clear_task_set(5)),
    (F.LOGICAL_UNIT_RESET, lambda session: session.logical_unit_reset(LUN_5)),
    (F.TARGET_WARM_RESET, lambda session: session.target_warm_reset()),
    (F.TARGET_COLD_RESET, lambda session: session.target_cold_reset()),
]
OF_A_UNIT = (F.ABORT_TASK_SET, F.CLEAR_ACA, F.CLEAR_TASK_SET, F.LOGICAL_UNIT_RESET)
SEVERAL = [F.ABORT_TASK_SET, F.CLEAR_TASK_SET, F.LOGICAL_UNIT_RESET, F.TARGET_WARM_RESET]


def name(value: Any) -> str:
    return value.name if isinstance(value, F) else ""


@pytest.mark.anyio
@pytest.mark.virtual_clock
@pytest.mark.parametrize(("function", "call"), CALLS, ids=name)
async def test_tmf_001_as_octets(function: F, call: Callable[[Session], Awaitable[None]]) -> None:
    """RFC 7143 11.5: the whole header, for each function that an application asks for."""
    async with logged_in(virtual=True) as (session, peer), anyio.create_task_group() as tasks:
        tasks.start_soon(call, session)
        request = await peer.expect(TaskManagementRequest)
        wire = peer.recorder.entries[-1].wire
        lun = "0005000000000000" if function in OF_A_UNIT else "0000000000000000"
        assert wire.raw.hex() == (
            f"42{0x80 | function:02x}0000"
            "00000000"
            + lun
            + f"{request.initiator_task_tag:08x}"
            + "ffffffff"
            + f"{peer.exp_cmd_sn:08x}{peer.stat_sn:08x}"
            + "00000000" * 4
        )
        await peer.send(peer.managed(request))


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_tmf_001_002_abort_task_as_octets() -> None:
    """RFC 7143 11.5.4, 11.5.5: LUN, tag and CmdSN of the command that is given up; not those of
    the one after it."""
    async with logged_in(virtual=True) as (session, peer), anyio.create_task_group() as tasks:
        scope = anyio.CancelScope()

        async def given_up() -> None:
            with scope:
                await session.execute(5, TEST_UNIT_READY)

        tasks.start_soon(given_up)
        command = await peer.expect(ScsiCommand)
        tasks.start_soon(session.execute, 0, TEST_UNIT_READY)
        other = await peer.expect(ScsiCommand)
        scope.cancel()
        request = await peer.expect(TaskManagementRequest)
        assert peer.recorder.entries[-1].wire.raw.hex() == (
            "42810000"
            "00000000"
            "0005000000000000"
            f"{request.initiator_task_tag:08x}{command.initiator_task_tag:08x}"
            f"{peer.exp_cmd_sn:08x}{peer.stat_sn:08x}{command.cmd_sn:08x}" + "00000000" * 3
        )
        await peer.send(peer.managed(request), peer.response(other))


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_tmf_003_an_abort_goes_where_the_command_went() -> None:
    """RFC 7143 11.5.1: on the connection of its command while that lives. Afterwards the command is
    over, and nothing about it goes to the next connection, which has aborts of its own."""
    async with (
        ScriptedTarget().running() as target,
        anyio.create_task_group() as tasks,
        session_with(target, virtual=True, log_out=False) as (session, peer),
    ):
        ends: list[BaseException] = []
        scopes = [anyio.CancelScope() for _ in range(3)]

        async def given_up(scope: anyio.CancelScope) -> None:
            with scope:
                try:
                    await session.execute(0, TEST_UNIT_READY)
                except OutcomeUnknown as error:
                    ends.append(error)

        tasks.start_soon(given_up, scopes[0])
        command = await peer.expect(ScsiCommand)
        tasks.start_soon(given_up, scopes[1])
        await peer.expect(ScsiCommand)
        scopes[0].cancel()
        abort = await peer.expect(TaskManagementRequest)
        assert abort.referenced_task_tag == command.initiator_task_tag
        peer.fin()
        again = await target.log_in()
        assert len(ends) == 1
        scopes[1].cancel()
        tasks.start_soon(given_up, scopes[2])
        third = await again.expect(ScsiCommand)
        await again.expect_nothing(5)
        scopes[2].cancel()
        abort = await again.expect(TaskManagementRequest)
        assert abort.referenced_task_tag == third.initiator_task_tag
        assert abort.ref_cmd_sn == third.cmd_sn
        await again.send(again.managed(abort))
        await again.expect_nothing(5)
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.virtual_clock
@pytest.mark.parametrize("order", ["response first", "response late"])
async def test_tmf_004_orders(order: str) -> None:
    """RFC 7143 4.2.3, 11.6.1, 7.11: what came before the answer to the abort counts, what comes
    after it is dropped, and nobody else gets it."""
    async with logged_in(virtual=True) as (session, peer), anyio.create_task_group() as tasks:
        data = bytearray()
        scope = anyio.CancelScope()

        async def given_up() -> None:
            with scope:
                await session.execute(0, bytes(10), data_in_length=8)

        tasks.start_soon(given_up)
        command = await peer.expect(ScsiCommand)
        scope.cancel()
        abort = await peer.expect(TaskManagementRequest)
        last = {"final": True, "status_present": True}
        if order == "response first":
            await peer.send(peer.data_in(command, 0, b"12345678", **last), peer.managed(abort, 1))
        else:
            await peer.send(peer.managed(abort), peer.data_in(command, 0, b"12345678", **last))

        async def next_one() -> None:
            data.extend((await session.execute(0, bytes(10), data_in_length=8)).data)

        tasks.start_soon(next_one)
        following = await peer.expect(ScsiCommand)
        await peer.send(peer.data_in(following, 0, b"abcdefgh", **last))
        await peer.expect_nothing(1)
        assert data == b"abcdefgh"
        assert session.tasks() == []


@pytest.mark.parametrize("function", SEVERAL, ids=name)
def test_tmf_005_what_the_target_asks_for_until_its_answer(function: F) -> None:
    """RFC 7143 4.2.3.3: R2Ts, also several of one task, and pings that carry its LUN."""
    script = Script(**ASKED, MaxOutstandingR2T="4").log_in()
    write = script.write(bytes(range(256)) * 16)
    command = script.one(ScsiCommand)
    script.send(script.r2t(command, 0, 1024))
    assert script.one(DataOut).final
    script.manage(function)
    request = script.one(TaskManagementRequest)
    script.send(script.r2t(command, 1024, 1024, r2t_sn=1))
    script.send(script.nop_in(target_transfer_tag=0x77, lun=LUN))
    script.send(script.r2t(command, 2048, 2048, r2t_sn=2))
    first, ping, second = script.take()
    assert (first.buffer_offset, len(first.data), first.final) == (1024, 1024, True)
    assert (type(ping), ping.target_transfer_tag) == (NopOut, 0x77)
    assert (second.buffer_offset, len(second.data), second.final) == (2048, 2048, True)
    script.send(script.managed(request))
    assert isinstance(write.error, TaskAborted)
    script.send(script.r2t(command, 0, 1024, r2t_sn=3))
    assert script.take() == []
    assert not script.lost


@pytest.mark.parametrize("function", [*SEVERAL, F.TARGET_COLD_RESET], ids=name)
def test_tmf_007_not_those_that_were_sent_after_it(function: F) -> None:
    """RFC 7143 4.2.3.2: a function ends commands with a CmdSN before its own. What follows it is
    carried out, and its status is delivered."""
    script = Script().log_in()
    before = script.read(0)
    first = script.one(ScsiCommand)
    script.manage(function)
    request = script.one(TaskManagementRequest)
    after = script.read(0)
    second = script.one(ScsiCommand)
    assert second.cmd_sn == request.cmd_sn
    script.send(script.managed(request))
    assert isinstance(before.error, TaskAborted)
    assert not after.done
    script.send(script.response(second))
    assert (after.done, after.error) == (True, None)
    script.send(script.response(first))
    assert before.times == 1


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_tmf_008_a_cold_reset_without_an_answer() -> None:
    """RFC 7143 11.5.1, 11.6.1: the target closes the connection instead; the caller is told, and
    the session comes back after DefaultTime2Wait."""
    async with (
        ScriptedTarget().running() as target,
        anyio.create_task_group() as tasks,
        session_with(target, virtual=True, log_out=False, DefaultTime2Wait="7") as (session, peer),
    ):
        ends: list[BaseException] = []

        async def reset() -> None:
            try:
                await session.target_cold_reset()
            except ConnectionLost as error:
                ends.append(error)

        tasks.start_soon(reset)
        await peer.expect(TaskManagementRequest)
        begin = anyio.current_time()
        peer.fin()
        await target.log_in()
        assert 7 <= anyio.current_time() - begin < 8
        assert len(ends) == 1
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_a_function_that_is_refused_says_so() -> None:
    """RFC 7143 11.6.1: the caller learns which function and which response."""
    async with logged_in(virtual=True) as (session, peer), anyio.create_task_group() as tasks:
        for response in (1, 2, 3, 4, 5, 6, 255):
            caught: list[TaskManagementFailed] = []

            async def reset(found: list[TaskManagementFailed] = caught) -> None:
                try:
                    await session.logical_unit_reset(0)
                except TaskManagementFailed as error:
                    found.append(error)

            tasks.start_soon(reset)
            request = await peer.expect(TaskManagementRequest)
            await peer.send(peer.managed(request, response))
            await anyio.sleep(0.1)
            assert [(e.function, e.response) for e in caught] == [(F.LOGICAL_UNIT_RESET, response)]


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_tmf_010_every_waiter_ends_once() -> None:
    """RFC 7143 7.11, 10.3: no answer to the commands nor to their aborts: the connection is given
    up 45 s after they were sent, and each caller is told once."""
    async with (
        ScriptedTarget().running() as target,
        anyio.create_task_group() as tasks,
        session_with(target, virtual=True, log_out=False) as (session, peer),
    ):
        ends: list[tuple[float, str]] = []
        begin = anyio.current_time()

        async def command() -> None:
            try:
                await session.execute(0, TEST_UNIT_READY)
            except (OutcomeUnknown, TaskTimeout) as error:
                ends.append((anyio.current_time() - begin, type(error).__name__))

        for _ in range(5):
            tasks.start_soon(command)
        for _ in range(5):
            await peer.expect(ScsiCommand)
        aborts = [await peer.expect(TaskManagementRequest, within=40) for _ in range(5)]
        assert {abort.function for abort in aborts} == {F.ABORT_TASK}
        assert 30 <= anyio.current_time() - begin < 32
        await peer.expect_end(within=60)
        assert [kind for _, kind in ends] == ["OutcomeUnknown"] * 5
        assert all(45 <= when < 48 for when, _ in ends)
        assert session.tasks() == []
        tasks.cancel_scope.cancel()


def test_tmf_011_an_abort_fills_the_gap_of_a_lost_command() -> None:
    """RFC 7143 7.11, 11.6.1 b): the target never saw the command and waits for its CmdSN; function
    complete ends it, and what was sent after it goes on."""
    script = Script(Settings(noop_interval=0), window=64).log_in()
    lost, after = script.read(0), script.read(0)
    command, following = script.take()
    hole = {"exp_cmd_sn": command.cmd_sn, "max_cmd_sn": script.max_cmd_sn}
    script.send(script.nop_in(**hole))
    script.machine.abort_task(lost.task, script.now)
    abort = script.one(TaskManagementRequest)
    assert abort.immediate
    assert abort.ref_cmd_sn == command.cmd_sn
    assert abort.referenced_task_tag == command.initiator_task_tag
    assert not lost.done
    script.send(script.managed(abort))  # and ExpCmdSN is past both
    assert isinstance(lost.error, TaskAborted)
    assert not script.lost
    assert after.task.state is TaskState.SENT
    script.send(script.response(following))
    assert (after.done, after.error) == (True, None)
    script.read(0)
    assert script.one(ScsiCommand).cmd_sn == following.cmd_sn + 1


def test_tmf_011_a_timed_out_command_that_was_lost() -> None:
    """The same where the time of a command was over, not the patience of its caller."""
    script = Script(Settings(noop_interval=0)).log_in()
    lost = script.read(0, replay=Replay.NEVER)
    command = script.one(ScsiCommand)
    script.pass_time(31)
    abort = script.one(TaskManagementRequest)
    assert abort.ref_cmd_sn == command.cmd_sn
    assert abort.referenced_task_tag != RESERVED
    script.send(script.managed(abort))
    assert isinstance(lost.error, TaskTimeout)
    assert not script.lost
