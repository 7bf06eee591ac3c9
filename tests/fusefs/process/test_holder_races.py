# SPDX-License-Identifier: Apache-2.0
"""Two things at once that a holder is asked for: to forget and to start, to replace and to end."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fusefs.errors import WorkerFailed
from fusefs.process.launch import signal_and_wait, wait_for_end
from tests.fusefs.process.running import Held, eventually, in_thread, unmount
from tests.support import processes

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop, pytest.mark.root]


@pytest.fixture
async def held(tmp_path: Path) -> AsyncIterator[Held]:
    async with Held(tmp_path) as made:
        yield made


async def test_who_is_forgotten_while_its_worker_is_being_born_has_none(held: Held) -> None:
    """The zygote stands still, so the fork is under way for as long as we like."""
    it = await held.serve()
    await held.serve("other")
    _, zygote = await held.pids()
    os.kill(zygote, signal.SIGSTOP)
    try:
        assert await signal_and_wait(it.identity, signal.SIGKILL, 10)

        async def is_being_born() -> bool:
            facts = await held.facts()
            return facts.state == "starting" and facts.worker is None

        await eventually(is_being_born)
        async with held.client.ending("v"):
            await held.client.forget("v")
        await in_thread(unmount, it.fuse)
    finally:
        os.kill(zygote, signal.SIGCONT)
    again = await held.serve()
    assert (await held.facts()).worker == again.identity
    assert "worker 2" not in again.log.read_text()

    async def has_two() -> bool:
        return len(await in_thread(processes.children, zygote)) == 2

    await eventually(has_two)


async def test_a_worker_whose_volume_is_forgotten_ends(held: Held) -> None:
    it = await held.serve()
    await held.serve("other")
    await held.client.forget("v")
    assert await wait_for_end(it.identity, 10)


async def test_no_worker_is_replaced_that_would_not_be_followed(held: Held) -> None:
    """Who asks is told before the worker is made to end."""
    it = await held.serve()

    async def refused(name: str) -> None:
        with pytest.raises(WorkerFailed, match="no worker of it"):
            async with held.client.successor(name):
                pytest.fail("it could have been made to end here")

    await refused("unknown")
    async with held.client.ending("v"):
        await refused("v")
    async with held.client.successor("v"):
        await refused("v")
    # Who asked has gone: the next one may.
    async with held.client.successor("v"):
        pass
    assert await held.serves() == it.identity.pid
