# SPDX-License-Identifier: Apache-2.0
"""NOP-Out and NOP-In: what the tests of pings in tests/pyscsi_init/session do not show alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anyio
import pytest

from pyscsi_init.errors import ConnectionLost, ProtocolError
from pyscsi_init.pdu import DataOut, LogoutRequest, NopOut, ScsiCommand
from pyscsi_init.session import ConnectionEnded, Warned
from pyscsi_init.settings import Settings
from pyscsi_init.testing.scripted import ScriptedTarget
from tests.conformance.coming_back import comes_back, ends_well
from tests.pyscsi_init.session.scripted import LUN, LUN_5, RESERVED, Script
from tests.support.scripted_session import QUIET, logged_in, session_with

TEST_UNIT_READY = bytes(6)
WRITE_64_KIB = bytes.fromhex("2a000000000000008000")
PINGING = Settings(noop_interval=5, noop_timeout=5)
ACKNOWLEDGING = Settings(noop_interval=0, acknowledge_after=1)
NO_UNIT = b"\xff" * 8


@pytest.mark.anyio
@pytest.mark.virtual_clock
@pytest.mark.parametrize("lun", [LUN, LUN_5])
@pytest.mark.quirk("Q-14")
async def test_nop_001_while_idle_and_under_a_write_that_waits(lun: bytes) -> None:
    """RFC 7143 11.18: tag and LUN copied, immediate, CmdSN as it is; the tag 0 is a tag. A write
    that waits for its R2T holds up nothing."""
    keys = {"InitialR2T": "Yes", "ImmediateData": "No"}
    async with logged_in(virtual=True, **keys) as (session, peer):

        async def pinged() -> None:
            for tag in (0, 1, 0x80000000):
                due = peer.exp_cmd_sn
                await peer.send(peer.nop_in(target_transfer_tag=tag, lun=lun))
                answer = await peer.expect(NopOut, within=0.1)
                assert answer.immediate
                assert (answer.target_transfer_tag, bytes(answer.lun)) == (tag, lun)
                assert answer.initiator_task_tag == RESERVED
                assert (answer.cmd_sn, peer.exp_cmd_sn) == (due, due)

        async with anyio.create_task_group() as tasks:
            await pinged()

            async def write() -> None:
                await session.execute(0, WRITE_64_KIB, data_out=bytes(65536))

            tasks.start_soon(write)
            command = await peer.expect(ScsiCommand)
            await pinged()
            await peer.send(peer.r2t(command, 0, 65536))
            for _ in range(8):
                await peer.expect(DataOut)
            await pinged()
            await peer.send(peer.response(command))


@pytest.mark.anyio
@pytest.mark.virtual_clock
@pytest.mark.quirk("Q-40")
async def test_nop_002_no_answer_where_none_is_wanted() -> None:
    """RFC 7143 11.19: neither to information nor to the answer to our own ping."""
    async with logged_in(virtual=True, settings=PINGING) as (_, peer):
        ping = await peer.expect(NopOut)
        await peer.send(peer.pong(ping), peer.nop_in(), peer.nop_in())
        await peer.expect_nothing(4.9)
        # The answer took a StatSN, the information none.
        assert (await peer.expect(NopOut)).exp_stat_sn == peer.stat_sn
        await peer.send(peer.nop_in())


def test_nop_002_information_opens_the_window() -> None:
    script = Script(window=1).log_in()
    script.read(0)
    script.take()
    script.read(0)
    assert script.take() == []
    script.set_window(2)
    script.send(script.nop_in())
    assert script.one(ScsiCommand)


def test_nop_003_an_echo_of_what_was_not_said() -> None:
    """RFC 7143 11.18.3, 11.19: our pings carry no data, so an honest answer has none. The target
    lives all the same: it is noted, and that is all."""
    script = Script(PINGING).log_in()
    script.pass_time(5)
    ping = script.one(NopOut)
    assert len(ping.data) == 0
    script.send(script.pong(ping, data=b"what?"))
    assert isinstance(script.events[-1], Warned)
    script.pass_time(5)
    script.send(script.pong(script.one(NopOut)))
    assert sum(isinstance(event, Warned) for event in script.events) == 1
    assert not script.lost


def test_nop_003_an_answer_is_matched_by_its_tag() -> None:
    """RFC 7143 11.19: an answer with another tag answers nothing, but is a sign of life."""
    script = Script(PINGING).log_in()
    script.pass_time(5)
    ping = script.one(NopOut)
    script.send(script.nop_in(initiator_task_tag=ping.initiator_task_tag + 1))
    assert list(script.machine.tasks.requests) == [ping.initiator_task_tag]
    script.send(script.pong(ping))
    assert script.machine.tasks.requests == {}


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_nop_004_a_dead_peer_is_left_and_a_talking_one_is_not() -> None:
    """RFC 7143 7.14: interval and time-out after the last byte; traffic begins it anew."""
    async with logged_in(virtual=True, settings=PINGING, log_out=False) as (session, peer):
        for _ in range(3):
            await peer.expect_nothing(4.5)
            await peer.send(peer.nop_in())
        began = anyio.current_time()
        await peer.expect(NopOut)
        assert anyio.current_time() - began == pytest.approx(5)
        await peer.expect_end()
        assert anyio.current_time() - began == pytest.approx(10)
        assert isinstance(session.last_error, ConnectionLost)


def test_nop_005_what_nobody_asked_for_is_acknowledged() -> None:
    """RFC 7143 11.18: a NOP-Out with neither tag, immediate, once, after the delay that is set."""
    script = Script(ACKNOWLEDGING).log_in()
    script.send(script.async_message(0), script.async_message(250))
    script.pass_time(0.9)
    assert script.take() == []
    script.pass_time(0.2)
    nop = script.one(NopOut)
    assert (nop.initiator_task_tag, nop.target_transfer_tag) == (RESERVED, RESERVED)
    assert nop.immediate
    assert (nop.exp_stat_sn, nop.cmd_sn) == (script.stat_sn, script.exp_cmd_sn)
    assert len(nop.data) == 0
    script.pass_time(1000)
    assert script.take() == []
    script.send(script.async_message(0))
    script.pass_time(1)
    assert script.one(NopOut).exp_stat_sn == script.stat_sn


def test_nop_005_a_command_acknowledges_as_well() -> None:
    script = Script(ACKNOWLEDGING).log_in()
    script.send(script.async_message(0))
    script.pass_time(0.5)
    script.read(0)
    command = script.one(ScsiCommand)
    assert command.exp_stat_sn == script.stat_sn
    script.pass_time(2)
    assert script.take() == []


def test_nop_005_a_reject_is_acknowledged_too() -> None:
    script = Script(ACKNOWLEDGING).log_in()
    script.read(0)
    script.send(script.reject(script.one(ScsiCommand), 9))
    script.pass_time(1)
    assert script.one(NopOut).exp_stat_sn == script.stat_sn


def test_nop_005_without_the_setting_the_next_ping_does_it() -> None:
    script = Script(PINGING).log_in()
    script.send(script.async_message(0))
    script.pass_time(4.9)
    assert script.take() == []
    script.pass_time(0.2)
    assert script.one(NopOut).exp_stat_sn == script.stat_sn


def test_nop_005_not_behind_a_logout() -> None:
    """RFC 7143 11.14: nothing follows it."""
    script = Script(ACKNOWLEDGING).log_in()
    script.send(script.async_message(0))
    script.machine.request_logout(script.now)
    assert script.one(LogoutRequest).exp_stat_sn == script.stat_sn
    script.pass_time(2)
    assert script.take() == []


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_nop_005_with_a_socket() -> None:
    """The timer of the session is set for it."""
    settings = replace(QUIET, acknowledge_after=2)
    async with logged_in(virtual=True, settings=settings) as (_, peer):
        await anyio.sleep(1000)
        await peer.send(peer.async_message(0))
        began = anyio.current_time()
        nop = await peer.expect(NopOut)
        assert anyio.current_time() - began == pytest.approx(2)
        assert nop.exp_stat_sn == peer.stat_sn
        await peer.expect_nothing(1000)


WRONG: list[dict[str, Any]] = [
    {"initiator_task_tag": 1, "target_transfer_tag": 2},
    {"target_transfer_tag": 2, "lun": NO_UNIT},
    {"target_transfer_tag": 2, "data": b"x"},
]


@pytest.mark.parametrize("wrong", WRONG, ids=["both tags", "no unit", "data"])
def test_nop_006_the_command_under_way_survives(wrong: dict[str, Any]) -> None:
    """RFC 7143 7.7, 11.19: a format error ends the connection, never a command with success."""
    script = Script().log_in()
    read = script.read(0)
    script.take()
    script.send(script.nop_in(**wrong))
    assert script.take() == []
    assert isinstance(script.event(ConnectionEnded).error, ProtocolError)
    assert not read.done
    script.log_in()
    script.machine.resume(script.now)
    script.send(script.response(script.one(ScsiCommand)))
    assert (read.done, read.error) == (True, None)


@pytest.mark.anyio
@pytest.mark.virtual_clock
async def test_nop_006_the_session_comes_back() -> None:
    async with (
        ScriptedTarget().running() as target,
        session_with(target, virtual=True, log_out=False) as (session, peer),
    ):
        await peer.send(peer.nop_in(target_transfer_tag=2, lun=NO_UNIT))
        await peer.expect_end()
        second = await comes_back(target, session)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(session.execute, 0, TEST_UNIT_READY)
            await second.send(second.response(await second.expect(ScsiCommand)))
        assert isinstance(session.last_error, ProtocolError)
        await ends_well(session, second)
