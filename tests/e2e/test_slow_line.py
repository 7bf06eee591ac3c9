# SPDX-License-Identifier: Apache-2.0
"""A line so slow that one PDU takes longer than a silence may last: slow is not silent."""

from __future__ import annotations

import contextlib

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Settings
from pyscsi_init.testing import TargetServer
from tests.support.python_target import INITIATOR, KIBI, make_target, url_of

pytestmark = pytest.mark.anyio

PIECE = 4 * KIBI
PAUSE_S = 0.04
SILENCE_S = 0.3
LENGTH = 128 * KIBI


async def test_data_that_comes_slowly_is_a_sign_of_life() -> None:
    settings = Settings(
        recovery_timeout=None, noop_interval=SILENCE_S, noop_timeout=SILENCE_S, command_timeout=30
    )
    async with contextlib.AsyncExitStack() as stack:
        portal = await stack.enter_async_context(TargetServer([make_target()]).running())
        host, _, port = str(portal.address).rpartition(":")
        listener = await stack.enter_async_context(
            await anyio.create_tcp_listener(local_host="127.0.0.1")
        )

        async def to_target(ours: anyio.abc.ByteReceiveStream, to: anyio.abc.ByteStream) -> None:
            async for data in ours:
                await to.send(data)

        async def relay(ours: anyio.abc.SocketStream) -> None:
            async with (
                ours,
                await anyio.connect_tcp(host, int(port)) as theirs,
                anyio.create_task_group() as both,
            ):
                both.start_soon(to_target, ours, theirs)
                with contextlib.suppress(anyio.EndOfStream):
                    while data := await theirs.receive(PIECE):
                        await ours.send(data)
                        if len(data) == PIECE:
                            await anyio.sleep(PAUSE_S)
                both.cancel_scope.cancel()

        group = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(group.cancel_scope.cancel)
        group.start_soon(listener.serve, relay)
        address = f"127.0.0.1:{listener.extra(anyio.abc.SocketAttribute.local_port)}"
        lun = await stack.enter_async_context(
            pyscsi_init.open_lun(url_of(address), settings=settings, initiator_name=INITIATOR)
        )
        began = anyio.current_time()
        with anyio.fail_after(20):
            assert await lun.read(0, LENGTH) == bytes(LENGTH)
        assert anyio.current_time() - began > 2 * SILENCE_S + 0.2, "the line was not slow"
        assert lun.session.statistics.losses == 0
