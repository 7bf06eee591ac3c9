# SPDX-License-Identifier: Apache-2.0
"""The mark of a file system that is being made, on real devices and with the real mkfs."""

from __future__ import annotations

import errno
import subprocess
import uuid
from pathlib import Path

import pytest

from fusefs.errors import CallFailed, NotBlank
from fusefs.host import FormatMark, LinuxHost, LoopDevice
from fusefs.host.blank import HEAD_BYTES, SAMPLE_BYTES, DirectReader, mark_places, positions
from fusefs.host.format_mark import decode, encode, read
from tests.fusefs.host.conftest import MIB, MakeDevice

SIZES = {"ext4": 160, "xfs": 320, "btrfs": 128}
HEADS = {"ext4": 16 << 10, "xfs": 128 << 10, "btrfs": 128 << 10}
"""With the first superblock; that of ext4 ends before the inode bitmap."""


def new(fstype: str) -> FormatMark:
    return FormatMark(str(uuid.uuid4()), fstype, "node-1")


def put(device: LoopDevice, offset: int, data: bytes) -> None:
    """As somebody else would, on another node."""
    with open(device.path, "r+b", buffering=0) as file:
        file.seek(offset)
        file.write(data.ljust(512, b"\0"))


def test_a_block_of_a_mark_is_read_back_and_nothing_else_is() -> None:
    mark = new("xfs")
    block = encode(mark)
    assert len(block) == 512
    assert decode(block) == mark
    assert decode(bytes(512)) is None
    for at in range(len(block.rstrip(b"\0"))):
        assert decode(block[:at] + bytes((block[at] ^ 1,)) + block[at + 1 :]) is None
    long = FormatMark(mark.uuid, "btrfs", "n" * 300)
    assert decode(encode(long)) == FormatMark(mark.uuid, "btrfs", "n" * 64)


@pytest.mark.parametrize("size", [16 * MIB, 100 * MIB + 512, 1 << 30, 3 << 40])
def test_its_places_are_read_by_who_looks_whether_a_device_is_blank(size: int) -> None:
    places = mark_places(size)
    assert len(places) == 10
    read = list(positions(size))
    for place in places:
        assert any(at <= place and place + SAMPLE_BYTES <= at + length for at, length in read)


@pytest.mark.root
@pytest.mark.parametrize("fstype", list(SIZES))
def test_mkfs_leaves_most_of_it_and_it_can_be_taken_away(
    host: LinuxHost, make_device: MakeDevice, fstype: str
) -> None:
    device = make_device(SIZES[fstype])
    mark = new(fstype)
    host.write_format_mark(device.path, mark)
    with pytest.raises(NotBlank):
        host.assert_formattable(device.path)
    found = host.probe(device.path)
    assert (found.mark, found.unfinished, found.empty) == (mark, True, True)

    host.mkfs(device.path, fstype, uuid=mark.uuid)
    found = host.probe(device.path)
    assert found.fstype == fstype
    # A btrfs gets none from us: to be given one, mkfs reads all devices of the host.
    assert (found.uuid == mark.uuid) == (fstype != "btrfs")
    assert (found.mark, found.unfinished, found.is_filesystem) == (mark, False, True)
    host.remove_format_mark(device.path, new(fstype))  # another one: nothing happens
    assert host.probe(device.path).mark == mark
    host.remove_format_mark(device.path, mark)
    found = host.probe(device.path)
    assert (found.mark, found.is_filesystem) == (None, True)
    host.fsck(device.path, fstype, full=True)


@pytest.mark.root
@pytest.mark.parametrize("block_size", [512, 4096])
@pytest.mark.parametrize("fstype", list(SIZES))
def test_what_is_left_of_mkfs_is_wiped(
    host: LinuxHost, make_device: MakeDevice, fstype: str, block_size: int
) -> None:
    """A file system whose head was never written: its backup superblocks and the rest are there."""
    device = make_device(SIZES[fstype], block_size=block_size)
    mark = new(fstype)
    host.write_format_mark(device.path, mark)
    host.mkfs(device.path, fstype, uuid=mark.uuid)
    with open(device.path, "r+b", buffering=0) as file:
        file.write(bytes(HEADS[fstype]))
    found = host.probe(device.path)
    assert found.unfinished, found
    host.wipe_unfinished(device.path, mark)
    found = host.probe(device.path)
    assert (found.mark, found.empty, found.unfinished) == (mark, True, True)
    host.remove_format_mark(device.path, mark)
    host.assert_formattable(device.path)


@pytest.mark.root
def test_xfs_that_mkfs_has_not_finished_is_no_file_system(
    host: LinuxHost, make_device: MakeDevice
) -> None:
    device = make_device(320)
    mark = new("xfs")
    host.mkfs(device.path, "xfs", uuid=mark.uuid)
    with open(device.path, "r+b", buffering=0) as file:
        head = bytearray(file.read(512))
    head[126] = 1  # sb_inprogress
    put(device, 0, bytes(head))
    found = host.probe(device.path)
    assert not found.is_filesystem
    assert not found.unfinished
    assert "mkfs has not finished" in found.found
    host.write_format_mark(device.path, mark)
    assert host.probe(device.path).unfinished
    host.write_format_mark(device.path, new("xfs"))  # the superblock is of another one
    assert not host.probe(device.path).unfinished


@pytest.mark.root
@pytest.mark.parametrize(
    "what", ["sector 0", "a partition table", "an LVM label", "ext4", "ext4 without its head"]
)
def test_a_device_that_somebody_else_has_used_since_is_left_alone(
    host: LinuxHost, make_device: MakeDevice, what: str
) -> None:
    device = make_device(64)
    mark = new("ext4")
    host.write_format_mark(device.path, mark)
    if what == "sector 0":
        put(device, 0, b"some database's header")
    elif what == "a partition table":
        subprocess.run(
            ["sfdisk", "-q", "--no-reread", device.path], input=b"label: gpt\n", check=True
        )
    elif what == "an LVM label":
        put(device, 512, b"LABELONE" + bytes(16) + b"LVM2 001" + b"x" * 32)
    else:
        subprocess.run(["mkfs.ext4", "-q", "-F", "-E", "nodiscard", device.path], check=True)
        if what != "ext4":
            with open(device.path, "r+b", buffering=0) as file:
                file.write(bytes(64 << 10))
    found = host.probe(device.path)
    assert found.mark == mark
    assert not found.unfinished, found


@pytest.mark.root
def test_a_device_that_was_overwritten_since_is_left_alone(
    host: LinuxHost, make_device: MakeDevice
) -> None:
    """With data that nobody knows, but which begins with zeros."""
    device = make_device(160)
    mark = new("ext4")
    host.write_format_mark(device.path, mark)
    places = mark_places(device.size_bytes)
    put(device, HEAD_BYTES - 512, b"data")
    for place in places[:5]:
        put(device, place, b"data")
    assert host.probe(device.path).unfinished  # as much as mkfs could have done
    put(device, places[5], b"data")
    assert not host.probe(device.path).unfinished
    with pytest.raises(NotBlank, match="another mark"):
        host.wipe_unfinished(device.path, new("ext4"))


def lose_its_head(device: LoopDevice) -> None:
    with open(device.path, "r+b", buffering=0) as file:
        file.write(bytes(HEADS["ext4"]))


@pytest.mark.root
@pytest.mark.parametrize("block_size", [512, 4096])
@pytest.mark.parametrize("how", ["the kernel", "the kernel, emptied", "debugfs"])
def test_ext4_that_was_used_is_not_the_work_of_mkfs(
    host: LinuxHost, make_device: MakeDevice, tmp_path: Path, how: str, block_size: int
) -> None:
    """mkfs had ended, somebody else took it with the mark, and then its head was lost. One small
    file is enough."""
    device = make_device(SIZES["ext4"], block_size=block_size)
    mark = new("ext4")
    host.write_format_mark(device.path, mark)
    host.mkfs(device.path, "ext4", uuid=mark.uuid)
    directory = tmp_path / "used"
    directory.mkdir()
    if how == "debugfs":
        command = "write /etc/hostname hostname"
        subprocess.run(["debugfs", "-w", "-R", command, device.path], check=True)
    else:
        subprocess.run(["mount", device.path, directory], check=True)
        try:
            (directory / "file").write_text("data")
            if how != "the kernel":
                subprocess.run(["sync", "-f", directory], check=True)
                (directory / "file").unlink()  # only the journal tells
        finally:
            subprocess.run(["umount", directory], check=True)
    lose_its_head(device)
    found = host.probe(device.path)
    assert found.mark == mark
    assert any(one.usage == "backup" and one.uuid == mark.uuid for one in found.signatures)
    assert not found.unfinished, found


@pytest.mark.root
def test_a_backup_superblock_wants_most_of_the_mark(
    host: LinuxHost, make_device: MakeDevice
) -> None:
    device = make_device(SIZES["ext4"])
    mark = new("ext4")
    host.write_format_mark(device.path, mark)
    host.mkfs(device.path, "ext4", uuid=mark.uuid)
    lose_its_head(device)
    with DirectReader(device.path) as reader:
        _, blocks = read(reader)
    assert len(blocks) >= 8
    for place in sorted(blocks)[8:]:
        put(device, place, b"data")
    assert host.probe(device.path).unfinished
    put(device, min(blocks), b"data")
    assert not host.probe(device.path).unfinished


@pytest.mark.root
def test_a_device_that_is_too_small_for_backups_has_to_be_blank(
    host: LinuxHost, make_device: MakeDevice
) -> None:
    """Blocks of 4 KiB, one group: nothing is left that tells of a file system."""
    device = make_device(64, block_size=4096)
    mark = new("ext4")
    host.write_format_mark(device.path, mark)
    assert host.probe(device.path).unfinished
    host.mkfs(device.path, "ext4", uuid=mark.uuid)
    lose_its_head(device)
    found = host.probe(device.path)
    assert (found.mark, found.unfinished) == (mark, False), found


@pytest.mark.root
def test_a_mark_is_read_alone(host: LinuxHost, make_device: MakeDevice) -> None:
    device = make_device(64)
    assert host.read_format_mark(device.path) is None
    mark = new("ext4")
    host.write_format_mark(device.path, mark)
    assert host.read_format_mark(device.path) == mark


@pytest.mark.root
def test_two_marks_are_none(host: LinuxHost, make_device: MakeDevice) -> None:
    device = make_device(64)
    host.write_format_mark(device.path, new("ext4"))
    put(device, mark_places(device.size_bytes)[3], encode(new("ext4")))
    found = host.probe(device.path)
    assert found.mark is None
    with pytest.raises(NotBlank):
        host.assert_formattable(device.path)


@pytest.mark.root
def test_a_mark_of_which_little_was_written_is_enough_on_a_blank_device(
    host: LinuxHost, make_device: MakeDevice
) -> None:
    """The node died while it wrote the mark."""
    device = make_device(64)
    mark = new("ext4")
    put(device, mark_places(device.size_bytes)[0], encode(mark))
    assert host.probe(device.path).unfinished
    put(device, 20 << 20, b"data")
    assert host.probe(device.path).unfinished == (
        not any(at <= 20 << 20 < at + length for at, length in positions(device.size_bytes))
    )
    put(device, 2 << 20, b"data")
    assert not host.probe(device.path).unfinished


def test_the_mark_names_no_path(tmp_path: Path) -> None:
    """Its UUID becomes the name of a file, and comes from a disk."""
    bad = FormatMark("../../etc/x", "ext4", str(tmp_path))
    assert decode(encode(bad)) is None


@pytest.mark.root
def test_taking_it_away_harms_nothing_beside_it(
    host: LinuxHost, make_device: MakeDevice, tmp_path: Path
) -> None:
    """A small ext4 has blocks of 1 KiB; of this size, bitmaps just behind a block of the mark."""
    device = make_device(141, size_bytes=147_202_560)
    mark = new("ext4")
    host.write_format_mark(device.path, mark)
    host.mkfs(device.path, "ext4", uuid=mark.uuid)
    host.remove_format_mark(device.path, mark)
    assert host.probe(device.path).mark is None
    check = ["e2fsck", "-fn", device.path]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.root
def test_a_place_that_cannot_be_read_is_no_reason_not_to_mount(
    host: LinuxHost, make_device: MakeDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = make_device(64)
    host.mkfs(device.path, "ext4")
    bad, read = mark_places(64 * MIB)[3], DirectReader.read

    def fails_there(self: DirectReader, offset: int, length: int) -> bytes:
        if offset == bad:
            raise CallFailed("read", device.path, errno.EIO)
        return read(self, offset, length)

    monkeypatch.setattr(DirectReader, "read", fails_there)
    found = host.probe(device.path)
    assert (found.fstype, found.mark) == ("ext4", None)
