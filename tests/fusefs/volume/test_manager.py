# SPDX-License-Identifier: Apache-2.0
"""Volumes on this host over a real tgt: real workers, FUSE, loop devices, filesystems, mounts."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from fusefs.errors import (
    AlreadyAttached,
    BlankNotFormatted,
    FilesystemMismatch,
    MountBusy,
    NotBlank,
    WorkerFailed,
)
from fusefs.host import LinuxHost
from fusefs.process.client import ControlClient
from fusefs.process.launch import start_time_of
from fusefs.spec import VolumeSpec
from fusefs.volume.manager import VolumeManager
from pyscsi_init.errors import AuthenticationFailed, ConnectError, LunNotFound, ReadOnlyDevice
from pyscsi_init.secret import Chap, Secret
from tests.support import processes
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.anyio, pytest.mark.root, pytest.mark.tgt]

SIZE = 64 << 20
IQN = "iqn.2026-01.com.example:disk"
SECRET = "a secret that nobody may see"


class Node:
    """A tgt with one disk, and a manager with directories of its own."""

    def __init__(self, base: Path, tgt: TgtServer) -> None:
        self.base = base
        self.tgt = tgt
        self.tid = tgt.new_target(IQN)
        self.disk = base / "disk"
        tgt.add_lun(self.tid, 1, self.disk, size_bytes=SIZE)
        self.mountpoint = base / "mnt"
        self.mountpoint.mkdir()
        self.manager = VolumeManager(LinuxHost(), base / "run", base / "state", lock_timeout_s=0)

    def spec(self, name: str = "data", **changes: Any) -> VolumeSpec:
        changes.setdefault("url", self.tgt.url(self.tid, 1))
        return VolumeSpec(name=name, **changes)

    def directory(self, name: str = "data") -> Path:
        return self.base / "run" / "volumes" / name

    def assert_nothing_left(self) -> None:
        volumes = self.base / "run" / "volumes"
        assert not volumes.exists() or os.listdir(volumes) == []
        with open("/proc/self/mountinfo") as table:
            assert str(self.base) not in table.read()
        assert all(str(self.base) not in d.backing_file for d in LinuxHost().loop_list())

    def clean_up(self) -> None:
        """After a test that failed: whatever there is goes."""

        async def end_all() -> None:
            for status in await self.manager.status():
                with contextlib.suppress(Exception):
                    await self.manager.detach(status.name, force=True)

        anyio.run(end_all)


def all_that_is_written(node: Node, pid: int) -> bytes:
    paths = [Path(f"/proc/{pid}/cmdline"), Path(f"/proc/{pid}/environ")]
    paths += [node.directory() / "log", *node.base.rglob("*.json")]
    assert node.directory() / "state.json" in paths
    return b"".join(path.read_bytes() for path in paths)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    with TgtServer() as tgt:
        made = Node(tmp_path, tgt)
        yield made
        made.clean_up()


async def in_thread(function: Any, *arguments: Any) -> Any:
    """Files of a volume are touched in threads: its worker is another process, but a slow one."""
    return await anyio.to_thread.run_sync(function, *arguments)


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    """Other processes tell nobody when they are so far: look again and again."""
    with anyio.fail_after(seconds):
        while not await condition():  # noqa: ASYNC110
            await anyio.sleep(0.02)


async def ended(pid: int) -> None:
    async def is_gone() -> bool:
        return start_time_of(pid) is None

    await eventually(is_gone)


def make_ext4(disk: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True)


# -- the whole way ------------------------------------------------------------------------------


@pytest.mark.parametrize("fstype", ["ext4", "btrfs"])
async def test_format_write_read_again(node: Node, fstype: str) -> None:
    if fstype == "btrfs":
        node.tgt.grow(node.tid, 1, 256 << 20)
    spec = node.spec(format_if_blank=True, fstype=fstype)
    status = await node.manager.mount(spec, node.mountpoint)
    assert (status.state, status.fstype, status.block_size) == ("mounted", fstype, 512)
    data = os.urandom(3 << 20)
    await in_thread((node.mountpoint / "file").write_bytes, data)
    assert (await node.manager.umount(node.mountpoint)).clean
    node.assert_nothing_left()
    node.tgt.wait_sessions(0)

    await node.manager.mount(node.spec(read_only=True), node.mountpoint)
    assert await in_thread((node.mountpoint / "file").read_bytes) == data
    with pytest.raises(OSError, match="Read-only"):
        await in_thread((node.mountpoint / "other").touch)
    await node.manager.umount("data")
    node.assert_nothing_left()


async def test_attach_is_a_block_device(node: Node) -> None:
    status = await node.manager.attach(node.spec())
    assert status.size_bytes == SIZE

    def write_and_read() -> bytes:
        descriptor = os.open(status.loop, os.O_RDWR | os.O_SYNC)
        try:
            os.pwrite(descriptor, b"x" * 4096, 8192)
        finally:
            os.close(descriptor)
        return node.disk.read_bytes()[8192 : 8192 + 4096]

    assert await in_thread(write_and_read) == b"x" * 4096
    status = await node.manager.get("data")
    assert status.io["writes"] >= 1
    assert status.session["target"] == IQN
    assert status.session["keys"]["MaxConnections"] == "1"
    assert (await node.manager.detach("data")).clean
    node.assert_nothing_left()


async def test_publish_read_only(node: Node) -> None:
    await node.manager.mount(node.spec(format_if_blank=True), node.mountpoint)
    bound = node.base / "bound"
    bound.mkdir()
    await node.manager.publish("data", bound, read_only=True)
    await in_thread((node.mountpoint / "file").write_text, "here")
    assert await in_thread((bound / "file").read_text) == "here"
    with pytest.raises(OSError, match="Read-only"):
        await in_thread((bound / "other").touch)
    await node.manager.umount("data")
    node.assert_nothing_left()


async def test_chap_and_the_secret_is_nowhere(node: Node) -> None:
    node.tgt.require_chap(node.tid, "me", SECRET)
    chap = Chap(user="me", secret=Secret(SECRET))
    wrong = Chap(user="me", secret=Secret("another secret!!"))
    with pytest.raises(AuthenticationFailed):
        await node.manager.attach(node.spec(), wrong)
    node.assert_nothing_left()
    status = await node.manager.attach(node.spec(), chap)
    assert status.worker_pid is not None
    shown = repr(status).encode() + json.dumps(status.session).encode()
    assert SECRET.encode() not in shown + all_that_is_written(node, status.worker_pid)
    await node.manager.detach("data")
    node.assert_nothing_left()


# -- refusals -----------------------------------------------------------------------------------


async def test_refusals_leave_nothing(node: Node) -> None:
    """The target's reasons arrive as their classes; the LUN's content is not touched."""
    with pytest.raises(LunNotFound):
        await node.manager.attach(node.spec(url=node.tgt.url(node.tid, 9)))
    node.assert_nothing_left()
    with pytest.raises(BlankNotFormatted, match="format-if-blank"):
        await node.manager.mount(node.spec(), node.mountpoint)
    node.assert_nothing_left()
    assert not any(node.disk.read_bytes())
    with node.disk.open("r+b") as disk:
        disk.seek(1 << 20)
        disk.write(b"precious")
    before = node.disk.read_bytes()
    with pytest.raises(NotBlank):
        await node.manager.mount(node.spec(format_if_blank=True), node.mountpoint)
    node.assert_nothing_left()
    assert node.disk.read_bytes() == before


async def test_a_foreign_filesystem_is_not_mounted(node: Node) -> None:
    await in_thread(make_ext4, node.disk)
    with pytest.raises(FilesystemMismatch) as refused:
        await node.manager.mount(node.spec(fstype="xfs", format_if_blank=True), node.mountpoint)
    assert (refused.value.found, refused.value.wanted) == ("ext4 filesystem", "xfs")
    node.assert_nothing_left()


async def test_a_write_protected_lun_wants_read_only(node: Node) -> None:
    await in_thread(make_ext4, node.disk)
    node.tgt.set_lun_params(node.tid, 1, readonly=1)
    with pytest.raises(ReadOnlyDevice, match="write-protected"):
        await node.manager.mount(node.spec(), node.mountpoint)
    node.assert_nothing_left()
    await node.manager.mount(node.spec(read_only=True), node.mountpoint)
    await node.manager.umount("data")
    node.assert_nothing_left()


async def test_no_target(node: Node) -> None:
    node.tgt.kill()
    with pytest.raises(ConnectError):
        await node.manager.attach(node.spec())
    node.assert_nothing_left()


async def test_the_same_lun_by_another_name_and_portal(node: Node) -> None:
    node.tgt.add_lun(node.tid, 2, node.base / "disk2", size_bytes=SIZE)
    await node.manager.attach(node.spec())
    with pytest.raises(AlreadyAttached):
        await node.manager.attach(node.spec("again"))
    elsewhere = node.tgt.url(node.tid, 1).replace("127.0.0.1", "localhost")
    with pytest.raises(AlreadyAttached):
        await node.manager.attach(node.spec("elsewhere", url=elsewhere))
    await node.manager.attach(node.spec("neighbour", url=node.tgt.url(node.tid, 2)))
    await node.manager.detach("data")
    await node.manager.detach("neighbour")
    node.assert_nothing_left()


async def test_a_busy_mount_names_the_process(node: Node) -> None:
    await node.manager.mount(node.spec(format_if_blank=True), node.mountpoint)
    holder = await anyio.open_process(["sleep", "1000"], cwd=node.mountpoint)
    try:
        with pytest.raises(MountBusy, match="sleep") as refused:
            await node.manager.umount("data")
        assert refused.value.pids == (holder.pid,)
        assert (await node.manager.get("data")).state == "mounted"
        await in_thread((node.mountpoint / "still").write_text, "works")
    finally:
        holder.kill()
        await holder.aclose()
    await node.manager.umount("data")
    node.assert_nothing_left()


# -- what happens to workers ----------------------------------------------------------------------


async def test_a_killed_worker_fails_the_volume_and_it_can_be_had_again(node: Node) -> None:
    status = await node.manager.mount(node.spec(format_if_blank=True), node.mountpoint)
    await in_thread((node.mountpoint / "file").write_text, "here")
    await in_thread(os.sync)
    assert status.worker_pid is not None
    os.kill(status.worker_pid, signal.SIGKILL)
    await ended(status.worker_pid)
    assert (await node.manager.get("data")).failed
    await node.manager.umount("data")
    node.assert_nothing_left()
    await node.manager.mount(node.spec(), node.mountpoint)
    assert await in_thread((node.mountpoint / "file").read_text) == "here"
    await node.manager.umount("data")
    node.assert_nothing_left()


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
            assert time.monotonic() - started < 15
    assert report.requests_in_flight
    assert report.problems == []
    assert outcome == ["Input/output error"]
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


@pytest.mark.parametrize("at", range(1, STEPS + 1))
async def test_a_killed_command_is_cleared_by_the_next(node: Node, at: int) -> None:
    status, _ = await command(node, at, "kill")
    assert status == -signal.SIGKILL
    if at <= 2:
        # It was not ready: it notices by itself that nobody waits for it any more.
        for pid in processes.marked_processes(os.environ[processes.SESSION_VARIABLE]):
            if "fusefs.process.worker" in processes.command_line(pid):
                await ended(pid)
    (found,) = await node.manager.status()
    assert found.failed
    await node.manager.mount(node.spec(format_if_blank=at < STEPS), node.mountpoint)
    assert [nexus.tid for nexus in node.tgt.sessions()] == [node.tid]
    await node.manager.umount("data")
    node.assert_nothing_left()
    node.tgt.wait_sessions(0)
