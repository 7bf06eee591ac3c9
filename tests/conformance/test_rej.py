# SPDX-License-Identifier: Apache-2.0
"""Rejects: each reason against each kind of PDU, and what must still be right afterwards
(RFC 7143 7.3, 11.17). More of it is in tests/pyscsi_init/session/test_reject.py.
"""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

from pyscsi_init.errors import ConnectionLost, IscsiError, OutcomeUnknown, ProtocolError
from pyscsi_init.errors import TaskRejected as Rejected
from pyscsi_init.pdu import (
    DataOut,
    LoginRequest,
    LogoutRequest,
    NopOut,
    RejectReason,
    ScsiCommand,
    TaskManagementRequest,
    TextRequest,
)
from pyscsi_init.session import ConnectionEnded, LoginEnded, Replay, TaskManagementFunction
from pyscsi_init.session.reject import MAX_REJECTS, RESEND_ALLOWED
from pyscsi_init.settings import Settings
from pyscsi_init.testing.scripted import ScriptedTarget
from tests.conformance.coming_back import comes_back, ends_well
from tests.pyscsi_init.session.scripted import Script
from tests.support.scripted_session import QUIET, logged_in, session_with

TEST_UNIT_READY = bytes(6)
ASKED = {"InitialR2T": "Yes", "ImmediateData": "No"}
PROTOCOL_SERVICE_CRC_ERROR = bytes.fromhex("70000b000000000a00000000470500000000")
RESET = RejectReason.NEGOTIATION_RESET
LOGOUT = RejectReason.WAITING_FOR_LOGOUT
ORDINARY = [reason for reason in RejectReason if reason not in (RESET, LOGOUT)]


def works(script: Script) -> None:
    """A command, after whatever it was: in full feature phase on the same connection, with a right
    ExpStatSN."""
    read = script.read(0)
    command = script.one(ScsiCommand)
    assert command.exp_stat_sn == script.stat_sn
    script.send(script.response(command))
    assert (read.done, read.error) == (True, None)


@pytest.mark.parametrize("more", [b"", b"vendor data that is not for us"])
def test_rej_001_a_data_out_is_known_by_its_header(more: bytes) -> None:
    """RFC 7143 11.17.4: the header, and whatever is behind it; the Reject takes a StatSN. Where a
    command has its CmdSN a Data-Out has nothing, which leaves no gap."""
    script = Script(**ASKED, cmd_sn=0xFFFFFFF0).log_in()
    write = script.write(bytes(512))
    command = script.one(ScsiCommand)
    script.send(script.r2t(command, 0, 512))
    data = script.one(DataOut)
    script.send(script.reject(data, 4, data=data.encode()[:48] + more))
    assert not write.done
    script.send(script.response(command))
    assert (write.done, write.error) == (True, None)
    works(script)


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_rej_002_the_gap_is_closed_and_work_goes_on() -> None:
    """RFC 7143 7.3, 4.2.2.1: a rejected command that the target did not count stands before all
    that follow. Here a new session, which begins with a CmdSN of its own, makes them possible
    again; the rejected command has its end, and no response is awaited."""
    async with (
        ScriptedTarget().running() as target,
        session_with(target, virtual=True, log_out=False) as (session, peer),
        anyio.create_task_group() as tasks,
    ):
        ends: list[IscsiError] = []

        async def refused() -> None:
            try:
                await session.execute(0, TEST_UNIT_READY)
            except IscsiError as error:
                ends.append(error)

        tasks.start_soon(refused)
        command = await peer.expect(ScsiCommand)
        n = command.cmd_sn
        await peer.send(peer.reject(command, 5, exp_cmd_sn=n, max_cmd_sn=n + 9))
        await peer.expect_end()
        assert [type(end) for end in ends] == [Rejected]
        second = await comes_back(target, session)
        tasks.start_soon(session.execute, 0, TEST_UNIT_READY)
        command = await second.expect(ScsiCommand)
        assert command.cmd_sn == second.login_requests[0].cmd_sn
        await second.send(second.response(command))
        await ends_well(session, second)


def test_rej_003_exactly_one_completion() -> None:
    """RFC 7143 7.3: after the Reject of a Data-Out the F bit is sent as before, and the status, a
    CHECK CONDITION, is the one end of the command."""
    script = Script(**ASKED, MaxRecvDataSegmentLength="512").log_in()
    write = script.write(bytes(1024))
    command = script.one(ScsiCommand)
    script.send(script.r2t(command, 0, 1024))
    first, last = script.take()
    assert (first.final, last.final) == (False, True)
    script.send(script.reject(first, RejectReason.DATA_DIGEST_ERROR))
    assert (write.done, script.take()) == (False, [])
    data = b"\0\x12" + PROTOCOL_SERVICE_CRC_ERROR
    script.send(script.response(command, status=2, data=data))
    assert (write.times, write.task.status) == (1, 2)
    assert write.task.sense == PROTOCOL_SERVICE_CRC_ERROR
    works(script)


def test_rej_003_a_rejected_part_of_a_text_exchange() -> None:
    """The exchange is over, as a whole; what was heard of it does not count."""
    script = Script(QUIET).log_in()
    ask = script.ask([])
    part = {"final": False, "target_transfer_tag": 5}
    script.send(script.text(script.one(TextRequest), [("X-a", "1")], **part))
    script.send(script.reject(script.one(TextRequest), 4))
    assert isinstance(ask.error, Rejected)
    works(script)


@pytest.mark.parametrize("reason", ORDINARY)
@pytest.mark.parametrize("replay", Replay)
def test_rej_004_a_command(reason: RejectReason, replay: Replay) -> None:
    """RFC 7143 11.17.1: again where the reason allows it and doing it twice is safe, with a new tag
    and CmdSN; otherwise the reason is the answer."""
    script = Script(QUIET).log_in()
    read = script.read(0, replay=replay)
    command = script.one(ScsiCommand)
    script.send(script.reject(command, reason))
    if reason in RESEND_ALLOWED and replay is Replay.SAFE:
        again = script.one(ScsiCommand)
        assert again.cmd_sn == command.cmd_sn + 1
        assert again.initiator_task_tag != command.initiator_task_tag
        script.send(script.response(again))
        assert (read.done, read.error) == (True, None)
    else:
        assert isinstance(read.error, Rejected)
        assert read.error.reason == reason
    assert read.times == 1
    works(script)


@pytest.mark.parametrize("reason", ORDINARY)
def test_rej_004_task_management(reason: RejectReason) -> None:
    """It is immediate, so no number is missing; whoever asked is told, and may ask again."""
    script = Script(QUIET).log_in()
    reset = script.manage(TaskManagementFunction.LOGICAL_UNIT_RESET)
    script.send(script.reject(script.one(TaskManagementRequest), reason))
    assert isinstance(reset.error, Rejected)
    assert reset.error.reason == reason
    again = script.manage(TaskManagementFunction.LOGICAL_UNIT_RESET)
    script.send(script.managed(script.one(TaskManagementRequest)))
    assert (again.error, again.request.response) == (None, 0)
    works(script)


@pytest.mark.parametrize("reason", ORDINARY)
def test_rej_004_text(reason: RejectReason) -> None:
    script = Script(QUIET).log_in()
    ask = script.ask([("X-a", "1")])
    script.send(script.reject(script.one(TextRequest), reason))
    assert isinstance(ask.error, Rejected)
    works(script)


@pytest.mark.parametrize("reason", ORDINARY)
def test_rej_004_a_ping(reason: RejectReason) -> None:
    """A Reject is a sign of life as well; the next ping is due an interval later."""
    script = Script(Settings(noop_interval=5, noop_timeout=5)).log_in()
    script.pass_time(5)
    script.send(script.reject(script.one(NopOut), reason))
    script.pass_time(4.9)
    assert (script.lost, script.take()) == (False, [])
    script.pass_time(0.2)
    script.send(script.pong(script.one(NopOut)))
    works(script)


@pytest.mark.parametrize("reason", ORDINARY)
def test_rej_004_a_logout(reason: RejectReason) -> None:
    """Nothing may follow a Logout Request; the session ends all the same, in time."""
    script = Script(QUIET).log_in()
    script.machine.request_logout(script.now)
    script.send(script.reject(script.one(LogoutRequest), reason))
    script.pass_time(script.settings.logout_timeout)
    assert script.take() == []
    assert script.lost
    assert not script.event(ConnectionEnded).again


@pytest.mark.parametrize("reason", RejectReason)
@pytest.mark.parametrize("step", [0, 1])
def test_rej_005_any_reject_in_the_login_phase_ends_it(reason: RejectReason, step: int) -> None:
    """RFC 7143 4.2.4, 7.12: the connection with it, before or after the first answer."""
    script = Script(QUIET)
    script.connect()
    request = script.one(LoginRequest)
    if step:
        script.send(script.login_answer(request))
        request = script.one(LoginRequest)
    script.send(script.reject(request, reason))
    assert isinstance(script.event(LoginEnded).error, ProtocolError)
    assert script.lost


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_rej_005_the_negotiation_is_reset() -> None:
    """RFC 7143 11.17.1 (note 3), 7.12: an old target's 0Bh in answer to text is the end of the
    negotiation and of the connection; nothing of what was asked for holds."""
    async with (
        ScriptedTarget().running() as target,
        session_with(target, virtual=True, log_out=False) as (session, peer),
    ):
        before = session.parameters
        await peer.send(peer.async_message(4, parameter3=3))
        await peer.send(peer.reject(await peer.expect(TextRequest), RESET))
        await peer.expect_end()
        second = await comes_back(target, session)
        assert isinstance(session.last_error, ConnectionLost)
        assert session.parameters == before
        await ends_well(session, second)


def test_rej_005_the_exchange_has_its_own_end() -> None:
    script = Script(QUIET).log_in()
    ask = script.ask([("MaxRecvDataSegmentLength", "65536")])
    script.send(script.reject(script.one(TextRequest), RESET))
    assert isinstance(ask.error, Rejected)
    assert isinstance(script.event(ConnectionEnded).error, ConnectionLost)


def test_rej_005_a_command_has_no_negotiation() -> None:
    script = Script(QUIET).log_in()
    read = script.read(0)
    script.send(script.reject(script.one(ScsiCommand), RESET))
    assert isinstance(read.error, Rejected)
    works(script)


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_rej_006_asked_for_a_logout_and_no_patience() -> None:
    """RFC 7143 11.9.1, 11.17.1: event 1, then everything is rejected with 0Ch: a logout at once,
    nothing else, and the session is there again with what it owed; a command that may not be done
    twice too, because it was not done."""
    async with (
        ScriptedTarget().running() as target,
        session_with(target, virtual=True, log_out=False) as (session, peer),
        anyio.create_task_group() as tasks,
    ):
        ends: list[IscsiError | None] = []

        async def command() -> None:
            try:
                await session.execute(0, TEST_UNIT_READY)
            except OutcomeUnknown as error:
                ends.append(error)
            else:
                ends.append(None)

        for _ in range(3):
            tasks.start_soon(command)
        commands = [await peer.expect(ScsiCommand) for _ in range(3)]
        began = anyio.current_time()
        await peer.send(peer.async_message(1, parameter3=60))
        # The third one is under way when the logout ends everything: nobody knows what it came to.
        await peer.send(*(peer.reject(each, LOGOUT) for each in commands[:2]))
        logout = await peer.expect(LogoutRequest)
        assert anyio.current_time() - began < 1
        await peer.expect_nothing(2)
        await peer.send(peer.logged_out(logout))
        second = await comes_back(target, session)
        for _ in range(2):
            await second.send(second.response(await second.expect(ScsiCommand)))
        await second.expect_nothing(1)
        assert sorted(type(end).__name__ for end in ends) == [
            "NoneType",
            "NoneType",
            "OutcomeUnknown",
        ]
        await ends_well(session, second)


def test_rej_006_a_target_that_only_ever_waits_for_a_logout() -> None:
    """Every session ends that way: the command is given up in the end, not repeated for ever."""
    script = Script(QUIET).log_in()
    read = script.read(0)
    for _ in range(100):
        command = script.one(ScsiCommand)
        script.send(script.reject(command, LOGOUT))
        script.pass_time(0.1)
        script.send(script.logged_out(script.one(LogoutRequest)))
        if read.done:
            break
        script.log_in()
        script.machine.resume(script.now)
    assert read.done
    assert read.error is not None


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_rej_006_everything_is_rejected() -> None:
    """A bounded number of rejects a connection, then session recovery."""
    settings = replace(QUIET, recovery_timeout=20)
    async with logged_in(virtual=True, settings=settings, log_out=False) as (session, peer):
        for number in range(MAX_REJECTS + 1):
            async with anyio.create_task_group() as tasks:

                async def refused() -> None:
                    with pytest.raises(IscsiError):
                        await session.execute(0, TEST_UNIT_READY)

                tasks.start_soon(refused)
                command = await peer.expect(ScsiCommand)
                await peer.send(peer.reject(command, RejectReason.COMMAND_NOT_SUPPORTED))
                if number == MAX_REJECTS:
                    await peer.expect_end()
        assert isinstance(session.last_error, ProtocolError)
