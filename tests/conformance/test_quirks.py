# SPDX-License-Identifier: Apache-2.0
"""Habits of targets that no row of the standard speaks of, played by a scripted target.

The rest of them are shown by tests that carry the marker ``quirk``; docs/compliance/quirks.md has
them all.
"""

from __future__ import annotations

from typing import Any

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Portal, Settings
from pyscsi_init.errors import (
    ConnectionLost,
    IscsiError,
    LoginRejected,
    OutcomeUnknown,
    ProtocolError,
    TaskTimeout,
)
from pyscsi_init.login.text import encode_pairs
from pyscsi_init.pdu import DataOut, LogoutRequest, NopOut, ScsiCommand, TextRequest
from pyscsi_init.testing.scripted import ScriptedTarget
from tests.conformance.logging_in import QUIET, READ, answer, outcome_of, said
from tests.pyscsi_init.session.scripted import RESERVED, Script
from tests.support.scripted_session import INITIATOR, logged_in

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]

DISK = "iqn.2026-11.example:disk"
ELSEWHERE = Portal("127.0.0.9", 3999)


async def found_at(target: ScriptedTarget, **settings: Any) -> list[Any]:
    """What a discovery finds there."""
    return await pyscsi_init.discover(
        target.portal,
        initiator_name=INITIATOR,
        connector=target.connect,
        settings=Settings(**settings),
    )


@pytest.mark.quirk("Q-18")
async def test_many_r2ts_of_many_commands_at_once() -> None:
    """istgt asks for 16 parts of each of several commands before the first of them has come."""
    keys = {"InitialR2T": "Yes", "ImmediateData": "No", "MaxOutstandingR2T": "16"}
    settings = Settings(noop_interval=0, max_outstanding_r2t=16)
    async with logged_in(virtual=True, settings=settings, **keys) as (session, peer):

        async def write() -> None:
            await session.execute(0, bytes.fromhex("2a000000000000001000"), data_out=bytes(8192))

        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(write)
            commands = [await peer.expect(ScsiCommand) for _ in range(2)]
            await peer.send(
                *(
                    peer.r2t(command, number * 512, 512, r2t_sn=number, target_transfer_tag=number)
                    for number in range(16)
                    for command in commands
                )
            )
            data = [await peer.expect(DataOut) for _ in range(32)]
            for command in commands:
                mine = [pdu for pdu in data if pdu.initiator_task_tag == command.initiator_task_tag]
                assert [pdu.target_transfer_tag for pdu in mine] == list(range(16))
            await peer.send(*(peer.response(command) for command in commands))


@pytest.mark.quirk("Q-09")
async def test_a_digest_in_discovery_and_then_the_end() -> None:
    """EMC VNX takes CRC32C from the list and drops the connection after its answer: the list is not
    offered, whatever the settings say, and what was answered counts."""
    async with ScriptedTarget().running() as target, anyio.create_task_group() as tasks:

        async def script() -> None:
            peer = await target.log_in()
            request = await peer.expect(TextRequest)
            await peer.send(peer.text(request, [("TargetName", DISK)]))
            peer.close()

        tasks.start_soon(script)
        found = await found_at(target, header_digest=("CRC32C", "None"))
        assert [one.name for one in found] == [DISK]
        offers = b"".join(bytes(each.data) for each in target.connections[0].login_requests)
        assert b"HeaderDigest=None\0DataDigest=None\0" in offers
        assert b"CRC32C" not in offers


@pytest.mark.quirk("Q-25")
async def test_a_redirection_to_another_target() -> None:
    """Clusters exist that name another target beside the address: nobody asked for that one, so the
    address is followed and the name is not."""

    async def play(target: ScriptedTarget) -> None:
        data = encode_pairs([("TargetName", DISK), ("TargetAddress", "127.0.0.9:3999")])
        await answer(await target.accept(), data, status_class=1, status_detail=1)
        await target.log_in()

    outcome = await outcome_of(play)
    assert outcome.error is None
    assert outcome.target.connections[1].portal == ELSEWHERE
    names = [outcome.keys(number)["TargetName"] for number in (0, 1)]
    assert names == [outcome.target.name] * 2
    assert outcome.target.name != DISK


@pytest.mark.quirk("Q-28")
@pytest.mark.parametrize("what", ["MaxRecvDataSegmentLength", "beyond the command"])
async def test_more_data_than_may_come(what: str) -> None:
    """gotgt ignored what we take in one PDU: the connection ends with an error that says so."""
    settings = Settings(noop_interval=0, max_recv_data_segment_length=512, recovery_timeout=0)
    async with logged_in(virtual=True, settings=settings, log_out=False) as (session, peer):
        caught: list[IscsiError] = []

        async def read() -> None:
            try:
                await session.execute(0, READ, data_in_length=512)
            except IscsiError as error:
                caught.append(error)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            command = await peer.expect(ScsiCommand)
            if what == "MaxRecvDataSegmentLength":
                await peer.send(peer.data_in(command, 0, bytes(1024)))
            else:
                await peer.send(peer.data_in(command, 0, bytes(512)))
                await peer.send(peer.data_in(command, 512, bytes(512), data_sn=1))
            await peer.expect_end()
        assert isinstance(session.last_error, ProtocolError)
        assert "512" in str(session.last_error)
        assert isinstance(caught[0], OutcomeUnknown)


@pytest.mark.quirk("Q-33")
async def test_a_command_of_ones_own_that_is_never_answered() -> None:
    """Where CDB and length do not fit, targets exist that say nothing: the time-out of the caller
    holds, the command is aborted, and the session goes on."""
    async with logged_in(virtual=True) as (session, peer), anyio.create_task_group() as tasks:

        async def wrong() -> None:
            with pytest.raises(TaskTimeout):
                await session.execute(0, READ, data_in_length=12, seconds=3)

        tasks.start_soon(wrong)
        await peer.expect(ScsiCommand)
        began = anyio.current_time()
        abort = await peer.next()
        assert 3 <= anyio.current_time() - began <= 5
        await peer.send(peer.managed(abort))  # type: ignore[arg-type]


@pytest.mark.quirk("Q-37")
async def test_the_largest_segment_that_can_be_declared() -> None:
    """16777215 is legal and no multiple of four: what we declare is one; 256 KiB by default."""
    settings = Settings(noop_interval=0, max_recv_data_segment_length=16777215)
    length = {"MaxRecvDataSegmentLength": "16777215"}
    async with logged_in(virtual=True, settings=settings, **length) as (session, peer):
        assert said(peer.login_requests[1])["MaxRecvDataSegmentLength"] == "16777212"
        assert session.parameters.target_max_recv_data_segment_length == 16777215
    assert said_by_default() == "262144"


def said_by_default() -> str:
    """What is declared where nothing was set."""
    script = Script().log_in()
    return said(script.login_requests[1])["MaxRecvDataSegmentLength"]


@pytest.mark.quirk("Q-39")
@pytest.mark.quirk("Q-40")
@pytest.mark.parametrize("fields", [{"transit": False}, {"transit": True, "next_stage": 3}])
@pytest.mark.parametrize("closes", [True, False])
async def test_a_refusal_looks_like_anything(fields: dict[str, Any], closes: bool) -> None:
    """tgt refuses with T=0 and closes; istgt with T=1, CSG=1, NSG=3, and leaves the connection
    open: the status counts, and the connection is closed by us."""

    async def play(target: ScriptedTarget) -> None:
        peer = await target.accept()
        await answer(peer)
        await answer(peer, "", status_class=2, status_detail=3, stat_sn=0, **fields)
        if closes:
            peer.fin()
        await peer.expect_end()

    outcome = await outcome_of(play)
    assert isinstance(outcome.failure, LoginRejected)
    assert len(outcome.target.connections) == 1


@pytest.mark.quirk("Q-39")
async def test_a_window_of_two_until_it_opens() -> None:
    """tgt grants two commands at the end of the login: no third leaves before it says more."""
    script = Script(QUIET, window=2).log_in()
    for _ in range(5):
        script.read(0)
    commands = script.take()
    assert len(commands) == 2
    script.set_window(64)
    script.send(script.response(commands[0]))
    assert len(script.take()) == 3


@pytest.mark.quirk("Q-40")
async def test_information_every_now_and_then() -> None:
    """istgt sends a NOP-In with neither tag at an interval: nobody answers, and it is a sign of
    life."""
    settings = Settings(noop_interval=5, noop_timeout=5)
    async with logged_in(virtual=True, settings=settings) as (_, peer):
        for _ in range(20):
            await peer.expect_nothing(4)
            await peer.send(peer.nop_in())
        peer.recorder.assert_none(NopOut)


@pytest.mark.quirk("Q-41")
async def test_a_target_that_counts_what_is_immediate() -> None:
    """istgt counts an immediate Text or Logout Request in ExpCmdSN. Text is not sent immediate; the
    logout is, and its miscounted answer ends the session as any would, without another login; what
    was found is returned."""
    async with ScriptedTarget().running() as target, anyio.create_task_group() as tasks:

        async def script() -> None:
            peer = await target.log_in()
            request = await peer.expect(TextRequest)
            assert not request.immediate
            await peer.send(peer.text(request, [("TargetName", DISK)]))
            logout = await peer.expect(LogoutRequest)
            due = peer.exp_cmd_sn + 1
            await peer.send(peer.logged_out(logout, exp_cmd_sn=due, max_cmd_sn=due + 8))
            await peer.expect_end()

        tasks.start_soon(script)
        assert [one.name for one in await found_at(target)] == [DISK]
        await anyio.sleep(100)
        assert len(target.connections) == 1


@pytest.mark.quirk("Q-41")
def test_an_exp_cmd_sn_ahead_of_us_is_an_error_with_a_name() -> None:
    """Not a wait for a window that can never fit."""
    script = Script(QUIET).log_in()
    ask = script.ask([])
    request = script.one(TextRequest)
    assert request.target_transfer_tag == RESERVED
    due = script.exp_cmd_sn + 1
    script.send(script.text(request, [], exp_cmd_sn=due, max_cmd_sn=due + 8))
    error = script.ended().error
    assert isinstance(error, ProtocolError)
    assert "ExpCmdSN" in str(error)
    assert isinstance(ask.error, (ProtocolError, ConnectionLost))
