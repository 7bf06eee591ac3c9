# SPDX-License-Identifier: Apache-2.0
"""Asynchronous messages: each event with numbers, times and what comes after (RFC 7143 11.9).

What a session machine does alone is in tests/pyscsi_init/session/test_receive.py.
"""

from __future__ import annotations

import anyio
import pytest

from pyscsi_init.errors import ConnectionLost, ScsiError
from pyscsi_init.pdu import (
    DataOut,
    LoginRequest,
    LogoutRequest,
    NopOut,
    ScsiCommand,
    TaskManagementRequest,
    TextRequest,
)
from pyscsi_init.session import AsyncEventReceived, Replay, Warned
from pyscsi_init.settings import Settings
from pyscsi_init.testing.scripted import ScriptedTarget
from tests.conformance.coming_back import comes_back, ends_well
from tests.pyscsi_init.session.scripted import LUN_5, Script
from tests.support.scripted_session import QUIET, logged_in, session_with

TEST_UNIT_READY = bytes(6)
ASKED = {"InitialR2T": "Yes", "ImmediateData": "No"}


def sense(key: int, asc: int, ascq: int) -> bytes:
    """Fixed-format sense data (SPC-4 4.5.3)."""
    return bytes((0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0))


def described(key: int, asc: int, ascq: int) -> bytes:
    """The same in descriptor format (SPC-4 4.5.2)."""
    return bytes((0x72, key, asc, ascq, 0, 0, 0, 0))


def segment(data: bytes) -> bytes:
    """Sense data as it lies in a data segment."""
    return len(data).to_bytes(2, "big") + data


ATTENTIONS = [(0x3F, 0x0E), (0x2A, 0x09)]
MOVED = (0x5, 0x25, 0x00)


@pytest.mark.parametrize("extra", [b"", b"v" * 64])
@pytest.mark.parametrize("event", [0, 1, 4, 5, 6, 100, 247, 248, 250, 255])
def test_asy_001_every_event_takes_a_stat_sn(event: int, extra: bytes) -> None:
    """RFC 7143 11.9, 11.9.4: one, with or without data behind what belongs to the event; what is
    sent next says so."""
    script = Script(QUIET).log_in()
    due = script.stat_sn
    data = (segment(sense(6, 0x2A, 9)) if event == 0 else b"") + extra
    script.send(script.async_message(event, data=data, parameter3=3))
    sent = script.take()
    if not sent:
        script.send(script.nop_in(target_transfer_tag=1))
        sent = script.take()
    assert [pdu.exp_stat_sn for pdu in sent] == [due + 1]
    assert not script.lost


def test_asy_001_one_that_was_seen_before_is_not_told_again() -> None:
    """RFC 7143 4.2.2.2: it is known by its StatSN."""
    script = Script(QUIET).log_in()
    message = script.async_message(250)
    script.send(message, message)
    assert len([event for event in script.events if isinstance(event, AsyncEventReceived)]) == 1


@pytest.mark.anyio
@pytest.mark.virtual_clock
@pytest.mark.parametrize("code", ATTENTIONS)
async def test_asy_002_the_application_is_told(code: tuple[int, int]) -> None:
    """RFC 7143 11.9.1, 11.9.3: event, LUN and sense reach whoever listens; the command under way
    gets its own end."""
    told: list[AsyncEventReceived] = []
    async with logged_in(virtual=True) as (session, peer):
        session.async_events.append(told.append)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.execute, 0, TEST_UNIT_READY)
            command = await peer.expect(ScsiCommand)
            data = segment(sense(6, *code)) + b"vendor"
            await peer.send(peer.async_message(0, lun=LUN_5, data=data))
            await peer.expect_nothing(1)
            await peer.send(peer.response(command))
        (event,) = told
        assert (event.code, bytes(event.lun), event.sense) == (0, LUN_5, sense(6, *code))


@pytest.mark.parametrize("make", [sense, described])
@pytest.mark.parametrize("replay", [Replay.SAFE, Replay.NEVER])
@pytest.mark.quirk("Q-06")
def test_asy_003_what_the_moving_unit_refuses_is_sent_again(make: object, replay: Replay) -> None:
    """A target that moves a unit ends commands with LOGICAL UNIT NOT SUPPORTED after it asked for
    the logout: they were not carried out, and go to the next session in any case."""
    assert callable(make)
    script = Script(QUIET).log_in()
    reads = [script.read(0, replay=replay) for _ in range(3)]
    commands = script.take()
    script.send(script.async_message(1, parameter3=3))
    refusal = {"status": 2, "data": segment(make(*MOVED))}
    script.send(script.response(commands[0]), script.response(commands[1], **refusal))
    assert [read.done for read in reads] == [True, False, False]
    assert script.take() == []
    script.send(script.response(commands[2], **refusal))
    script.send(script.logged_out(script.one(LogoutRequest)))
    assert (script.ended().error, script.ended().again) == (None, True)
    script.log_in()
    script.machine.resume(script.now)
    again = script.take()
    assert len(again) == 2
    script.send(*(script.response(command) for command in again))
    assert all(read.done and read.error is None for read in reads)


@pytest.mark.parametrize(
    "data", [sense(5, 0x24, 0), sense(6, 0x25, 0), described(5, 0x20, 0), b"\x70", b""]
)
def test_asy_003_other_refusals_are_the_answer(data: bytes) -> None:
    script = Script(QUIET).log_in()
    read, other = script.read(0), script.read(0)
    command, _ = script.take()
    script.send(script.async_message(1, parameter3=3))
    script.send(script.response(command, status=2, data=segment(data)))
    assert (read.done, read.task.status) == (True, 2)
    assert not other.done


@pytest.mark.quirk("Q-06")
def test_asy_003_nor_is_a_unit_that_just_is_not_there() -> None:
    """Without the demand for a logout 05/25/00 is what it says."""
    script = Script(QUIET).log_in()
    read = script.read(0)
    data = segment(sense(*MOVED))
    script.send(script.response(script.one(ScsiCommand), status=2, data=data))
    assert (read.done, read.task.status) == (True, 2)


def test_asy_003_a_unit_that_moves_for_ever_ends_its_commands() -> None:
    """What is sent again is counted."""
    script = Script(QUIET).log_in()
    read = script.read(0)
    for _ in range(100):
        script.send(script.async_message(1, parameter3=3))
        commands = script.take()
        data = segment(sense(*MOVED))
        script.send(*(script.response(each, status=2, data=data) for each in commands))
        if read.done:
            break
        script.send(script.logged_out(script.one(LogoutRequest)))
        script.log_in()
        script.machine.resume(script.now)
    assert read.done
    assert read.task.status == 2


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_asy_003_in_time_and_back() -> None:
    """RFC 7143 11.9.1, 8.1.2: 4 commands run; the logout leaves before Parameter3 is over, nothing
    new before it, and the session is there again without further delay."""
    async with (
        ScriptedTarget().running() as target,
        session_with(target, virtual=True, log_out=False) as (session, peer),
        anyio.create_task_group() as tasks,
    ):
        for _ in range(4):
            tasks.start_soon(session.report_luns)
        running = [await peer.expect(ScsiCommand) for _ in range(4)]
        await peer.send(peer.async_message(1, parameter3=3))
        began = anyio.current_time()
        await peer.expect_nothing(0.1)
        tasks.start_soon(session.execute, 0, TEST_UNIT_READY)
        lists = (8).to_bytes(4, "big") + bytes(12)
        for each in running:
            residual = {"residual_underflow": True, "residual_count": 4096 - 16}
            last = {"final": True, "status_present": True, **residual}
            await peer.send(peer.data_in(each, 0, lists, **last))
        logout = await peer.expect(LogoutRequest)
        assert anyio.current_time() - began < 3
        await peer.send(peer.logged_out(logout))
        second = await comes_back(target, session)
        assert anyio.current_time() - began < 1
        command = await second.expect(ScsiCommand)
        assert command.cdb[:6] == TEST_UNIT_READY
        await second.send(second.response(command))
        await ends_well(session, second)


@pytest.mark.anyio
@pytest.mark.virtual_clock
@pytest.mark.quirk("Q-07")
async def test_asy_003_the_logout_is_never_answered() -> None:
    """A target that asks for a logout and answers none costs the logout time-out, once."""
    settings = Settings(noop_interval=0, logout_timeout=4)
    async with (
        ScriptedTarget().running() as target,
        session_with(target, virtual=True, log_out=False, settings=settings) as (session, peer),
    ):
        await peer.send(peer.async_message(1, parameter3=3))
        await peer.expect(LogoutRequest)
        asked = anyio.current_time()
        second = await comes_back(target, session)
        # The time-out, and then DefaultTime2Wait: the connection failed.
        assert anyio.current_time() - asked == pytest.approx(4 + 2, abs=0.5)
        await ends_well(session, second)


@pytest.mark.anyio
@pytest.mark.virtual_clock
@pytest.mark.parametrize(("event", "wait", "retain"), [(2, 4, 10), (2, 4, 0), (3, 2, 0), (3, 0, 9)])
async def test_asy_004_005_back_after_parameter2(event: int, wait: int, retain: int) -> None:
    """RFC 7143 11.9.1, 7.1.4.3: as a loss of the connection: no login before Parameter2, and one
    soon after. The task of the old connection is gone; one that may be done twice is sent anew."""
    async with (
        ScriptedTarget().running() as target,
        session_with(target, virtual=True, log_out=False) as (session, peer),
    ):
        parameters = {"parameter1": 0, "parameter2": wait, "parameter3": retain}
        began = anyio.current_time()
        await peer.send(peer.async_message(event, **parameters))
        peer.fin()
        second = await comes_back(target, session)
        login = target.recorder.times(LoginRequest)[2] - began
        assert wait <= login <= wait + 0.5
        assert isinstance(session.last_error, ConnectionLost)
        await ends_well(session, second)
        assert len(target.connections) == 2, "one login, not many"


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_asy_004_a_drop_of_another_connection() -> None:
    """RFC 7143 11.9.1: Parameter1 says which; ours goes on."""
    async with logged_in(virtual=True) as (session, peer), anyio.create_task_group() as tasks:
        await peer.send(peer.async_message(2, parameter1=1, parameter2=4, parameter3=10))
        tasks.start_soon(session.execute, 0, TEST_UNIT_READY)
        await peer.send(peer.response(await peer.expect(ScsiCommand)))


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_asy_006_a_negotiation_that_the_target_wants() -> None:
    """RFC 7143 11.9.1: the text request comes well before Parameter3; what the target declares in
    its answer holds from then on."""
    async with logged_in(virtual=True, **ASKED) as (session, peer):
        await peer.send(peer.async_message(4, parameter3=3))
        request = await peer.expect(TextRequest, within=1)
        assert len(request.data) == 0
        await peer.send(peer.text(request, [("MaxRecvDataSegmentLength", "1024")]))

        async def write() -> None:
            await session.execute(0, bytes.fromhex("2a000000000000000800"), data_out=bytes(4096))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write)
            command = await peer.expect(ScsiCommand)
            await peer.send(peer.r2t(command, 0, 4096))
            for _ in range(4):
                assert len((await peer.expect(DataOut)).data) == 1024
            await peer.send(peer.response(command))


def test_asy_006_no_new_exchange_where_the_logout_is_asked_for() -> None:
    """RFC 7143 11.9.1: "or log out": the logout is on its way."""
    script = Script(QUIET).log_in()
    script.read(0)
    script.take()
    script.send(script.async_message(1, parameter3=4), script.async_message(4, parameter3=4))
    assert script.take() == []
    script.pass_time(2)
    assert script.one(LogoutRequest)


def test_asy_007_fast_abort_was_not_agreed_on() -> None:
    """RFC 7143 11.9.1, 13.23: event 5 belongs to TaskReporting=FastAbort, which is not offered, so
    it is as unknown as any other; the R2Ts of both units are answered as before."""
    script = Script(QUIET, **ASKED).log_in()
    login = b"".join(bytes(request.data) for request in script.login_requests)
    assert b"FastAbort" not in login
    script.write(bytes(1024))
    script.write(bytes(1024), lun=5)
    commands = script.take()
    script.send(*(script.r2t(command, 0, 512) for command in commands))
    assert len(script.take()) == 2
    script.send(script.async_message(5, lun=LUN_5))
    assert isinstance(script.events[-1], Warned)
    script.send(*(script.r2t(command, 512, 512, r2t_sn=1) for command in commands))
    data = script.take()
    assert [type(pdu) for pdu in data] == [DataOut, DataOut]
    script.send(*(script.response(command) for command in commands))
    assert not script.lost


@pytest.mark.parametrize("event", [6, 100, 247, 248, 250, 255])
def test_asy_007_events_of_nobody_and_of_vendors(event: int) -> None:
    """Neither the session nor a command is touched, and nothing is said about it to the target."""
    script = Script(QUIET).log_in()
    read = script.read(0)
    command = script.one(ScsiCommand)
    script.send(script.async_message(event, parameter1=1, parameter2=2, parameter3=3))
    assert script.take() == []
    script.send(script.response(command))
    assert (read.done, read.error) == (True, None)
    script.recorder.assert_none(NopOut, TaskManagementRequest, LogoutRequest)
    told = isinstance(script.events[-1], AsyncEventReceived)
    assert told == (event >= 248)


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_asy_007_the_session_with_a_socket_goes_on() -> None:
    async with logged_in(virtual=True) as (session, peer):
        await peer.send(*(peer.async_message(event) for event in (5, 6, 100, 250)))
        async with anyio.create_task_group() as tasks:

            async def refused() -> None:
                with pytest.raises(ScsiError):
                    await session.execute(0, TEST_UNIT_READY)

            tasks.start_soon(refused)
            command = await peer.expect(ScsiCommand)
            data = segment(sense(5, 0x25, 0))
            await peer.send(peer.response(command, status=2, data=data))
