# SPDX-License-Identifier: Apache-2.0
"""The loop device follows the LUN: up and not down, and the worker opens nothing for it."""

from __future__ import annotations

import functools
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from fusefs.errors import HostError
from fusefs.host import FakeHost, LinuxHost
from fusefs.process.growth import LoopGrowth, refreshed_size
from pyscsi_init import RamDevice
from tests.fusefs.process.test_worker import AUDITED, running
from tests.support import waiting
from tests.support.logs import ExpectLogs
from tests.support.tgt import TgtServer

pytestmark = pytest.mark.anyio

MEBI = 1 << 20
PATIENCE = 20.0


@asynccontextmanager
async def followed(host: FakeHost) -> AsyncIterator[RamDevice]:
    """A device of 8 MiB whose file lies under a loop device of the host."""
    device = RamDevice(8 * MEBI)
    host.content("/lun").size_bytes = 8 * MEBI
    await anyio.to_thread.run_sync(functools.partial(host.loop_attach, "/lun", block_size=512))
    async with anyio.create_task_group() as group:
        group.start_soon(LoopGrowth(host, device, "/lun").serve)
        yield device
        group.cancel_scope.cancel()


def resize(host: FakeHost, device: RamDevice, size: int) -> None:
    host.content("/lun").size_bytes = size
    device.resize(size)


async def test_up_and_not_down() -> None:
    host = FakeHost()
    async with followed(host) as device:
        resize(host, device, 4 * MEBI)
        resize(host, device, 16 * MEBI)
        await waiting.until(lambda: host.loop_list()[0].size_bytes == 16 * MEBI, PATIENCE)
        resize(host, device, 4 * MEBI)
        assert await refreshed_size(device) == 4 * MEBI
        resize(host, device, 6 * MEBI)
        await waiting.until(lambda: host.steps[1:] == ["loop_follow"] * 2, PATIENCE)
        assert host.loop_list()[0].size_bytes == 16 * MEBI


async def test_a_successor_catches_up() -> None:
    """Nobody was there when it grew, so nobody told the channel or the loop device."""
    host = FakeHost()
    device = RamDevice(8 * MEBI)
    host.content("/lun").size_bytes = 8 * MEBI
    await anyio.to_thread.run_sync(functools.partial(host.loop_attach, "/lun", block_size=512))
    resize(host, device, 16 * MEBI)
    told: list[int] = []
    device.size_changed.append(told.append)
    async with anyio.create_task_group() as group:
        growth = LoopGrowth(host, device, "/lun")
        group.start_soon(growth.serve)
        growth.catch_up(16 * MEBI)
        assert told == []
        growth.catch_up(8 * MEBI)
        await waiting.until(lambda: host.loop_list()[0].size_bytes == 16 * MEBI, PATIENCE)
        assert told == [16 * MEBI]
        assert host.steps == ["loop_attach", "loop_follow"]
        group.cancel_scope.cancel()


async def test_a_failure_is_told_and_the_next_growth_tries_again(expect_logs: ExpectLogs) -> None:
    host = FakeHost()
    host.fail_at("loop_follow", HostError("not today"))
    expect_logs("the loop device did not grow with the LUN: not today")
    async with followed(host) as device:
        resize(host, device, 16 * MEBI)
        await waiting.until(lambda: "loop_follow" in host.steps, PATIENCE)
        assert host.loop_list()[0].size_bytes == 8 * MEBI
        resize(host, device, 24 * MEBI)
        await waiting.until(lambda: host.loop_list()[0].size_bytes == 24 * MEBI, PATIENCE)


@pytest.mark.root
@pytest.mark.tgt
@pytest.mark.one_loop
@pytest.mark.parametrize("channel", ["native", "pyfuse3"])
async def test_the_worker_opens_nothing_for_it(tmp_path: Path, channel: str) -> None:
    host = LinuxHost()
    with TgtServer() as tgt:
        tid = tgt.new_target("iqn.2026-01.com.example:disk")
        tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=16 * MEBI)
        async with running(tmp_path, AUDITED, url=tgt.url(tid, 1), fuse_channel=channel) as it:

            def attach() -> None:
                host.loop_attach(str(it.file), block_size=512)

            def size() -> int:
                (device,) = [d for d in host.loop_list() if d.backing_file == str(it.file)]
                return device.size_bytes

            await anyio.to_thread.run_sync(attach)
            tgt.kill()
            os.truncate(tmp_path / "disk", 32 * MEBI)
            tgt.restart()
            await waiting.until(lambda: size() == 32 * MEBI, PATIENCE)
            tgt.grow(tid, 1, 48 * MEBI)
            assert (await it.client.call("refresh-capacity"))["size_bytes"] == 48 * MEBI
            await waiting.until(lambda: size() == 48 * MEBI, PATIENCE)
            (device,) = [d for d in host.loop_list() if d.backing_file == str(it.file)]
            await anyio.to_thread.run_sync(host.loop_detach, device)
            log = it.log.read_text()
        assert "serving iscsi://" in log
        assert [line for line in log.splitlines() if line.startswith("AUDIT")] == []
