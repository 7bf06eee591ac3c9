# SPDX-License-Identifier: Apache-2.0
"""Logout through the whole library: what leaves, and how long it may take (RFC 7143 11.14, 11.15).

What a session machine does alone is in tests/pyscsi_init/session/test_requests.py.
"""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest

import pyscsi_init
from pyscsi_init.errors import ConnectionLost, IscsiError, OutcomeUnknown, SessionFailed
from pyscsi_init.pdu import (
    LoginRequest,
    LogoutRequest,
    Pdu,
    ScsiCommand,
    TaskManagementRequest,
    TextRequest,
)
from pyscsi_init.session import SessionState
from pyscsi_init.testing.scripted import ScriptedConnection, ScriptedTarget
from tests.conformance.coming_back import comes_back, ends_well
from tests.support.scripted_session import INITIATOR, QUIET, logged_in, session_with

TEST_UNIT_READY = bytes(6)
PATIENT = replace(QUIET, logout_timeout=15)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]


async def test_lgo_001_five_run_and_more_are_queued() -> None:
    """RFC 7143 11.14: what waits ends here; what runs may finish; then one Logout Request: F=1,
    reason "close the session", CID reserved, no data, and not a byte behind it."""
    ends: list[BaseException | None] = []
    settings = replace(PATIENT, queue_depth=5)
    async with logged_in(virtual=True, settings=settings, log_out=False) as (session, peer):

        async def command() -> None:
            try:
                await session.execute(0, TEST_UNIT_READY)
            except IscsiError as error:
                ends.append(error)
            else:
                ends.append(None)

        async with anyio.create_task_group() as tasks:
            for _ in range(9):
                tasks.start_soon(command)
            running = [await peer.expect(ScsiCommand) for _ in range(5)]
            await peer.expect_nothing(1)
            tasks.start_soon(session.log_out)
            await peer.expect_nothing(5)
            assert len(ends) == 4
            await peer.send(*(peer.response(each) for each in running[:3]))
            began = anyio.current_time()
            await peer.expect_nothing(5)
            logout = await peer.expect(LogoutRequest)
            assert anyio.current_time() - began <= 15
            header = peer.recorder.entries[-1].wire.header
            assert header[:2] == b"\x46\x80"
            assert (logout.reason, logout.cid, len(logout.data)) == (0, 0, 0)
            assert logout.cmd_sn == peer.exp_cmd_sn
            await peer.expect_nothing(1)
            await peer.send(peer.logged_out(logout))
            await peer.expect_end()
        assert ends.count(None) == 3
        assert sum(isinstance(end, SessionFailed) for end in ends) == 4
        assert sum(isinstance(end, OutcomeUnknown) for end in ends) == 2, "ended here"


async def _answers_and_closes(peer: ScriptedConnection, logout: LogoutRequest) -> None:
    await peer.send(peer.logged_out(logout))
    peer.fin()


async def _answers_only(peer: ScriptedConnection, logout: LogoutRequest) -> None:
    await peer.send(peer.logged_out(logout))


async def _closes_only(peer: ScriptedConnection, logout: LogoutRequest) -> None:
    del logout
    peer.fin()


async def _nothing(peer: ScriptedConnection, logout: LogoutRequest) -> None:
    del peer, logout


@pytest.mark.parametrize("reaction", [_answers_and_closes, _answers_only, _closes_only, _nothing])
async def test_lgo_002_closed_in_time_whatever_the_target_does(reaction: object) -> None:
    """RFC 7143 11.14, 8.1.2 (T13, T17): at once after an answer or a FIN, after the logout time-out
    where neither comes; and the socket is closed."""
    assert callable(reaction)
    async with logged_in(virtual=True, settings=PATIENT, log_out=False) as (session, peer):
        began = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.log_out)
            await reaction(peer, await peer.expect(LogoutRequest))
            await peer.expect_end(within=20)
        took = anyio.current_time() - began
        assert took == pytest.approx(15 if reaction is _nothing else 0, abs=0.01)
        assert session.state is SessionState.Q1_FREE
        assert not session.connected


@pytest.mark.parametrize("response", [1, 2, 3])
async def test_lgo_003_refused_and_back_after_time2wait(response: int) -> None:
    """RFC 7143 11.15.1, 11.15.3: the connection is given up; the next login comes no sooner than
    the target asked for, and not much later."""
    async with (
        ScriptedTarget().running() as target,
        session_with(target, virtual=True, log_out=False) as (session, peer),
    ):
        await peer.send(peer.async_message(1, parameter3=0))
        logout = await peer.expect(LogoutRequest)
        await peer.send(peer.logged_out(logout, response, time2wait=3, time2retain=9))
        refused = anyio.current_time()
        await peer.expect_end()
        second = await target.accept()
        assert anyio.current_time() - refused == pytest.approx(3, abs=0.5)
        assert anyio.current_time() - refused >= 3
        assert isinstance(session.last_error, ConnectionLost)
        await second.log_in()
        await anyio.sleep(0.1)
        await ends_well(session, second)


@pytest.mark.parametrize("response", [1, 2, 3])
async def test_lgo_003_refused_at_the_end(response: int) -> None:
    """Nobody waits for a next login then."""
    async with logged_in(virtual=True, settings=PATIENT, log_out=False) as (session, peer):
        began = anyio.current_time()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.log_out)
            logout = await peer.expect(LogoutRequest)
            await peer.send(peer.logged_out(logout, response, time2wait=3))
            await peer.expect_end()
        assert anyio.current_time() - began < 1


async def test_lgo_004_a_failed_connection_is_logged_out_by_the_next_login() -> None:
    """RFC 7143 11.14, 8.2, 6.3.5: with one connection there is no other to say it on; the login
    with the same ISID, TSIH 0 and the same CID ends the old session and all that belongs to it."""
    async with (
        ScriptedTarget().running() as target,
        session_with(target, virtual=True, log_out=False) as (session, peer),
    ):
        peer.rst()
        second = await comes_back(target, session)
        requests = target.recorder.sent(LoginRequest)
        first, again = requests[0], second.login_requests[0]
        assert (bytes(again.isid), again.tsih, again.cid) == (bytes(first.isid), 0, first.cid)
        assert target.recorder.sent(LogoutRequest) == []
        await ends_well(session, second)


async def test_lgo_004_at_level_2_the_connection_is_reinstated() -> None:
    """RFC 7143 6.3.4, 7.1.4.3, 8.2: the login has the TSIH of the session and the CID of the dead
    connection, which ends that one and nothing else: CmdSN goes on, and no Logout is sent."""
    settings = replace(QUIET, error_recovery_level=2, default_time2retain=20)
    levels = {"ErrorRecoveryLevel": "2", "DefaultTime2Retain": "20"}
    async with (
        ScriptedTarget(**levels).running() as target,
        session_with(target, virtual=True, log_out=False, settings=settings) as (session, peer),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(session.execute, 0, TEST_UNIT_READY)
        command = await peer.expect(ScsiCommand)
        due = peer.exp_cmd_sn
        peer.rst()
        second = await target.log_in()
        first, again = peer.login_requests[0], second.login_requests[0]
        assert (bytes(again.isid), again.tsih, again.cid) == (bytes(first.isid), 7, first.cid)
        assert again.cmd_sn == due
        reassign = await second.expect(TaskManagementRequest)
        assert (reassign.function, reassign.referenced_task_tag) == (8, command.initiator_task_tag)
        await second.send(second.managed(reassign), second.response(command))
        assert target.recorder.sent(LogoutRequest) == []
        await ends_well(session, second)


async def test_lgo_005_the_session_is_closed_with_its_connection() -> None:
    """RFC 7143 4.3, 8.1.2 (T8, T18): after the answer nothing is open, neither a connection nor the
    session, nor does anything come later."""
    async with ScriptedTarget().running() as target:
        async with session_with(target, virtual=True) as (session, _):
            pass
        assert session.state is SessionState.Q1_FREE
        await anyio.sleep(1000)
        assert [connection.ended for connection in target.connections] == [True]
        assert [pdu.reason for pdu in target.recorder.sent(LogoutRequest)] == [0]


async def test_lgo_005_a_discovery_session_closes_the_session() -> None:
    """RFC 7143 4.3: reason 0, and nothing else but text comes before it."""
    async with ScriptedTarget().running() as target, anyio.create_task_group() as tasks:

        async def script() -> None:
            peer = await target.log_in()
            request = await peer.expect(TextRequest)
            await peer.send(peer.text(request, [("TargetName", "iqn.2026-11.example:a")]))
            logout = await peer.expect(LogoutRequest)
            assert (logout.reason, logout.cid) == (0, 0)
            await peer.send(peer.logged_out(logout))
            await peer.expect_end()

        tasks.start_soon(script)
        await pyscsi_init.discover(
            target.portal, initiator_name=INITIATOR, connector=target.connect
        )
        kinds = {type(pdu) for pdu in target.recorder.sent(Pdu)}
        assert kinds == {LoginRequest, TextRequest, LogoutRequest}
        target.recorder.assert_none(ScsiCommand, TaskManagementRequest)
