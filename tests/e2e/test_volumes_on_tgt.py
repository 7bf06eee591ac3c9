# SPDX-License-Identifier: Apache-2.0
"""Volumes end to end on a real tgt: file, loop device, filesystem, mount, and the way back."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from fusefs.errors import (
    AlreadyAttached,
    BlankNotFormatted,
    FilesystemMismatch,
    MountBusy,
    NameInUse,
    NotBlank,
    VolumeError,
)
from pyscsi_init import Chap, Secret
from pyscsi_init.errors import IscsiError, ReadOnlyDevice
from tests.e2e.conftest import IQN, Volumes
from tests.support.filesystems import FILESYSTEMS, fsck_is_clean
from tests.support.fio import fio_verify
from tests.support.requirements import require_module
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt]

MEBI = 1 << 20


@pytest.mark.parametrize("channel", ["native", "pyfuse3"])
@pytest.mark.parametrize("block_size", [512, 4096])
def test_fio_verifies_the_loop_device(
    tgt: TgtServer, volumes: Volumes, tmp_path: Path, block_size: int, channel: str
) -> None:
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=256 * MEBI, block_size=block_size)
    volume = volumes.attach(tgt.url(tid, 1), name="v", fuse_channel=channel)
    assert (volume.state, volume.size_bytes, volume.block_size) == (
        "attached",
        256 * MEBI,
        block_size,
    )
    assert Path(volume.file).stat().st_size == 256 * MEBI
    name = Path(volume.loop).name
    assert Path(f"/sys/block/{name}/queue/logical_block_size").read_text().strip() == str(
        block_size
    )
    assert Path(f"/sys/block/{name}/loop/dio").read_text().strip() == "1"
    for bs, size, depth in (("4k", 16, 32), ("64k", 32, 8), ("1m", 64, 4)):
        fio_verify(volume.loop, size=size * MEBI, bs=bs, iodepth=depth, loops=2)
    after = volumes.get("v")
    assert after.io["errors"] == 0
    assert after.io["bytes_written"] >= 112 * MEBI
    volumes.detach("v")
    tgt.wait_sessions(0)
    assert volumes.status() == []


@pytest.mark.parametrize("fstype", FILESYSTEMS)
def test_fio_verifies_files_and_fsck_is_clean(
    tgt: TgtServer, volumes: Volumes, tmp_path: Path, disk_url: str, fstype: str
) -> None:
    volume = volumes.mount(disk_url, name="v", fstype=fstype, format_if_blank=True)
    assert (volume.state, volume.fstype) == ("mounted", fstype)
    file = Path(volume.mountpoint) / "data"
    for bs, direct in (("4k", True), ("16k", False), ("256k", True)):
        file.unlink(missing_ok=True)
        with file.open("wb") as made:
            made.truncate(24 * MEBI)
        fio_verify(file, size=24 * MEBI, bs=bs, direct=direct, end_fsync=True)
    volumes.umount("v")
    tgt.wait_sessions(0)
    fsck_is_clean(fstype, tmp_path / "disk")
    again = volumes.mount(disk_url, name="v")
    assert again.fstype == fstype
    assert (Path(again.mountpoint) / "data").stat().st_size == 24 * MEBI
    volumes.umount(again.mountpoint)


@pytest.mark.parametrize("where", ["loop", "xfs"])
def test_target_killed_in_the_middle_of_fio(
    tgt: TgtServer, volumes: Volumes, tmp_path: Path, disk_url: str, where: str
) -> None:
    if where == "loop":
        path = volumes.attach(disk_url, name="v").loop
    else:
        mounted = volumes.mount(disk_url, name="v", fstype=where, format_if_blank=True)
        file = Path(mounted.mountpoint) / "data"
        with file.open("wb") as made:
            made.truncate(64 * MEBI)
        path = str(file)
    failure: list[BaseException] = []

    def run() -> None:
        try:
            fio_verify(path, size=64 * MEBI, bs="4k", iodepth=16, loops=3)
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    for recoveries in (1, 2):
        time.sleep(0.5)  # the workload has to be under way: real time of a real kernel
        assert thread.is_alive(), failure
        tgt.kill()
        time.sleep(0.3)
        tgt.restart()
        deadline = time.monotonic() + 20
        while volumes.get("v").recoveries < recoveries:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    thread.join(100)
    assert not thread.is_alive()
    assert not failure, failure[0]
    after = volumes.get("v")
    assert after.recoveries == 2
    assert after.io["errors"] == 0
    volumes.umount("v")
    if where != "loop":
        fsck_is_clean(where, tmp_path / "disk")


@pytest.mark.parametrize("mutual", [False, True])
def test_chap(tgt: TgtServer, volumes: Volumes, disk_url: str, mutual: bool) -> None:
    tgt.require_chap(1, "user", "initiator-secret-1")
    tgt.require_chap(1, "target", "target-secret-234", outgoing=True)
    chap = Chap(
        user="user",
        secret=Secret("initiator-secret-1"),
        mutual_secret=Secret("target-secret-234") if mutual else None,
    )
    with pytest.raises(IscsiError, match="0201"):
        volumes.attach(disk_url)
    volume = volumes.attach(disk_url, chap, name="v")
    for secret in ("initiator-secret-1", "target-secret-234"):
        assert volume.worker_pid is not None
        directory = volumes.run_dir
        for file in (*directory.rglob("state.json"), *directory.rglob("log")):
            assert secret not in file.read_text()
        for item in ("cmdline", "environ"):
            assert secret.encode() not in Path(f"/proc/{volume.worker_pid}/{item}").read_bytes()
    fio_verify(volume.loop, size=4 * MEBI)
    volumes.detach("v")


def test_digests_and_ipv6(tgt: TgtServer, volumes: Volumes, disk_url: str) -> None:
    tgt.allow_digests(1)
    volume = volumes.attach(
        f"iscsi://{tgt.portal6}/{IQN}/1",
        name="v",
        settings={"header_digest": "CRC32C", "data_digest": "CRC32C"},
    )
    assert volume.session["portal"].startswith("[::1]")
    assert volume.session["keys"]["HeaderDigest"] == "CRC32C"
    assert volume.session["keys"]["DataDigest"] == "CRC32C"
    fio_verify(volume.loop, size=16 * MEBI, bs="16k")
    volumes.detach("v")


def test_read_only_all_the_way_down(tgt: TgtServer, volumes: Volumes, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(64 * MEBI)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True, timeout=60)
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, disk, readonly=True)
    with pytest.raises(ReadOnlyDevice, match="read-only"):
        volumes.mount(tgt.url(tid, 1), name="v")
    volume = volumes.mount(tgt.url(tid, 1), name="v", read_only=True)
    assert volume.read_only
    with pytest.raises(OSError, match="Read-only"):
        (Path(volume.mountpoint) / "x").write_text("no")
    with pytest.raises(OSError, match=r"Read-only|not permitted"):
        os.close(os.open(volume.file, os.O_RDWR))
    assert Path(f"/sys/block/{Path(volume.loop).name}/ro").read_text().strip() == "1"
    volumes.umount("v")


def gpt(disk: Path) -> None:
    subprocess.run(
        ["sfdisk", "-q", str(disk)], input="label: gpt\n,\n", text=True, check=True, timeout=60
    )


def lvm(disk: Path) -> None:
    subprocess.run(
        ["pvcreate", "-q", "--devicesfile", "", "-ff", "-y", str(disk)],
        capture_output=True,
        check=False,
        timeout=60,
    )
    if b"LABELONE" not in disk.read_bytes()[:2048]:
        # pvcreate wants a block device; what it writes is this label in the second sector.
        with disk.open("r+b") as file:
            file.seek(512)
            file.write(b"LABELONE" + (1).to_bytes(8, "little") + bytes(4))
            file.write((32).to_bytes(4, "little") + b"LVM2 001" + b"a" * 32)


def backup_superblock(disk: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True, timeout=60)
    with disk.open("r+b") as file:
        file.write(bytes(8 * MEBI))


def random_bytes(disk: Path) -> None:
    with disk.open("r+b") as file:
        file.seek(1 * MEBI)
        file.write(os.urandom(4096))


@pytest.mark.parametrize("content", [gpt, lvm, backup_superblock, random_bytes])
def test_what_is_not_blank_is_never_formatted(
    tgt: TgtServer, volumes: Volumes, tmp_path: Path, content: object
) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(400 * MEBI)
    assert callable(content)
    content(disk)
    before = disk.read_bytes()
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, disk)
    for fstype in FILESYSTEMS:
        with pytest.raises((NotBlank, FilesystemMismatch)) as caught:
            volumes.mount(tgt.url(tid, 1), name="v", fstype=fstype, format_if_blank=True)
        assert str(caught.value)
    assert disk.read_bytes() == before
    assert volumes.status() == []
    tgt.wait_sessions(0)


def test_bad_input(tgt: TgtServer, volumes: Volumes, disk_url: str, tmp_path: Path) -> None:
    with pytest.raises(BlankNotFormatted, match="blank"):
        volumes.mount(disk_url, name="v")
    volumes.mount(disk_url, name="v", fstype="ext4", format_if_blank=True)
    with pytest.raises(NameInUse):
        volumes.attach(disk_url, name="v")
    with pytest.raises(AlreadyAttached, match="v"):
        volumes.attach(disk_url, name="other")
    with pytest.raises(AlreadyAttached, match="v"):
        volumes.attach(f"iscsi://{tgt.portal6}/{IQN}/1", name="other")
    mountpoint = Path(volumes.get("v").mountpoint)
    with (mountpoint / "open").open("w"), pytest.raises(MountBusy) as busy:
        volumes.umount("v")
    assert os.getpid() in busy.value.pids
    assert volumes.get("v").state == "mounted"
    volumes.umount("v")
    with pytest.raises(FilesystemMismatch, match="ext4"):
        volumes.mount(disk_url, name="v", fstype="xfs")
    assert volumes.status() == []


def test_a_full_filesystem_says_so_and_goes_on(volumes: Volumes, disk_url: str) -> None:
    volume = volumes.mount(disk_url, name="v", fstype="ext4", format_if_blank=True)
    file = Path(volume.mountpoint) / "big"

    def fill() -> None:
        with file.open("wb", buffering=0) as big:
            while True:
                big.write(bytes(8 * MEBI))

    with pytest.raises(OSError, match="No space"):
        fill()
    file.unlink()
    (Path(volume.mountpoint) / "small").write_text("fits")
    volumes.umount("v")


def test_force_ends_a_volume_whose_target_is_gone(
    tgt: TgtServer, volumes: Volumes, disk_url: str
) -> None:
    volume = volumes.mount(disk_url, name="v", fstype="ext4", format_if_blank=True)
    (Path(volume.mountpoint) / "file").write_text("written, not synced")
    tgt.kill()
    started = time.monotonic()
    report = volumes.umount("v", force=True)
    assert time.monotonic() - started < 15
    assert str(report)
    assert volumes.status() == []
    tgt.restart()
    again = volumes.mount(disk_url, name="v")
    assert again.state == "mounted"
    volumes.umount("v")


def test_a_dead_worker_is_told_and_cleaned_up(volumes: Volumes, disk_url: str) -> None:
    """Where nobody follows it; tests/e2e/test_kills_on_tgt.py has the rest."""
    require_module("pyfuse3")
    volume = volumes.mount(
        disk_url, name="v", fstype="ext4", format_if_blank=True, fuse_channel="pyfuse3"
    )
    assert volume.worker_pid is not None
    os.kill(volume.worker_pid, 9)
    deadline = time.monotonic() + 10
    while volumes.get("v").state != "failed":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert volumes.get("v").last_error
    try:
        volumes.umount("v")
    except VolumeError:
        volumes.umount("v", force=True)
    assert volumes.status() == []
    again = volumes.mount(disk_url, name="v")
    volumes.umount(again.name)


def test_discard_reaches_a_thin_target(tgt: TgtServer, volumes: Volumes, tmp_path: Path) -> None:
    disk = tmp_path / "thin"
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, disk, size_bytes=512 * MEBI, thin=True)
    volume = volumes.mount(tgt.url(tid, 1), name="v", fstype="ext4", format_if_blank=True)
    file = Path(volume.mountpoint) / "data"
    file.write_bytes(os.urandom(64 * MEBI))
    os.sync()
    full = disk.stat().st_blocks
    file.unlink()
    os.sync()
    subprocess.run(["fstrim", volume.mountpoint], check=True, timeout=60)
    assert disk.stat().st_blocks < full - 50 * MEBI // 512
    volumes.umount("v")
    fsck_is_clean("ext4", disk)
