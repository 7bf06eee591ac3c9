# SPDX-License-Identifier: Apache-2.0
"""FUSE mounts with no server behind them: all that the host's side needs to show."""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from pathlib import Path

import pytest

from fusefs.errors import MountFailed, Timeout
from fusefs.host import LinuxHost, mountinfo
from fusefs.host.fuse_mount import control_directory

pytestmark = pytest.mark.root

FUSE_INIT = 26


def test_the_descriptor_gets_init_and_the_mount_is_ours(host: LinuxHost, directory: str) -> None:
    fd = host.open_fuse()
    assert fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    with pytest.raises(OSError, match="Operation not permitted"):
        os.read(fd, 1 << 16)  # not mounted yet
    number = host.fuse_mount(
        fd, directory, source="iqn.example:disk", subtype="pyscsi-init", options=["allow_other"]
    )
    try:
        request = os.read(fd, 1 << 20)
        length, opcode = struct.unpack_from("<II", request)
        assert (length, opcode) == (len(request), FUSE_INIT)
        entry = mountinfo.find(directory)
        assert entry is not None
        assert entry.fstype == "fuse.pyscsi-init"
        assert entry.source == "iqn.example:disk"
        assert {"nosuid", "nodev"} <= set(entry.options)
        assert "allow_other" in entry.super_options
        assert host.fuse_connection_of(directory) == number == entry.minor
        assert number in {one.number for one in host.fuse_connections()}
    finally:
        os.close(fd)
        host.umount(directory, lazy=True)
    assert host.fuse_connection_of(directory) is None


def test_one_file_can_be_the_root(host: LinuxHost, tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.touch()
    fd = host.open_fuse()
    try:
        host.fuse_mount(fd, str(target), source="file", rootmode=0o100000)
        assert host.fuse_connection_of(str(target)) is not None
    finally:
        os.close(fd)
        host.umount(str(target), lazy=True)


def test_abort_frees_who_waits(host: LinuxHost, directory: str) -> None:
    fd = host.open_fuse()
    number = host.fuse_mount(fd, directory, source="silent")
    faults: list[OSError] = []

    def ask() -> None:
        try:
            os.stat(f"{directory}/file")
        except OSError as fault:
            faults.append(fault)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        waiting = {one.number: one.waiting for one in host.fuse_connections()}
        assert waiting[number] >= 1  # INIT, and perhaps the lookup already
        assert host.fuse_abort(number)
        thread.join(30)
        assert not thread.is_alive()
        assert len(faults) == 1
    finally:
        os.close(fd)
        host.umount(directory)
    assert not host.fuse_abort(number)


def test_attaching_a_file_whose_server_is_silent_ends_in_time(
    host: LinuxHost, directory: str
) -> None:
    fd = host.open_fuse()
    number = host.fuse_mount(fd, directory, source="silent")
    before = threading.active_count()
    try:
        with pytest.raises(Timeout, match="abort the FUSE connection"):
            host.loop_attach(f"{directory}/disk", block_size=512, timeout_s=0.1)
    finally:
        host.fuse_abort(number)
        for thread in threading.enumerate():
            if thread.name.startswith("host: attaching"):
                thread.join(30)
        os.close(fd)
        host.umount(directory)
    assert threading.active_count() <= before


def test_what_is_no_fuse_descriptor_is_refused(host: LinuxHost, directory: str) -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    try:
        with pytest.raises(MountFailed, match="EINVAL"):
            host.fuse_mount(fd, directory, source="x")
    finally:
        os.close(fd)
    assert host.fuse_connection_of(directory) is None


def test_the_control_filesystem_leaves_no_mount(host: LinuxHost) -> None:
    before = host.mounts()
    with control_directory() as fd:
        assert os.listdir(fd) is not None
        assert host.mounts() == before
    assert host.mounts() == before
