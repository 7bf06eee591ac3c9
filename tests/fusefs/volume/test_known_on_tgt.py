# SPDX-License-Identifier: Apache-2.0
"""Volumes known by name, on this host over a real tgt: secrets, devices, deaths, other disks."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusefs.errors import AlreadyAttached
from fusefs.host import LinuxHost
from fusefs.volume.known import KnownVolumes
from pyscsi_init.errors import IdentityMismatch
from tests.fusefs.volume.node import SIZE, Node, ended, in_thread, make_ext4
from tests.support import processes

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.one_loop,
    pytest.mark.root,
    pytest.mark.tgt,
]

SECRET = "a secret that nobody may see"


@pytest.fixture
def known(node: Node) -> KnownVolumes:
    return KnownVolumes(node.manager)


@contextlib.contextmanager
def holding(path: Path) -> Iterator[None]:
    """A process with a mount namespace of its own and an open file there, as a container has."""
    with subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", "exec 3<file; echo; cat"],
        cwd=path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield
        finally:
            process.kill()


async def kill_everything(node: Node) -> None:
    """Holder, zygote and worker, by process id, until all are dead."""
    status = await node.manager.holder.status()
    worker = (await node.manager.get("data")).worker_pid
    pids = [pid for pid in (status.pid, status.zygote_pid, worker) if pid]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    for pid in pids:
        await ended(pid)


async def test_a_volume_with_chap_comes_back_after_the_death_of_all_processes(
    node: Node, known: KnownVolumes
) -> None:
    """The secrets die with the holder; the files of the definition give them again. Somebody still
    holds the dead filesystem in another namespace, as a container does."""
    node.tgt.require_chap(node.tid, "me", SECRET)
    file = node.base / "secret"
    file.write_text(SECRET)
    file.chmod(0o600)
    spec = node.spec(format_if_blank=True, chap_user="me", chap_secret_file=str(file))
    await known.define(spec, owner="test")
    path = await known.use("data", "one")
    await in_thread((path / "file").write_text, "here")
    await in_thread(os.sync)
    with holding(path):
        await kill_everything(node)
        node.tgt.wait_sessions(0, timeout=30)
        report = await known.restore()
        assert list(report.failed) == ["data"]
        assert (await known.get("data")).users == {"one": 1}
        assert await known.use("data", "two") == path
        assert await in_thread((path / "file").read_text) == "here"
        assert [nexus.tid for nexus in node.tgt.sessions()] == [node.tid]
        status = (await known.get("data")).status
        assert status is not None
        backing = {d.path: d.backing_file for d in LinuxHost().loop_list()}
        assert backing[status.loop] == status.file
        await known.release("data", "one")
        await known.release("data", "two")
    node.assert_nothing_left()
    written = b"".join(p.read_bytes() for p in node.base.rglob("*.json"))
    assert b"chap_secret_file" in written
    assert SECRET.encode() not in written


async def test_another_disk_behind_the_address_is_not_touched(
    node: Node, known: KnownVolumes
) -> None:
    """tgt makes the same designators for it: only the content tells."""
    await known.define(node.spec(format_if_blank=True), owner="test")
    await known.use("data", "one")
    await known.release("data", "one")
    for content in ("blank", "another filesystem"):
        other = node.base / content
        with other.open("wb") as disk:
            disk.truncate(SIZE)
        if content != "blank":
            await in_thread(make_ext4, other)
        before = other.read_bytes()
        node.tgt.delete_lun(node.tid, 1)
        node.tgt.add_lun(node.tid, 1, other)
        with pytest.raises(IdentityMismatch, match="pyscsi-init forget data"):
            await known.use("data", "one")
        assert other.read_bytes() == before
        node.assert_nothing_left()
        node.tgt.wait_sessions(0)
    assert await node.manager.forget("data")
    await known.use("data", "one")
    await known.release("data", "one")


async def test_one_lun_under_two_names_is_had_once(node: Node, known: KnownVolumes) -> None:
    node.tgt.add_lun(node.tid, 2, node.base / "second", size_bytes=SIZE)
    await known.define(node.spec(format_if_blank=True), owner="test")
    await known.define(node.spec("alias", format_if_blank=True), owner="test")
    await known.use("data", "one")
    with pytest.raises(AlreadyAttached, match="'data'"):
        await known.use("alias", "one")
    with pytest.raises(AlreadyAttached, match="'data'"):
        await node.manager.ensure_attached(node.spec("raw", block=True))
    assert (await known.get("alias")).users == {}
    await known.release("data", "one")
    await known.use("alias", "one")
    await known.release("alias", "one")
    node.assert_nothing_left()


async def test_a_raw_block_volume_on_a_file(node: Node) -> None:
    await node.manager.ensure_attached(node.spec(block=True))
    file = node.base / "device"
    status = await node.manager.publish_device("data", file)
    assert (await node.manager.publish_device("data", file)).binds == status.binds

    def write_and_read() -> bytes:
        assert stat.S_ISBLK(file.stat().st_mode)
        descriptor = os.open(file, os.O_RDWR | os.O_SYNC)
        try:
            os.pwrite(descriptor, b"x" * 4096, 8192)
        finally:
            os.close(descriptor)
        return node.disk.read_bytes()[8192 : 8192 + 4096]

    assert await in_thread(write_and_read) == b"x" * 4096
    await node.manager.ensure_unpublished("data", file)
    assert not file.exists()
    await node.manager.publish_device("data", file)
    report = await node.manager.ensure_gone("data")
    assert report is not None
    assert report.clean
    assert not file.exists()
    node.assert_nothing_left()


async def test_a_front_door_that_is_killed_leaves_its_volume_and_its_counts(
    node: Node, known: KnownVolumes
) -> None:
    """Nothing of it is in memory: a new one goes on."""
    await known.define(node.spec(format_if_blank=True), owner="test")
    path = await known.use("data", "one")
    await in_thread((path / "file").write_text, "here")
    worker = (await node.manager.get("data")).worker_pid
    another = KnownVolumes(node.manager)
    assert (await another.restore()).kept == ["data"]
    assert await another.use("data", "one") == path
    assert (await node.manager.get("data")).worker_pid == worker
    await another.release("data", "one")
    assert await in_thread((path / "file").read_text) == "here"
    await another.release("data", "one")
    node.assert_nothing_left()
    assert worker is not None
    assert not processes.is_alive(worker)
    assert (await another.restore()).cleared == []
