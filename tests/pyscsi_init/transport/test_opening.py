# SPDX-License-Identifier: Apache-2.0
"""Opening and closing: cancelled at every step, nothing stays behind."""

from __future__ import annotations

import asyncio
import os

import anyio
import anyio.lowlevel
import pytest
import sniffio
import trio

import pyscsi_init
from pyscsi_init.errors import ConnectError, LocalProtocolError, LoginError, LoginTimeout
from pyscsi_init.names import Portal
from pyscsi_init.testing import Listener, TargetServer
from pyscsi_init.transport import open_session
from pyscsi_init.transport.sockets import connect
from tests.support.python_target import INITIATOR, IQN, WAIT, make_target, until, url_of

pytestmark = [pytest.mark.anyio, pytest.mark.every_loop]


def descriptors() -> set[str]:
    """What this process holds open, sockets by their number in the kernel."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return {each for each in found if each.startswith("socket")}


def tasks() -> int:
    """How many tasks the loop has."""
    if sniffio.current_async_library() == "trio":
        return trio.lowlevel.current_statistics().tasks_living
    return len(asyncio.all_tasks())


async def test_cancelled_at_every_await_nothing_is_left() -> None:
    """One more step each time, until the whole of it fits: open, read, close."""
    server = TargetServer([make_target()])
    async with server.running() as portal:
        finished = False

        async def whole() -> None:
            nonlocal finished
            async with pyscsi_init.open_lun(
                url_of(portal.address), settings=WAIT, initiator_name=INITIATOR
            ) as lun:
                await lun.write(0, b"x" * 512)
                await lun.read(0, 512)
            finished = True

        await whole()  # what is made once in a process is made now
        finished = False
        await until(lambda: not server.connections)
        await anyio.sleep(0.05)
        sockets, running = descriptors(), tasks()
        steps = 0
        while not finished:
            steps += 1 + steps // 16
            assert steps < 5000
            async with anyio.create_task_group() as group:
                group.start_soon(whole)
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                group.cancel_scope.cancel()
            await until(lambda: not server.connections)
            assert descriptors() == sockets
        assert steps > 20
        await until(lambda: tasks() <= running)


async def test_a_cancelled_session_is_logged_out() -> None:
    """Descriptors and timers are still served while the block ends: the target gets its logout and
    answers it, and nobody waits for a time-out."""
    target = make_target()
    received: list[str] = []
    target.faults.on_receive = lambda _, pdu: received.append(type(pdu).__name__)
    server = TargetServer([target])
    async with server.running() as portal:
        began = anyio.current_time()
        with anyio.CancelScope() as scope:
            async with pyscsi_init.open_lun(
                url_of(portal.address), settings=WAIT, initiator_name=INITIATOR
            ):
                scope.cancel()
                await anyio.sleep_forever()
        assert scope.cancelled_caught
        assert received[-1] == "LogoutRequest"
        assert anyio.current_time() - began < 2
        await until(lambda: not server.connections)


async def test_a_portal_that_refuses() -> None:
    server = TargetServer([make_target()])
    async with server.running() as portal:
        server.stop_listening()
        sockets = descriptors()
        with pytest.raises(ConnectError, match="nothing listens there"):
            async with open_session([portal], IQN, initiator_name=INITIATOR):
                pass
        assert descriptors() == sockets


async def test_a_portal_that_says_nothing() -> None:
    server = TargetServer([make_target()], portals=[Listener(silent=True)])
    async with server.running() as portal:
        sockets = descriptors()
        with pytest.raises(LoginTimeout, match=r"within 0\.1 s"):
            async with open_session([portal], IQN, initiator_name=INITIATOR, open_timeout=0.1):
                pass
        assert len(server.connections) == 1  # its end of the connection, which it never looks at
        assert len(descriptors() - sockets) == 1


async def test_without_a_portal() -> None:
    with pytest.raises(LocalProtocolError):
        async with open_session([], IQN, initiator_name=INITIATOR):
            pass


async def test_what_the_block_raises_comes_out_as_it_is() -> None:
    async with TargetServer([make_target()]).running() as portal:
        with pytest.raises(KeyError, match="mine"):
            async with open_session([portal], IQN, initiator_name=INITIATOR):
                raise KeyError("mine")


async def test_a_target_name_that_is_not_there() -> None:
    server = TargetServer([make_target()])
    async with server.running() as portal:
        with pytest.raises(LoginError):
            async with open_session(
                [portal], "iqn.2026-11.example:other", initiator_name=INITIATOR
            ):
                pass
        await until(lambda: not server.connections)


async def test_a_name_that_does_not_resolve() -> None:
    with pytest.raises(ConnectError, match="does not resolve"):
        await connect(Portal("no-such-host.invalid"), 5)
