# SPDX-License-Identifier: Apache-2.0
"""The scripted target behind real sockets, and behind socket pairs under a virtual clock."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import pairwise

import anyio
import anyio.lowlevel
import pytest

import pyscsi_init
from pyscsi_init import Session, Settings
from pyscsi_init.errors import ConnectError, ConnectionLost
from pyscsi_init.pdu import DataOut, LoginRequest, LogoutRequest, NopOut, ScsiCommand
from pyscsi_init.testing import Listener
from pyscsi_init.testing.scripted import ScriptedConnection, ScriptedTarget, Violation
from tests.support.scripted_session import INITIATOR, logged_in, session_with

pytestmark = pytest.mark.anyio

READ = bytes.fromhex("28000000000000000100") + bytes(6)
WRITE = bytes.fromhex("2a000000000000001000") + bytes(6)


async def script(session: Session, peer: ScriptedConnection) -> None:
    """One read and one write: the same words for every kind of socket and clock."""
    results: list[bytes] = []

    async def read() -> None:
        results.append((await session.execute(0, READ, data_in_length=512)).data)

    async def write() -> None:
        await session.execute(0, WRITE, data_out=bytes(8192))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        command = await peer.expect(ScsiCommand, lambda pdu: pdu.read)
        data = peer.data_in(command, 0, b"x" * 512, final=True, status_present=True)
        await peer.send(data, split=7)
    assert results == [b"x" * 512]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(write)
        command = await peer.expect(ScsiCommand, lambda pdu: pdu.write)
        assert len(command.data) == 1024
        await peer.send(peer.r2t(command, 1024, 7168))
        for number in range(7):
            assert (await peer.expect(DataOut)).data_sn == number
        await peer.send(peer.response(command))


NARROW = {
    "MaxRecvDataSegmentLength": "1024",
    "FirstBurstLength": "1024",
    "InitialR2T": "Yes",
}


async def test_on_real_sockets() -> None:
    async with (
        ScriptedTarget().running() as target,
        session_with(target, **NARROW) as (session, peer),
    ):
        await script(session, peer)


async def test_on_ipv6_and_several_portals() -> None:
    async with ScriptedTarget(Listener("::1"), Listener("127.0.0.1")).running() as target:
        assert target.portal.host == "::1"
        async with session_with(target, **NARROW) as (session, peer):
            await script(session, peer)


@pytest.mark.virtual_clock
async def test_on_a_virtual_clock() -> None:
    """An hour passes between two steps, and takes no time; silence is silence."""
    async with (
        ScriptedTarget().running() as target,
        session_with(target, virtual=True, **NARROW) as (session, peer),
    ):
        begin = anyio.current_time()
        await script(session, peer)
        await peer.expect_nothing(3600)
        await script(session, peer)
        assert anyio.current_time() - begin == pytest.approx(3600, abs=1)


@pytest.mark.virtual_clock
async def test_times_are_virtual_too() -> None:
    settings = Settings(noop_interval=5, noop_timeout=5)
    async with (
        ScriptedTarget().running() as target,
        session_with(target, virtual=True, settings=settings) as (_, peer),
    ):
        for _ in range(3):
            await peer.send(peer.pong(await peer.expect(NopOut)))
        times = target.recorder.times(NopOut)
        assert [b - a for a, b in pairwise(times)] == [pytest.approx(5)] * 2


async def _reset(peer: ScriptedConnection) -> None:
    peer.rst()


async def _fin(peer: ScriptedConnection) -> None:
    peer.fin()
    await peer.expect_end()


@pytest.mark.parametrize("how", [_reset, _fin])
async def test_ends(how: Callable[[ScriptedConnection], Awaitable[None]]) -> None:
    settings = Settings(noop_interval=0, recovery_timeout=0)
    async with ScriptedTarget().running() as target, anyio.create_task_group() as tasks:

        async def play() -> None:
            peer = await target.log_in()
            await peer.expect(ScsiCommand)
            await how(peer)

        tasks.start_soon(play)
        async with pyscsi_init.open_session(
            [target.portal], target.name, settings=settings, initiator_name=INITIATOR
        ) as session:
            with pytest.raises((ConnectionLost, pyscsi_init.errors.OutcomeUnknown)):
                await session.execute(0, READ, data_in_length=512)


async def test_a_violation_fails_the_block_that_did_not_look() -> None:
    """An initiator that sends a command before it logged in."""

    async def misbehave() -> None:
        async with ScriptedTarget().running() as target:
            stream = await anyio.connect_tcp(target.portal.host, target.portal.port)
            async with stream:
                await stream.send(ScsiCommand().encode())
                await target.accept()
                while not target.recorder.entries:
                    await anyio.lowlevel.checkpoint()

    with pytest.raises(Violation, match="only Login Requests"):
        await misbehave()


async def test_expecting_the_wrong_thing_shows_what_came() -> None:
    async with ScriptedTarget().running() as target:
        stream = await anyio.connect_tcp(target.portal.host, target.portal.port)
        async with stream:
            peer = await target.accept()
            await stream.send(LoginRequest().encode())
            with pytest.raises(AssertionError, match="LogoutRequest was expected, not LoginReq"):
                await peer.expect(LogoutRequest)
            with pytest.raises(AssertionError, match=r"nothing in 0.01 s"):
                await peer.next(0.01)
        await peer.expect_end()


@pytest.mark.virtual_clock
@pytest.mark.parametrize(("how", "seconds"), [("refusing", 0), ("unreachable", 7)])
async def test_no_connection_without_a_network(how: str, seconds: float) -> None:
    settings = Settings(connect_timeout=7)
    async with ScriptedTarget().running() as target:
        setattr(target, how, True)
        begin = anyio.current_time()
        with pytest.raises(ConnectError):
            async with pyscsi_init.open_session(
                [target.portal],
                target.name,
                settings=settings,
                initiator_name=INITIATOR,
                connector=target.connect,
            ):
                pass
        assert anyio.current_time() - begin == pytest.approx(seconds)
        with pytest.raises(AssertionError, match="no connection within 3 s"):
            await target.accept(within=3)


async def test_a_target_that_does_not_read() -> None:
    """What it does not take fills the sockets, and is there when it reads again."""
    size = 16 << 20
    async with logged_in(MaxRecvDataSegmentLength="262144", MaxBurstLength="1048576") as (
        session,
        peer,
    ):
        peer.stop_reading()
        async with anyio.create_task_group() as tasks:

            async def write() -> None:
                await session.execute(0, WRITE, data_out=bytes(size))

            tasks.start_soon(write)
            await peer.expect_nothing(0.1)
            peer.read_again()
            command = await peer.expect(ScsiCommand)
            offset = 65536
            for sn in range(16):
                length = min(1 << 20, size - offset)
                await peer.send(
                    peer.r2t(command, offset, length, r2t_sn=sn, target_transfer_tag=sn)
                )
                if sn == 7:
                    peer.stop_reading()
                    await peer.expect_nothing(0.1, DataOut)
                    peer.read_again()
                while not (await peer.expect(DataOut)).final:
                    pass
                offset += length
            await peer.send(peer.response(command))
