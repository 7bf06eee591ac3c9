# SPDX-License-Identifier: Apache-2.0
"""Making, checking, growing and trimming, with the real programs."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from fusefs.errors import (
    CallFailed,
    CommandFailed,
    FormatFailed,
    HasFilesystemErrors,
    InvalidSpec,
    NotAllowed,
)
from fusefs.host import LinuxHost
from fusefs.host.process import CAP_SYS_RESOURCE, has_capability
from fusefs.host.run import run
from tests.fusefs.host.conftest import MIB, MakeDevice

pytestmark = pytest.mark.root

SIZES = [("ext4", 32), ("xfs", 300), ("btrfs", 160)]


@pytest.mark.parametrize(("fstype", "mib"), SIZES)
@pytest.mark.parametrize("block_size", [512, 4096])
def test_made_checked_mounted_written_and_read_again(
    host: LinuxHost,
    make_device: MakeDevice,
    directory: str,
    fstype: str,
    mib: int,
    block_size: int,
) -> None:
    device = make_device(mib, block_size=block_size)
    host.assert_formattable(device.path)
    host.mkfs(device.path, fstype, label="data")
    found = host.probe(device.path)
    assert (found.fstype, found.label, found.is_filesystem) == (fstype, "data", True)
    for _ in range(2):
        host.fsck(device.path, fstype)
        host.mount(device.path, directory, fstype, options=["noatime"])
        try:
            entry = next(one for one in host.mounts() if one.mountpoint == directory)
            assert entry.fstype == fstype
            assert "noatime" in entry.options
            assert not entry.read_only
            file = Path(directory, "file")
            if file.exists():
                assert file.read_text() == "kept"
            else:
                file.write_text("kept")
            host.sync(directory)
        finally:
            assert host.umount(directory)
    result = host.fsck(device.path, fstype, full=True)
    assert result.ran
    assert not result.corrected


def test_mkfs_does_not_discard_the_device(
    host: LinuxHost, make_device: MakeDevice, directory: str
) -> None:
    device = make_device(64)
    with open(device.backing_file, "r+b") as file:
        file.seek(40 * MIB)
        file.write(os.urandom(MIB))
    blocks = os.stat(device.backing_file).st_blocks
    assert blocks * 512 >= MIB
    host.mkfs(device.path, "ext4", options=["-O", "^has_journal"])
    with open(device.backing_file, "rb") as file:
        file.seek(40 * MIB)
        assert file.read(4096) != bytes(4096)


@pytest.mark.parametrize("fstype", ["ext4", "xfs", "btrfs"])
def test_mkfs_reads_no_other_device(host: LinuxHost, make_device: MakeDevice, fstype: str) -> None:
    """One of them may be a volume whose target is away, and it would wait for that."""
    other, device = make_device(64), make_device(320)
    host.mkfs(other.path, "ext4")
    statistics = Path(f"/sys/block/{Path(other.path).name}/stat")
    before = statistics.read_text().split()[:4]
    host.mkfs(device.path, fstype, uuid=str(uuid.uuid4()))
    assert statistics.read_text().split()[:4] == before


def test_a_device_that_is_too_small(host: LinuxHost, make_device: MakeDevice) -> None:
    device = make_device(16)
    with pytest.raises(FormatFailed) as caught:
        host.mkfs(device.path, "xfs")
    assert caught.value.fstype == "xfs"
    assert caught.value.exit_status
    assert caught.value.output


@pytest.mark.parametrize("fstype", ["xfs", "btrfs"])
def test_mkfs_itself_refuses_a_signature_it_sees(
    host: LinuxHost, make_device: MakeDevice, fstype: str
) -> None:
    device = make_device(300, "mkfs.ext4", "-q")
    with pytest.raises(FormatFailed, match=r"(?i)force|overwrite"):
        host.mkfs(device.path, fstype)
    assert host.probe(device.path).fstype == "ext4"


def test_what_cannot_be_made_is_refused(host: LinuxHost, make_device: MakeDevice) -> None:
    device = make_device(16)
    with pytest.raises(InvalidSpec, match="one of ext4, xfs, btrfs"):
        host.mkfs(device.path, "ntfs")
    with pytest.raises(InvalidSpec, match="12 bytes"):
        host.mkfs(device.path, "xfs", label="thirteen chars")
    assert host.probe(device.path).empty


def test_a_dirty_journal_is_replayed_by_the_check(
    host: LinuxHost, make_device: MakeDevice, directory: str
) -> None:
    device = make_device(64, "mkfs.ext4", "-q")
    snapshot = _crash(host, device.path, device.backing_file, directory, "ext4")
    copy = host.loop_attach(snapshot, block_size=512)
    try:
        result = host.fsck(copy.path, "ext4")
        assert result.ran
        assert "recovering journal" in result.output
    finally:
        host.loop_detach(copy)


def test_a_dirty_xfs_log_gives_no_verdict(
    host: LinuxHost, make_device: MakeDevice, directory: str
) -> None:
    device = make_device(300, "mkfs.xfs", "-q")
    snapshot = _crash(host, device.path, device.backing_file, directory, "xfs")
    copy = host.loop_attach(snapshot, block_size=512)
    try:
        result = host.fsck(copy.path, "xfs", full=True)
        assert not result.ran
        assert "log is dirty" in result.note
        assert not host.fsck(copy.path, "xfs").ran
    finally:
        host.loop_detach(copy)


def test_a_damaged_xfs_is_found_by_a_full_check(host: LinuxHost, make_device: MakeDevice) -> None:
    device = make_device(300, "mkfs.xfs", "-q")
    assert host.fsck(device.path, "xfs", full=True).ran
    with open(device.backing_file, "r+b") as file:
        file.seek(300 * MIB // 4)  # the superblock of the second allocation group
        file.write(os.urandom(512))
    with pytest.raises(HasFilesystemErrors) as caught:
        host.fsck(device.path, "xfs", full=True)
    assert "AG 1 super" in caught.value.output


def test_errors_that_a_person_must_judge(host: LinuxHost, make_device: MakeDevice) -> None:
    device = make_device(64, "mkfs.ext4", "-q", "-b", "4096", "-O", "^metadata_csum")
    with open(device.backing_file, "r+b") as file:
        # The root inode becomes a regular file: what `e2fsck -p` never repairs alone.
        file.seek(1024 + 0x3A)
        file.write((2).to_bytes(2, "little"))  # s_state: errors were seen
    debugfs = ["debugfs", "-w", "-R", "set_inode_field <2> mode 0100644", device.backing_file]
    run(debugfs, timeout_s=30)
    with pytest.raises(HasFilesystemErrors) as caught:
        host.fsck(device.path, "ext4", full=True)
    assert caught.value.exit_status & 4
    assert "e2fsck -f" in caught.value.remedy


def test_a_check_that_cannot_be_done_is_the_hosts_error(
    host: LinuxHost, make_device: MakeDevice
) -> None:
    device = make_device(16)
    with pytest.raises(CommandFailed, match="checking"):
        host.fsck(device.path, "ext4")


def test_a_damaged_btrfs_is_found_by_a_full_check(host: LinuxHost, make_device: MakeDevice) -> None:
    device = make_device(160, "mkfs.btrfs", "-q", "-m", "single")
    with open(device.backing_file, "r+b") as file:
        file.seek(MIB)
        length = 100 * MIB
        file.write(os.urandom(length))
    with pytest.raises(HasFilesystemErrors):
        host.fsck(device.path, "btrfs", full=True)


@pytest.mark.parametrize(("fstype", "mib"), SIZES)
def test_it_grows_while_it_is_mounted(
    host: LinuxHost, make_device: MakeDevice, directory: str, fstype: str, mib: int
) -> None:
    device = make_device(mib)
    host.mkfs(device.path, fstype)
    host.mount(device.path, directory, fstype)
    try:
        before = os.statvfs(directory)
        os.truncate(device.backing_file, 2 * mib * MIB)
        grown = host.loop_set_capacity(device)
        assert grown.size_bytes == 2 * mib * MIB
        if fstype == "ext4" and not has_capability(CAP_SYS_RESOURCE):
            with pytest.raises(NotAllowed, match="CAP_SYS_RESOURCE is missing; grant it"):
                host.grow_filesystem(device.path, directory, fstype)
            return
        host.grow_filesystem(device.path, directory, fstype)
        after = os.statvfs(directory)
        assert after.f_blocks * after.f_frsize > 1.5 * before.f_blocks * before.f_frsize
    finally:
        host.umount(directory)


def test_trim_gives_freed_blocks_back(
    host: LinuxHost, make_device: MakeDevice, directory: str
) -> None:
    device = make_device(64, "mkfs.ext4", "-q")
    host.mount(device.path, directory, "ext4")
    try:
        file = Path(directory, "big")
        file.write_bytes(os.urandom(16 * MIB))
        host.sync(directory)
        full = os.stat(device.backing_file).st_blocks
        file.unlink()
        host.sync(directory)
        trimmed = host.trim(directory)
        assert trimmed is not None
        assert trimmed >= 16 * MIB
        assert os.stat(device.backing_file).st_blocks < full
    finally:
        host.umount(directory)


def test_trim_where_there_is_no_such_thing(host: LinuxHost, tmp_path: Path) -> None:
    with pytest.raises(CallFailed, match="ENOENT"):
        host.trim(str(tmp_path / "none"))
    assert host.trim("/proc") is None


def _crash(host: LinuxHost, device: str, image: str, directory: str, fstype: str) -> str:
    """A copy of the image as it was in the middle of work: what a power cut leaves."""
    host.mount(device, directory, fstype)
    try:
        for number in range(50):
            Path(directory, f"file{number}").write_text("x" * number)
        # fsync commits the log, and the checkpoint comes much later: the copy has a log to replay.
        fd = os.open(f"{directory}/file1", os.O_WRONLY)
        os.fsync(fd)
        os.close(fd)
        copy = image + ".crashed"
        Path(copy).write_bytes(Path(image).read_bytes())
        return copy
    finally:
        host.umount(directory)
