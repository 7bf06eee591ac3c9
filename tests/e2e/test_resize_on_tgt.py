# SPDX-License-Identifier: Apache-2.0
"""`resize` on a target that never tells: from the backing file to the size that df shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fusefs.errors import NotAllowed, WorkerFailed
from fusefs.host.process import CAP_SYS_RESOURCE, has_capability
from pyscsi_init.errors import CapacityShrunk
from tests.e2e.conftest import IQN, Volumes
from tests.support.mounted_file import eventually
from tests.support.requirements import require
from tests.support.source import ROOT
from tests.support.tgt import TgtServer
from tests.support.uml import Guest

pytestmark = [pytest.mark.root, pytest.mark.tgt]

MEBI = 1 << 20
# The smallest that the makers of each file system let grow to twice its size.
SIZES = {"ext4": 64 * MEBI, "xfs": 320 * MEBI, "btrfs": 160 * MEBI}
CHECKS = {
    "ext4": ["e2fsck", "-f", "-n"],
    "xfs": ["xfs_repair", "-n"],
    "btrfs": ["btrfs", "check", "--readonly"],
}
PIECE = MEBI


def df_size(mountpoint: str) -> int:
    """The SIZE that df shows, in bytes."""
    done = subprocess.run(
        ["df", "-B1", "--output=size", mountpoint], capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[-1])


def loop_size(loop: str) -> int:
    return int(Path(f"/sys/block/{Path(loop).name}/size").read_text()) * 512


def filled(file: Path, size: int) -> None:
    """A file of ``size`` bytes, no two of its pieces the same."""
    with file.open("wb") as opened:
        for number in range(size // PIECE):
            opened.write(number.to_bytes(8, "little") * (PIECE // 8))
        opened.flush()
        os.fsync(opened.fileno())


def assert_filled(file: Path, size: int) -> None:
    with file.open("rb") as opened:
        for number in range(size // PIECE):
            assert opened.read(PIECE) == number.to_bytes(8, "little") * (PIECE // 8)


def fsck_is_clean(fstype: str, disk: Path) -> None:
    """The file system as the target has it."""
    checked = subprocess.run(
        [require(CHECKS[fstype][0]), *CHECKS[fstype][1:], str(disk)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr


def grow_offline(volumes: Volumes, url: str, name: str) -> None:
    """What the error message tells to do where mounted ext4 may not be grown."""
    volumes.umount(name)
    volume = volumes.attach(url, name=name)
    # 1: e2fsck has made lost+found, which a new filesystem of ours does not have.
    for command, fine in ((["e2fsck", "-f", "-p"], (0, 1)), (["resize2fs"], (0,))):
        program = require(command[0])
        done = subprocess.run(
            [program, *command[1:], volume.loop], capture_output=True, timeout=120, check=False
        )
        assert done.returncode in fine, done.stdout + done.stderr
    volumes.detach(name)


@pytest.mark.parametrize("channel", ["native", "pyfuse3"])
@pytest.mark.parametrize("fstype", SIZES)
def test_a_mounted_filesystem_grows(
    tgt: TgtServer, volumes: Volumes, tmp_path: Path, fstype: str, channel: str
) -> None:
    old, new = SIZES[fstype], 2 * SIZES[fstype]
    disk = tmp_path / "disk"
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, disk, size_bytes=old)
    url = tgt.url(tid, 1)
    volume = volumes.mount(url, name="v", fstype=fstype, format_if_blank=True, fuse_channel=channel)
    before = df_size(volume.mountpoint)
    filled(Path(volume.mountpoint) / "old", 16 * MEBI)
    untouched = volumes.resize("v")
    assert not untouched.grown
    assert (untouched.size_bytes, df_size(volume.mountpoint)) == (old, before)

    tgt.grow(tid, 1, new)
    if fstype == "ext4" and not has_capability(CAP_SYS_RESOURCE):
        with pytest.raises(NotAllowed, match="run e2fsck -f and resize2fs on its loop device"):
            volumes.resize("v")
        assert loop_size(volume.loop) == new
        grow_offline(volumes, url, "v")
        volume = volumes.mount(url, name="v", fuse_channel=channel)
    else:
        report = volumes.resize("v")
        assert report.grown
        assert (report.old_size_bytes, report.size_bytes) == (old, new)
        assert (report.old_filesystem_bytes, report.filesystem_bytes) == (
            before,
            df_size(volume.mountpoint),
        )
        assert not volumes.resize("v").grown
    assert loop_size(volume.loop) == new
    assert volumes.get("v").size_bytes == new
    after = df_size(volume.mountpoint)
    assert after > before + 0.9 * (new - old)
    # More than ever fitted before, up to what the file system keeps for itself.
    free = os.statvfs(volume.mountpoint)
    size = int(free.f_bavail * free.f_frsize * 0.85) // PIECE * PIECE
    assert size + 16 * MEBI > old * 1.2
    filled(Path(volume.mountpoint) / "new", size)
    volumes.umount("v")
    fsck_is_clean(fstype, disk)

    volume = volumes.mount(url, name="v")
    assert_filled(Path(volume.mountpoint) / "old", 16 * MEBI)
    assert_filled(Path(volume.mountpoint) / "new", size)
    volumes.umount("v")
    fsck_is_clean(fstype, disk)


def test_a_read_only_volume_leaves_the_filesystem_alone(
    tgt: TgtServer, volumes: Volumes, tmp_path: Path
) -> None:
    tid = tgt.new_target(IQN)
    disk = tmp_path / "disk"
    tgt.add_lun(tid, 1, disk, size_bytes=SIZES["xfs"])
    volumes.mount(tgt.url(tid, 1), name="v", fstype="xfs", format_if_blank=True)
    volumes.umount("v")
    before = disk.read_bytes()
    volume = volumes.mount(tgt.url(tid, 1), name="v", read_only=True)
    tgt.grow(tid, 1, 2 * SIZES["xfs"])
    report = volumes.resize("v")
    assert report.note
    assert report.size_bytes == loop_size(volume.loop) == 2 * SIZES["xfs"]
    assert report.filesystem_bytes == report.old_filesystem_bytes
    volumes.umount("v")
    assert disk.read_bytes()[: len(before)] == before


def test_what_shrank_is_refused(tgt: TgtServer, volumes: Volumes, tmp_path: Path) -> None:
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=64 * MEBI)
    volume = volumes.attach(tgt.url(tid, 1), name="v")
    tgt.grow(tid, 1, 32 * MEBI)
    with pytest.raises(CapacityShrunk, match=re.escape(volume.loop)):
        volumes.resize("v")
    assert loop_size(volume.loop) == 64 * MEBI
    assert volumes.get("v").state == "attached"
    tgt.grow(tid, 1, 64 * MEBI)
    assert not volumes.resize("v").grown
    tgt.grow(tid, 1, 96 * MEBI)
    assert volumes.resize("v").size_bytes == loop_size(volume.loop) == 96 * MEBI
    volumes.detach("v")


def test_the_target_was_away_while_it_grew(
    tgt: TgtServer, volumes: Volumes, tmp_path: Path
) -> None:
    tid = tgt.new_target(IQN)
    unit = tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=64 * MEBI)
    volume = volumes.attach(tgt.url(tid, 1), name="v")
    tgt.kill()
    eventually(lambda: volumes.get("v").state == "recovering")
    with pytest.raises(WorkerFailed, match="its target is away"):
        volumes.resize("v")
    os.truncate(unit.path, 96 * MEBI)
    tgt.start()
    eventually(lambda: loop_size(volume.loop) == 96 * MEBI)
    assert volumes.get("v").state == "attached"

    tgt.kill()
    eventually(lambda: volumes.get("v").state == "recovering")
    os.truncate(unit.path, 32 * MEBI)
    tgt.start()
    eventually(lambda: volumes.get("v").state == "failed")
    assert "shrank" in volumes.get("v").last_error
    with pytest.raises(WorkerFailed, match="shrank"):
        volumes.resize("v")
    volumes.detach("v", force=True)


def test_a_mounted_ext4_grows_where_it_is_allowed() -> None:
    """The same test in a guest that lacks no capability, on a kernel whose loop driver takes the
    size that was remembered, not the one that the file has (before Linux 6.16)."""
    here = f"{Path(__file__).relative_to(ROOT)}::{test_a_mounted_filesystem_grows.__name__}"
    with Guest(memory_mib=900) as guest:
        guest.modprobe("fuse", "loop", "ext4", "ipv6")
        assert (
            int(guest.run("grep CapEff /proc/self/status").split()[1], 16) >> CAP_SYS_RESOURCE & 1
        )
        guest.run(
            f"""
            mount --bind /mnt/dev /dev
            mkdir -p /dev/shm /mnt/tmp
            mount -t tmpfs tmpfs /dev/shm
            cd {ROOT}
            export PATH=/usr/sbin:/usr/bin:/sbin:/bin TMPDIR=/mnt/tmp PYTHONDONTWRITEBYTECODE=1
            {sys.executable} -m pytest -p no:cacheprovider --basetemp=/mnt/tmp/base --timeout=90 \\
                '{here}[ext4-native]' >/mnt/tmp/out 2>&1 || {{ tail -80 /mnt/tmp/out; exit 1; }}
            grep -q '1 passed' /mnt/tmp/out
            """,
            timeout=120,
        )
