# SPDX-License-Identifier: Apache-2.0
"""Volumes on this host over a real tgt: real workers, FUSE, loop devices, filesystems, mounts."""

from __future__ import annotations

import json
import os
from pathlib import Path

import anyio
import pytest

from fusefs.errors import (
    AlreadyAttached,
    BlankNotFormatted,
    FilesystemMismatch,
    MountBusy,
    NotBlank,
)
from pyscsi_init.errors import AuthenticationFailed, ConnectError, LunNotFound, ReadOnlyDevice
from pyscsi_init.secret import Chap, Secret
from tests.fusefs.volume.node import IQN, SIZE, Node, in_thread, make_ext4

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.one_loop,
    pytest.mark.root,
    pytest.mark.tgt,
]

SECRET = "a secret that nobody may see"


def all_that_is_written(node: Node, pid: int) -> bytes:
    paths = [Path(f"/proc/{pid}/cmdline"), Path(f"/proc/{pid}/environ")]
    paths += [node.directory() / "log", *node.base.rglob("*.json")]
    assert node.directory() / "state.json" in paths
    return b"".join(path.read_bytes() for path in paths)


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
