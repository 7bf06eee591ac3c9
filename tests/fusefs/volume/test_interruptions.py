# SPDX-License-Identifier: Apache-2.0
"""Deaths, absences and interruptions on this host over a real tgt: nothing stays or hangs."""

from __future__ import annotations

import mmap
import os
import signal
import sys
import time
from pathlib import Path

import anyio
import pytest

from fusefs.errors import (
    WorkerFailed,
)
from fusefs.host import LinuxHost
from fusefs.process.client import ControlClient
from tests.fusefs.volume.node import Node, ended, eventually, in_thread
from tests.support import processes
from tests.support.requirements import require_module

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.one_loop,
    pytest.mark.root,
    pytest.mark.tgt,
]


# -- what happens to workers ----------------------------------------------------------------------


async def test_a_killed_worker_is_followed_and_nothing_is_lost(node: Node) -> None:
    status = await node.manager.mount(node.spec(format_if_blank=True), node.mountpoint)
    await in_thread((node.mountpoint / "file").write_text, "here")
    assert status.worker_pid is not None
    os.kill(status.worker_pid, signal.SIGKILL)
    await ended(status.worker_pid)
    await in_thread(os.sync)
    assert await in_thread((node.mountpoint / "file").read_text) == "here"

    async def serves() -> bool:
        return (await node.manager.get("data")).state == "mounted"

    await eventually(serves)
    now = await node.manager.get("data")
    assert (now.restarts, now.io["errors"]) == (1, 0), now
    assert now.worker_pid not in (None, status.worker_pid)
    assert (await node.manager.umount("data")).clean
    node.assert_nothing_left()


async def test_a_killed_libfuse_worker_fails_the_volume_and_it_can_be_had_again(node: Node) -> None:
    """The documented fallback: a clean error, and an unmount that works."""
    require_module("pyfuse3")
    spec = node.spec(format_if_blank=True, fuse_channel="pyfuse3")
    status = await node.manager.mount(spec, node.mountpoint)
    await in_thread((node.mountpoint / "file").write_text, "here")
    await in_thread(os.sync)
    assert status.worker_pid is not None
    os.kill(status.worker_pid, signal.SIGKILL)
    await ended(status.worker_pid)

    async def has_failed() -> bool:
        now = await node.manager.get("data")
        return now.failed and "killed by SIGKILL" in now.last_error

    await eventually(has_failed)
    with pytest.raises(OSError, match="Input/output error"):
        await in_thread(read_past_the_cache, status.loop)
    await node.manager.umount("data")
    node.assert_nothing_left()
    await node.manager.mount(node.spec(), node.mountpoint)
    assert await in_thread((node.mountpoint / "file").read_text) == "here"
    await node.manager.umount("data")
    node.assert_nothing_left()


def read_past_the_cache(device: str) -> None:
    descriptor = os.open(device, os.O_RDONLY | os.O_DIRECT)
    try:
        os.preadv(descriptor, [mmap.mmap(-1, 4096)], 0)
    finally:
        os.close(descriptor)


async def test_sigterm_stops_an_idle_worker_and_not_one_in_use(node: Node) -> None:
    status = await node.manager.attach(node.spec())
    assert status.worker_pid is not None
    os.kill(status.worker_pid, signal.SIGINT)
    os.kill(status.worker_pid, signal.SIGTERM)
    log = node.directory() / "log"

    async def refused() -> bool:
        return "SIGTERM is refused" in await in_thread(log.read_text)

    await eventually(refused)
    assert (await node.manager.get("data")).state == "attached"

    (device,) = [d for d in LinuxHost().loop_list() if str(node.base) in d.backing_file]
    await in_thread(LinuxHost().loop_detach, device)
    os.kill(status.worker_pid, signal.SIGTERM)
    await ended(status.worker_pid)
    node.tgt.wait_sessions(0)
    assert (await node.manager.get("data")).failed
    await node.manager.detach("data")
    node.assert_nothing_left()


async def test_an_aborted_connection_ends_the_worker_and_its_session(node: Node) -> None:
    status = await node.manager.attach(node.spec())
    assert status.worker_pid is not None
    connection = LinuxHost().fuse_connection_of
    number = await in_thread(connection, str(node.directory() / "fuse"))
    await in_thread(LinuxHost().fuse_abort, number)
    await ended(status.worker_pid)
    node.tgt.wait_sessions(0)
    await node.manager.detach("data")
    node.assert_nothing_left()


async def test_the_end_by_force_while_the_target_hangs(node: Node) -> None:
    await node.manager.mount(node.spec(format_if_blank=True), node.mountpoint)

    def write() -> str:
        try:
            descriptor = os.open(node.mountpoint / "file", os.O_CREAT | os.O_WRONLY | os.O_SYNC)
            try:
                os.write(descriptor, b"x" * 65536)
            finally:
                os.close(descriptor)
        except OSError as error:
            return os.strerror(error.errno or 0)
        return "written"

    outcome: list[str] = []
    with node.tgt.stopped():
        async with anyio.create_task_group() as group:

            async def writer() -> None:
                outcome.append(await in_thread(write))

            group.start_soon(writer)
            client = ControlClient(node.directory(), "data")

            async def waits() -> bool:
                return bool((await client.call("status"))["io"]["in_flight"])

            await eventually(waits)
            started = time.monotonic()
            report = await node.manager.umount("data", force=True)
            assert time.monotonic() - started < 25
    assert report.requests_in_flight
    # A target that only hangs looks healthy for a while: saving is tried, and the failure told.
    assert all("took longer" in problem for problem in report.problems)
    # Which of the two depends on whether ext4 has heard of it before the writer.
    assert outcome[0] in ("Input/output error", "Read-only file system")
    node.assert_nothing_left()


async def test_without_its_target_it_is_recovering_and_comes_back(node: Node) -> None:
    await node.manager.mount(node.spec(format_if_blank=True), node.mountpoint)
    node.tgt.kill()

    async def is_recovering() -> bool:
        return (await node.manager.get("data")).state == "recovering"

    async def is_mounted() -> bool:
        return (await node.manager.get("data")).state == "mounted"

    await eventually(is_recovering)
    with pytest.raises(WorkerFailed, match="target is away"):
        await node.manager.umount("data")
    node.tgt.restart()
    await eventually(is_mounted)
    assert (await node.manager.get("data")).recoveries == 1
    await in_thread((node.mountpoint / "file").write_text, "after")
    await node.manager.umount("data")
    node.assert_nothing_left()


@pytest.mark.parametrize("at", ["look for", "make an", "mount on"])
async def test_a_command_is_cancelled_while_the_target_hangs(node: Node, at: str) -> None:
    """The system call under way cannot be taken back, but what it waits for can be ended."""
    scope = anyio.CancelScope()

    def heard(step: str) -> None:
        if step.startswith(at):
            os.kill(node.tgt.pid, signal.SIGSTOP)
            scope.deadline = anyio.current_time() + 0.5

    try:
        with anyio.fail_after(60), scope:
            await node.manager.mount(node.spec(format_if_blank=True), node.mountpoint, None, heard)
    finally:
        os.kill(node.tgt.pid, signal.SIGCONT)
    assert scope.cancelled_caught
    node.assert_nothing_left()


# -- interruptions --------------------------------------------------------------------------------

COMMAND = """
import os, signal, sys, anyio
from fusefs.host import LinuxHost
from fusefs.spec import VolumeSpec
from fusefs.volume.manager import VolumeManager

base, url, at, way = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
steps = []

def heard(step):
    steps.append(step)
    if len(steps) == at:
        if way == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        scope.cancel()

async def main():
    global scope
    manager = VolumeManager(LinuxHost(), base + "/run", base + "/state")
    with anyio.CancelScope() as scope:
        spec = VolumeSpec(name="data", url=url, format_if_blank=True)
        await manager.mount(spec, base + "/mnt", None, heard)
    print(scope.cancelled_caught)

anyio.run(main)
"""
STEPS = 6
"""log in, publish, attach the loop, look for a filesystem, make it, mount."""


async def command(node: Node, at: int, way: str) -> tuple[int, str]:
    done = await anyio.run_process(
        [sys.executable, "-c", COMMAND, str(node.base), node.tgt.url(node.tid, 1), str(at), way],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        check=False,
        stderr=None,
    )
    return done.returncode, done.stdout.decode()


@pytest.mark.parametrize("at", range(1, STEPS + 1))
async def test_a_cancelled_command_leaves_nothing(node: Node, at: int) -> None:
    assert await command(node, at, "cancel") == (0, "True\n")
    node.assert_nothing_left()
    node.tgt.wait_sessions(0)


async def ended_or_serving(node: Node, pid: int, at: int) -> bool:
    if not processes.is_alive(pid):
        return True
    return at == 2 and "serving iscsi://" in (node.directory("data") / "log").read_text()


@pytest.mark.parametrize("at", range(1, STEPS + 1))
async def test_a_killed_command_is_cleared_by_the_next(node: Node, at: int) -> None:
    status, _ = await command(node, at, "kill")
    assert status == -signal.SIGKILL
    if at <= 2:
        # It was not ready: it notices by itself that nobody waits for it any more. While it makes
        # the mount it may have become ready first, and then it serves until somebody ends it.
        for pid in processes.marked_processes(os.environ[processes.SESSION_VARIABLE]):
            if processes.name_of(pid) == "pyscsi-worker":
                await eventually(lambda pid=pid: ended_or_serving(node, pid, at))
    (found,) = await node.manager.status()
    assert found.failed
    await node.manager.mount(node.spec(format_if_blank=at < STEPS), node.mountpoint)
    assert [nexus.tid for nexus in node.tgt.sessions()] == [node.tid]
    await node.manager.umount("data")
    node.assert_nothing_left()
    node.tgt.wait_sessions(0)
