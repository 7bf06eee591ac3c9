# SPDX-License-Identifier: Apache-2.0
"""Sequence numbers: what tests/pyscsi_init/session/test_window.py does not show alone."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import ProtocolError
from pyscsi_init.pdu import (
    DataOut,
    LoginRequest,
    LogoutRequest,
    NopOut,
    ScsiCommand,
    TaskManagementRequest,
    TextRequest,
)
from pyscsi_init.serial import serial_sub
from pyscsi_init.session import TaskManagementFunction
from pyscsi_init.session.window import CommandWindow
from pyscsi_init.settings import Settings
from tests.pyscsi_init.session.scripted import MASK, Script
from tests.support.scripted_session import logged_in

TEST_UNIT_READY = bytes(6)
SERIAL = st.integers(0, MASK)
STRETCH = 2**31 - 1
"""RFC 7143 4.2.2.1: how far CmdSN may be from that of a command that was sent again."""


def test_seq_002_a_login_of_many_rounds() -> None:
    """RFC 7143 11.12.8: one CmdSN in all requests of the phase, and in the first command."""
    script = Script(cmd_sn=0xFFFFFFFF)
    script.connect()
    for rounds in range(6):
        request = script.one(LoginRequest)
        grant = rounds in (3, 5)
        script.send(script.login_answer(request, transit=grant and request.transit))
    assert [request.cmd_sn for request in script.login_requests] == [0xFFFFFFFF] * 6
    script.read(0)
    assert script.one(ScsiCommand).cmd_sn == 0xFFFFFFFF
    script.read(0)
    assert script.one(ScsiCommand).cmd_sn == 0


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_seq_003_006_many_callers_one_order() -> None:
    """RFC 7143 4.2.2.1: 200 commands of 20 tasks leave in one consecutive order, none waits for a
    status while the window is open."""
    settings = Settings(queue_depth=500, noop_interval=0)

    async with logged_in(virtual=True, settings=settings) as (session, peer):
        peer.set_window(250)
        await peer.send(peer.nop_in())
        first = peer.exp_cmd_sn

        async def caller() -> None:
            async with anyio.create_task_group() as commands:
                for _ in range(10):
                    commands.start_soon(session.execute, 0, TEST_UNIT_READY)
                    await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(caller)
            sent = [await peer.expect(ScsiCommand) for _ in range(200)]
            assert [pdu.cmd_sn for pdu in sent] == [(first + n) & MASK for n in range(200)]
            await peer.send(*(peer.response(pdu) for pdu in reversed(sent)))


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_seq_005_007_a_closed_window() -> None:
    """RFC 7143 4.2.2.1, 11.4.11: commands wait for it to open, answers to pings and aborts do
    not."""
    async with logged_in(virtual=True) as (session, peer), anyio.create_task_group() as tasks:
        closed = peer.exp_cmd_sn
        tasks.start_soon(session.execute, 0, TEST_UNIT_READY)
        command = await peer.expect(ScsiCommand)
        scope = anyio.CancelScope()

        async def cancelled() -> None:
            with scope:
                await session.execute(0, TEST_UNIT_READY)

        tasks.start_soon(cancelled)
        peer.set_window(0)
        second = await peer.expect(ScsiCommand)
        await peer.send(peer.response(command, exp_cmd_sn=closed + 2, max_cmd_sn=closed + 1))
        # The window of the login was wide, and never shrinks: fill it.
        for _ in range(62):
            tasks.start_soon(session.execute, 0, TEST_UNIT_READY)
        filling = [await peer.expect(ScsiCommand) for _ in range(62)]
        for _ in range(5):
            tasks.start_soon(session.execute, 0, TEST_UNIT_READY)
        await peer.expect_nothing(2)
        await peer.send(peer.nop_in(target_transfer_tag=9, max_cmd_sn=filling[-1].cmd_sn))
        assert (await peer.expect(NopOut)).target_transfer_tag == 9
        scope.cancel()
        abort = await peer.expect(TaskManagementRequest)
        assert abort.referenced_task_tag == second.initiator_task_tag
        await peer.send(peer.managed(abort, max_cmd_sn=filling[-1].cmd_sn))
        await peer.expect_nothing(2)
        exp_cmd_sn = peer.exp_cmd_sn
        await peer.send(peer.nop_in(max_cmd_sn=(exp_cmd_sn + 3) & MASK))
        opened = [await peer.expect(ScsiCommand) for _ in range(4)]
        await peer.expect_nothing(1)
        peer.set_window(64)
        await peer.send(*(peer.response(pdu) for pdu in [*filling, *opened]))
        late = await peer.expect(ScsiCommand)
        await peer.send(peer.response(late))


def test_seq_012_every_kind_of_pdu() -> None:
    """RFC 7143 11.4.9, 11.7.3, 11.8.3, 11.19.2: after each kind of PDU the ExpStatSN of what is
    sent next is exactly right; also that of Data-Out and of answers."""
    script = Script(InitialR2T="Yes", ImmediateData="No").log_in()

    def due() -> int:
        """The ExpStatSN of a fresh request."""
        script.send(script.nop_in(target_transfer_tag=1))
        return script.one(NopOut).exp_stat_sn

    begin = script.stat_sn
    steps: list[int] = []

    def advanced() -> None:
        assert due() == script.stat_sn
        steps.append(serial_sub(script.stat_sn, begin))

    write = script.write(bytes(1024))
    command = script.one(ScsiCommand)
    script.send(script.async_message(0))
    script.send(script.r2t(command, 0, 512))
    assert script.one(DataOut).exp_stat_sn == begin + 1
    advanced()
    script.send(script.response(command, residual_underflow=True, residual_count=512))
    assert write.done
    advanced()
    read = script.read(1024)
    command = script.one(ScsiCommand)
    script.send(script.data_in(command, 0, bytes(512), stat_sn=0x0BADBAD0))
    advanced()
    last = {"data_sn": 1, "final": True, "status_present": True}
    script.send(script.data_in(command, 512, bytes(512), **last))
    assert read.done
    advanced()
    script.manage(TaskManagementFunction.CLEAR_ACA)
    script.send(script.managed(script.one(TaskManagementRequest)))
    advanced()
    script.ask([])
    script.send(script.text(script.one(TextRequest), []))
    advanced()
    script.machine.ping(script.now)
    script.send(script.pong(script.one(NopOut)))
    advanced()
    script.send(script.nop_in())
    advanced()
    script.send(script.reject(DataOut(initiator_task_tag=1), 4))
    advanced()
    assert steps == [1, 2, 2, 3, 4, 5, 6, 6, 7]
    script.machine.request_logout(script.now)
    assert script.one(LogoutRequest).exp_stat_sn == script.stat_sn


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_seq_013_a_gap_is_recovered_from() -> None:
    """RFC 7143 4.2.2.2, 7.1.4.4: half the circle ahead, the session is left and logged in again;
    the command is sent again and not stuck."""
    async with logged_in(virtual=True, log_out=False) as (session, peer):
        done: list[int] = []

        async def read() -> None:
            await session.execute(0, TEST_UNIT_READY)
            done.append(0)

        async with anyio.create_task_group() as tasks:
            with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012
                async with anyio.create_task_group() as commands:
                    commands.start_soon(read)
                    command = await peer.expect(ScsiCommand)
                    wrong = (peer.stat_sn + 2**31) & MASK
                    await peer.send(peer.response(command, stat_sn=wrong))
                    await peer.expect_end()
            assert not done
            assert caught.value.subgroup(lambda error: "may have been" in str(error))
            assert isinstance(session.last_error, ProtocolError)
            tasks.cancel_scope.cancel()


@given(start=SERIAL, data=st.data())
def test_seq_015_cmd_sn_stays_near_what_is_acknowledged(start: int, data: st.DataObject) -> None:
    """RFC 7143 4.2.2.1, 10.4: after a retry of R, CmdSN does not pass R + 2**31 - 1 until a newer
    command is acknowledged. Nothing is ever sent further than that from ExpCmdSN, whatever window
    the target grants, and ExpCmdSN is at most R + 1 until then; so it holds for every R."""
    window = CommandWindow(start)
    for _ in range(data.draw(st.integers(1, 8))):
        sent = serial_sub(window.cmd_sn, window.exp_cmd_sn)
        exp_cmd_sn = (window.exp_cmd_sn + data.draw(st.integers(0, sent))) & MASK
        size = data.draw(st.one_of(SERIAL, st.integers(STRETCH - 3, STRETCH + 3)))
        window.update(exp_cmd_sn, (exp_cmd_sn + size) & MASK)
        taken = data.draw(st.one_of(st.just(window.open_slots), st.integers(0, 3)))
        # As if so many commands had been sent: nobody can wait for two thousand million.
        window.cmd_sn = (window.cmd_sn + min(taken, window.open_slots)) & MASK
        last = (window.cmd_sn - 1) & MASK
        retried = (window.exp_cmd_sn - 1) & MASK
        assert (last - retried) & MASK <= STRETCH


def test_seq_015_the_largest_window() -> None:
    """RFC 7143 4.2.2.1: 2**31-1 commands may be sent, one more is in no order any longer."""
    script = Script().log_in()
    window = script.machine.window
    script.send(script.nop_in(max_cmd_sn=(window.exp_cmd_sn + 2**31 - 1) & MASK))
    assert window.open_slots == 64
    script.send(script.nop_in(max_cmd_sn=(window.exp_cmd_sn + 2**31 - 2) & MASK))
    assert window.open_slots == 2**31 - 1
    window.cmd_sn = window.max_cmd_sn
    script.invariants.allowed |= {"CommandNumbers"}  # the commands between were not sent
    script.read(0)
    script.read(0)
    sent = script.take()
    assert len(sent) == 1, "the limit stands until ExpCmdSN moves"
    script.send(script.nop_in(exp_cmd_sn=1001, max_cmd_sn=(1001 + 2**31 - 2) & MASK))
    assert len(script.take()) == 1
