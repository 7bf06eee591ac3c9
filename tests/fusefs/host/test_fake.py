# SPDX-License-Identifier: Apache-2.0
"""The fake host: as coherent as the real one, and it fails when told to.

Where both can do it, the same scenario runs on both, so that the fake cannot drift away.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fusefs.errors import (
    DeviceBusy,
    InvalidSpec,
    LoopFailed,
    MountBusy,
    MountFailed,
    NotBlank,
    ProcessUser,
)
from fusefs.host import FakeHost, Host, LinuxHost, Signature
from tests.fusefs.host.conftest import MakeImage


@pytest.fixture(params=["fake", pytest.param("linux", marks=pytest.mark.root)])
def either(request: pytest.FixtureRequest) -> Iterator[Host]:
    if request.param == "fake":
        fake = FakeHost()
        yield fake
        assert fake.left_behind == []
    else:
        yield request.getfixturevalue("host")


def test_the_sentence_of_a_volume(either: Host, make_image: MakeImage, tmp_path: Path) -> None:
    image = make_image(32)
    if isinstance(either, FakeHost):
        either.content(image).size_bytes = 32 << 20
    mnt, target = str(tmp_path / "mnt"), str(tmp_path / "target")
    for one in (mnt, target):
        os.mkdir(one)
    device = either.loop_attach(image, block_size=4096)
    assert device in either.loop_list()
    assert (device.block_size, device.size_bytes, device.direct_io) == (4096, 32 << 20, True)
    assert either.probe(device.path).empty
    assert either.read_blank(device.path).blank
    either.assert_formattable(device.path)
    either.mkfs(device.path, "ext4", label="v")
    with pytest.raises(NotBlank, match="ext4 filesystem"):
        either.assert_formattable(device.path)
    found = either.probe(device.path)
    assert (found.fstype, found.label, found.is_filesystem) == ("ext4", "v", True)
    assert either.fsck(device.path, "ext4").ran
    with pytest.raises(MountFailed):
        either.mount(device.path, mnt, "xfs")
    either.mount(device.path, mnt, "ext4", options=["noatime"])
    either.bind(mnt, target, read_only=True)
    table = {entry.mountpoint: entry for entry in either.mounts()}
    assert (table[mnt].major, table[mnt].minor) == (7, device.number)
    assert (table[target].major, table[target].minor) == (7, device.number)
    assert not table[mnt].read_only
    assert table[target].read_only
    with pytest.raises(DeviceBusy) as caught:
        either.loop_detach(device)
    assert mnt in caught.value.mounts
    assert either.umount(target)
    assert not either.umount(target)
    assert either.umount(mnt)
    either.loop_detach(device)
    either.loop_detach(device)
    again = either.loop_attach(image, block_size=4096, read_only=True)
    assert not again.same_attachment(device)
    assert either.probe(again.path).uuid == found.uuid
    with pytest.raises(MountFailed):
        either.mount(again.path, mnt, "ext4")
    either.mount(again.path, mnt, "ext4", read_only=True)
    either.umount(mnt)
    either.loop_detach(again)


def test_mounts_in_mounts(either: Host, tmp_path: Path) -> None:
    outer = str(tmp_path / "outer")
    inner = f"{outer}/inner"
    beside = str(tmp_path / "beside")
    os.makedirs(inner)
    os.mkdir(beside)
    either.make_private_unbindable(outer)
    with pytest.raises(MountFailed):
        either.bind(inner, beside)
    either.bind(beside, inner)
    with pytest.raises(MountBusy) as caught:
        either.umount(outer)
    assert caught.value.mounts == (inner,)
    assert either.umount(outer, lazy=True)
    assert not either.umount(inner)


def test_what_is_refused_on_both(either: Host, make_image: MakeImage, tmp_path: Path) -> None:
    device = either.loop_attach(make_image(32), block_size=512)
    either.loop_follow(device.backing_file)
    assert device in either.loop_list()
    with pytest.raises(InvalidSpec):
        either.mkfs(device.path, "ntfs")
    either.mkfs(device.path, "ext4")
    with pytest.raises(InvalidSpec):
        either.mount(device.path, str(tmp_path), "ext4", options=["remount"])
    either.loop_detach(device)
    with pytest.raises(LoopFailed, match="not attached any more"):
        either.loop_set_capacity(device)


def test_the_fake_has_the_signatures_of_the_interface() -> None:
    for name in Host.__abstractmethods__:
        wanted = inspect.signature(getattr(Host, name))
        for implementation in (FakeHost, LinuxHost):
            assert inspect.signature(getattr(implementation, name)) == wanted, name


def test_actions_are_recorded_in_order() -> None:
    host = FakeHost()
    device = host.loop_attach("/file", block_size=512)
    host.mkfs(device.path, "xfs")
    host.mount(device.path, "/mnt", "xfs")
    host.umount("/mnt")
    host.loop_detach(device)
    assert host.steps == ["loop_attach", "mkfs", "mount", "umount", "loop_detach"]
    assert host.actions[2].arguments["fstype"] == "xfs"
    assert str(host.actions[3]) == "umount(path='/mnt', lazy=False, force=False)"
    assert host.left_behind == []


@pytest.mark.parametrize("after", [False, True])
def test_a_step_fails_once_before_or_after_it_took_effect(after: bool) -> None:
    host = FakeHost()
    host.fail_at("loop_attach", OSError("power cut"), after=after)
    with pytest.raises(OSError, match="power cut"):
        host.loop_attach("/file", block_size=512)
    assert len(host.loop_list()) == (1 if after else 0)
    host.loop_attach("/other", block_size=512)


def test_a_later_call_of_a_step_can_fail() -> None:
    host = FakeHost()
    host.fail_at("umount", OSError("second"), skip=1)
    host.umount("/a")
    with pytest.raises(OSError, match="second"):
        host.umount("/b")
    host.umount("/c")


def test_contents_and_users_are_the_tests_to_set() -> None:
    host = FakeHost()
    host.content("/lvm").signatures = (Signature("LVM2_member", "raid", 536),)
    host.content("/data").first_nonzero = 4096
    for file, match in (("/lvm", "LVM2_member"), ("/data", "byte 4096")):
        device = host.loop_attach(file, block_size=512)
        with pytest.raises(NotBlank, match=match):
            host.assert_formattable(device.path)
    device = host.loop_attach("/blank", block_size=512)
    host.mkfs(device.path, "ext4")
    host.mount(device.path, "/mnt", "ext4")
    host.users["/mnt"] = [ProcessUser(42, "postgres", "open file")]
    with pytest.raises(MountBusy, match=r"postgres \(pid 42, open file\)"):
        host.umount("/mnt")
    assert host.umount("/mnt", lazy=True)


def test_fuse_connections_come_and_go() -> None:
    host = FakeHost()
    fd = host.open_fuse()
    os.close(fd)
    number = host.fuse_mount(fd, "/dir", source="disk", subtype="pyscsi-init")
    assert host.fuse_connection_of("/dir") == number
    assert [one.number for one in host.fuse_connections()] == [number]
    assert host.fuse_abort(number)
    assert not host.fuse_abort(number)
    host.umount("/dir")
    assert host.fuse_connection_of("/dir") is None
