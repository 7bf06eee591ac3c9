# SPDX-License-Identifier: Apache-2.0
"""The order of commands, the window, pings and rejects, over a real socket."""

from __future__ import annotations

import pytest

from pyscsi_init.pdu import (
    RESERVED_TAG,
    DataOut,
    NopIn,
    NopOut,
    Reject,
    SnackRequest,
)
from pyscsi_init.testing import (
    RamDisk,
    Target,
    TargetServer,
    TargetSettings,
)
from tests.pyscsi_init.testing.raw_initiator import (
    TEST_UNIT_READY,
    connected,
    logged_in,
    read_10,
    write_10,
)

pytestmark = pytest.mark.anyio

IQN = "iqn.2024-01.example:disk"
SIZE = 4 << 20
PATTERN = (bytes(i * 7 % 251 for i in range(251)) * 4178)[: 1 << 20]


def make_target(**settings: object) -> Target:
    return Target(IQN, luns={0: RamDisk(SIZE)}, settings=TargetSettings(**settings))  # type: ignore[arg-type]


async def test_the_window_is_as_large_as_it_is_set() -> None:
    target = make_target(command_window=4)
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        assert initiator.max_cmd_sn == initiator.cmd_sn + 3
        held = target.faults.hold(opcodes={0})
        tags = [await initiator.start(TEST_UNIT_READY) for _ in range(6)]
        await held.wait(4)
        await initiator.send(NopOut(immediate=True, initiator_task_tag=99, cmd_sn=initiator.cmd_sn))
        assert isinstance(await initiator.receive(), NopIn)
        assert held.held == 4, "what is outside of the window is ignored"
        assert initiator.max_cmd_sn == initiator.exp_cmd_sn - 1, "the window is closed"
        held.release(1)
        await initiator.finish(tags[0])
        assert initiator.max_cmd_sn == initiator.exp_cmd_sn, "and opens by one"
        held.release()


async def test_commands_are_done_in_order_even_when_they_come_in_another() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        number = initiator.cmd_sn
        late = await initiator.start(read_10(0, 1), read=512, cmd_sn=number + 1)
        old = await initiator.start(write_10(0, 1), write=b"1" * 512, cmd_sn=number)
        assert (await initiator.finish(old)).status == 0
        assert (await initiator.finish(late)).data == b"1" * 512
        again = await initiator.start(TEST_UNIT_READY, cmd_sn=number)
        tag = await initiator.start(TEST_UNIT_READY, cmd_sn=number + 2)
        assert (await initiator.finish(tag)).status == 0, f"{again} has a number of the past"


async def test_sequence_numbers_wrap() -> None:
    target = make_target(initial_stat_sn=0xFFFFFFFD)
    async with TargetServer([target]).running() as portal, connected(portal) as initiator:
        initiator.cmd_sn = 0xFFFFFFFE
        await initiator.login(IQN)
        for _ in range(6):
            assert (await initiator.execute(TEST_UNIT_READY)).status == 0
        assert (initiator.cmd_sn, initiator.exp_stat_sn) == (4, 4)


async def test_nop_echoes_and_pings() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        await initiator.send(
            NopOut(immediate=True, initiator_task_tag=77, cmd_sn=initiator.cmd_sn, data=b"ping")
        )
        echo = await initiator.receive()
        assert isinstance(echo, NopIn)
        assert (echo.initiator_task_tag, echo.data) == (77, b"ping")
        session = target.sessions[0]
        tag = session.ping()
        ping = await initiator.receive()
        assert isinstance(ping, NopIn)
        assert (ping.initiator_task_tag, ping.target_transfer_tag) == (RESERVED_TAG, tag)
        assert tag in session.pings
        await initiator.send(
            NopOut(immediate=True, target_transfer_tag=tag, cmd_sn=initiator.cmd_sn)
        )
        await initiator.execute(TEST_UNIT_READY)
        assert session.pings == {}


async def test_an_unanswered_ping_ends_the_connection() -> None:
    target = make_target(nop_in_interval=0.01, nop_in_timeout=0.02)
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        assert isinstance(await initiator.receive(), NopIn)
        assert await initiator.closed()


async def test_what_has_no_place_is_rejected() -> None:
    target = make_target()
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        await initiator.send(SnackRequest(initiator_task_tag=1))
        snack = await initiator.receive()
        assert isinstance(snack, Reject)
        assert (snack.reason, len(snack.data)) == (3, 48)
        await initiator.send(DataOut(initiator_task_tag=500, target_transfer_tag=9, data=b"data"))
        assert isinstance(await initiator.receive(), Reject)
        assert target.counters.rejects == 2
        assert (await initiator.execute(TEST_UNIT_READY)).status == 0


async def test_bytes_that_are_no_pdu_end_the_connection_only() -> None:
    async with TargetServer([make_target()]).running() as portal:
        async with connected(portal) as initiator:
            await initiator.stream.send(b"\xff" * 4096)
            assert await initiator.closed()
        async with logged_in(portal, IQN) as initiator:
            await initiator.stream.send(b"\x01\x80\0\0\xff\xff\xff\xff" + bytes(48))
            assert await initiator.closed()
        async with logged_in(portal, IQN) as initiator:
            assert (await initiator.execute(TEST_UNIT_READY)).status == 0


async def test_many_bytes_to_a_slow_reader() -> None:
    """What the socket does not take waits, and nothing is lost or mixed."""
    target = make_target()
    target.luns[0].disk.write(0, PATTERN)
    async with TargetServer([target]).running() as portal, logged_in(portal, IQN) as initiator:
        tags = [await initiator.start(read_10(0, 2048), read=1 << 20) for _ in range(40)]
        for tag in tags:
            assert (await initiator.finish(tag)).data == PATTERN
