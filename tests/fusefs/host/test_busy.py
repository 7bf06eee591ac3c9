# SPDX-License-Identifier: Apache-2.0
"""Who uses a mount or a device, told without touching it."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

import pytest

from fusefs.host import LinuxHost, busy
from fusefs.host.container import Bind
from tests.fusefs.host.conftest import MakeDevice

pytestmark = pytest.mark.root


def test_no_mount_has_no_users(host: LinuxHost, tmp_path: Path) -> None:
    assert busy.mount_users(str(tmp_path)) == []
    assert busy.mounts_below(str(tmp_path)) == []


def test_files_of_another_mount_are_not_counted(
    host: LinuxHost, make_device: MakeDevice, directory: str, tmp_path: Path
) -> None:
    device = make_device(16, "mkfs.ext4", "-q")
    host.mount(device.path, directory, "ext4")
    beside = tmp_path / "mnt-beside"
    beside.mkdir()
    with (beside / "file").open("w"):  # the same prefix of the path, another mount
        assert busy.mount_users(directory) == []
        with open(f"{directory}/file", "w"):
            (user,) = busy.mount_users(directory)
            assert (user.pid, user.how) == (os.getpid(), "open file")
    host.umount(directory)


def test_who_holds_a_device_open(make_device: MakeDevice) -> None:
    device = make_device(8)
    assert busy.device_users(device.path) == []
    fd = os.open(device.path, os.O_RDONLY)
    try:
        assert [user.pid for user in busy.device_users(device.path)] == [os.getpid()]
    finally:
        os.close(fd)


def test_a_mount_in_a_container_is_found_by_its_device(
    host: LinuxHost, make_device: MakeDevice, directory: str, tmp_path: Path
) -> None:
    device = make_device(16, "mkfs.ext4", "-q")
    host.mount(device.path, directory, "ext4")
    container = host.start_container(
        ["sh", "-c", "echo ready; exec sleep 1000"],
        rootfs=str(tmp_path / "root"),
        binds=[Bind(directory, "/data")],
    )
    try:
        assert container.process.stdout is not None
        assert container.process.stdout.readline() == b"ready\n"
        found = busy.device_mounts(7, device.number)
        assert directory in found
        assert any(one.startswith("/data (namespace of pid ") for one in found)
    finally:
        container.stop()
        host.umount(directory)


def test_a_filesystem_whose_server_is_silent_can_be_asked_about(
    host: LinuxHost, directory: str
) -> None:
    fd = host.open_fuse()
    number = host.fuse_mount(fd, directory, source="silent")
    stuck = threading.Thread(target=lambda: _stat(directory), daemon=True)
    stuck.start()
    try:
        assert busy.mount_users(directory) == []
        assert busy.mounts_below(directory) == []
    finally:
        host.fuse_abort(number)
        stuck.join(10)
        os.close(fd)
        host.umount(directory)
    assert not stuck.is_alive()


def _stat(path: str) -> None:
    with contextlib.suppress(OSError):
        os.stat(path)
