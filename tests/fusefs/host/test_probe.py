# SPDX-License-Identifier: Apache-2.0
"""What is recognised on a device, and what must never be formatted."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import pytest

from fusefs.errors import CallFailed, NotBlank
from fusefs.host import LinuxHost, LoopDevice, Signature
from fusefs.host.probe import parse_export, parse_wipefs
from tests.fusefs.host.conftest import MIB, MakeDevice, MakeImage


def test_export_is_unescaped() -> None:
    text = 'DEVNAME=/dev/loop0\nLABEL=my\\ \\"vol\\"\\ \\$x\nUUID=1-2\nTYPE=ext4\n'
    assert parse_export(text) == {
        "DEVNAME": "/dev/loop0",
        "LABEL": 'my "vol" $x',
        "UUID": "1-2",
        "TYPE": "ext4",
    }


def test_wipefs_json() -> None:
    text = """{"signatures": [{"device":"loop0","offset":"0x438","type":"ext4","uuid":"u",
        "label":null,"usage":"filesystem"}]}"""
    assert parse_wipefs(text) == [Signature("ext4", "filesystem", 0x438, "u", "")]
    assert parse_wipefs("") == []


@pytest.mark.root
@pytest.mark.parametrize(
    ("fstype", "mib", "command"),
    [
        ("ext4", 16, ("mkfs.ext4", "-q", "-L", "a label")),
        ("xfs", 300, ("mkfs.xfs", "-q", "-L", "alabel")),
        ("btrfs", 128, ("mkfs.btrfs", "-q", "-L", "a label")),
        ("vfat", 16, ("mkfs.vfat",)),
    ],
)
def test_a_filesystem_is_recognised_and_not_formatted(
    host: LinuxHost, make_device: MakeDevice, fstype: str, mib: int, command: tuple[str, ...]
) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    device = make_device(mib, *command)
    found = host.probe(device.path)
    assert found.is_filesystem
    assert found.fstype == fstype
    assert found.uuid
    assert found.found == f"{fstype} filesystem"
    if "-L" in command:
        assert found.label == command[-1]
    with pytest.raises(NotBlank, match=f"refusing to format.*{fstype} filesystem"):
        host.assert_formattable(device.path)


@pytest.mark.root
def test_nothing_is_recognised_on_zeros(host: LinuxHost, make_device: MakeDevice) -> None:
    device = make_device(64)
    assert host.probe(device.path).empty
    host.assert_formattable(device.path)


@pytest.mark.root
def test_random_bytes_have_no_signature_and_are_not_formatted(
    host: LinuxHost, make_device: MakeDevice
) -> None:
    device = make_device(64)
    with open(device.backing_file, "r+b") as file:
        file.seek(2 * MIB)
        file.write(b"\x5a" + os.urandom(4096))
    assert host.probe(device.path).empty
    with pytest.raises(NotBlank, match="data without a known signature at byte 2097152"):
        host.assert_formattable(device.path)


@pytest.mark.root
@pytest.mark.parametrize("kind", ["gpt", "dos"])
def test_a_partition_table_is_not_formatted(
    host: LinuxHost, make_device: MakeDevice, kind: str
) -> None:
    device = make_device(64)
    _sfdisk(device.backing_file, kind)
    found = host.probe(device.path)
    assert found.partition_table == kind
    assert not found.is_filesystem
    with pytest.raises(NotBlank, match=f"{kind} partition table"):
        host.assert_formattable(device.path)


@pytest.mark.root
def test_only_the_backup_gpt_is_left(host: LinuxHost, make_device: MakeDevice) -> None:
    device = make_device(64)
    _sfdisk(device.backing_file, "gpt")
    _zero(device.backing_file, 0, 32 * MIB)
    with pytest.raises(NotBlank) as caught:
        host.assert_formattable(device.path)
    assert caught.value.offset is not None
    assert caught.value.offset >= 63 * MIB


@pytest.mark.root
@pytest.mark.parametrize("block_size", [1024, 2048, 4096])
@pytest.mark.parametrize("zeroed", [64 << 10, 4 * MIB + 4096])
def test_only_a_backup_ext_superblock_is_left(
    host: LinuxHost, make_device: MakeDevice, block_size: int, zeroed: int
) -> None:
    device = make_device(160, "mkfs.ext4", "-q", "-b", str(block_size), "-L", "lost")
    _zero(device.backing_file, 0, zeroed)
    found = host.probe(device.path)
    assert not found.is_filesystem
    assert not found.empty
    backup = next(one for one in found.signatures if one.usage == "backup")
    first_data_block = 1 if block_size == 1024 else 0
    assert backup.offset == (8 * block_size + first_data_block) * block_size
    assert backup.label == "lost"
    with pytest.raises(NotBlank, match=r"ext2/3/4 backup superblock"):
        host.assert_formattable(device.path)


@pytest.mark.root
def test_an_xfs_without_its_head_is_not_formatted(host: LinuxHost, make_device: MakeDevice) -> None:
    device = make_device(300, "mkfs.xfs", "-q")
    _zero(device.backing_file, 0, 5 * MIB)
    with pytest.raises(NotBlank):
        host.assert_formattable(device.path)


@pytest.mark.root
def test_a_btrfs_without_its_head_is_not_formatted(
    host: LinuxHost, make_device: MakeDevice
) -> None:
    device = make_device(256, "mkfs.btrfs", "-q")
    _zero(device.backing_file, 0, 5 * MIB)
    with pytest.raises(NotBlank) as caught:
        host.assert_formattable(device.path)
    assert "btrfs" in caught.value.found or caught.value.offset is not None


@pytest.mark.root
def test_an_lvm_label_is_not_formatted(host: LinuxHost, make_device: MakeDevice) -> None:
    device = make_device(64)
    _write_lvm_label(device.backing_file, 64 * MIB)
    found = host.probe(device.path)
    assert found.fstype == "LVM2_member"
    assert not found.is_filesystem
    with pytest.raises(NotBlank, match="LVM2_member"):
        host.assert_formattable(device.path)


@pytest.mark.root
def test_pvcreate_is_not_formatted(host: LinuxHost, make_device: MakeDevice) -> None:
    if shutil.which("pvcreate") is None:
        pytest.skip("lvm2 is not installed")
    device = make_device(64)
    config = "devices { scan_lvs=0 use_devicesfile=0 } global { use_lvmlockd=0 locking_type=0 }"
    made = subprocess.run(
        ["pvcreate", "--config", config, "-qq", "-y", device.path], capture_output=True, text=True
    )
    if made.returncode != 0:
        pytest.skip(f"pvcreate does not run on this kernel: {made.stderr.strip()[-200:]}")
    with pytest.raises(NotBlank, match="LVM2_member"):
        host.assert_formattable(device.path)


@pytest.mark.root
def test_swap_and_luks_and_md_are_not_formatted(host: LinuxHost, make_device: MakeDevice) -> None:
    swap = make_device(16, "mkswap", "-q") if shutil.which("mkswap") else None
    if swap is not None:
        assert not host.probe(swap.path).is_filesystem
        with pytest.raises(NotBlank, match="swap"):
            host.assert_formattable(swap.path)
    luks = make_device(16)
    with open(luks.backing_file, "r+b") as file:
        # LUKS1 on-disk format 2.3.2.1: magic, version 1, cipher, mode, hash, offset, key bytes.
        header = b"LUKS\xba\xbe" + struct.pack(">H", 1) + b"aes".ljust(32, b"\0")
        header += b"xts-plain64".ljust(32, b"\0") + b"sha256".ljust(32, b"\0")
        header += struct.pack(">II", 4096, 32) + bytes(20 + 32 + 4)
        header += b"8a6e6d3e-6a3c-4a30-9f3e-0123456789ab".ljust(40, b"\0")
        file.write(header)
    with pytest.raises(NotBlank, match="crypto_LUKS"):
        host.assert_formattable(luks.path)
    md = make_device(16)
    with open(md.backing_file, "r+b") as file:
        # md version 1.2: the superblock lies 4 KiB from the start.
        file.seek(4096)
        file.write(_md_superblock())
    with pytest.raises(NotBlank, match="linux_raid_member"):
        host.assert_formattable(md.path)


@pytest.mark.root
def test_two_filesystems_on_one_device_are_ambivalent(
    host: LinuxHost, make_device: MakeDevice, make_image: MakeImage
) -> None:
    device = make_device(300, "mkfs.ext4", "-q")
    xfs = make_image(300, "mkfs.xfs", "-q")
    with open(xfs, "rb") as source, open(device.backing_file, "r+b") as target:
        target.write(source.read(1024))  # the XFS superblock lies before the one of ext4
    found = host.probe(device.path)
    assert found.ambivalent
    assert not found.is_filesystem
    assert "ext4" in found.found
    assert "xfs" in found.found
    with pytest.raises(NotBlank, match="xfs"):
        host.assert_formattable(device.path)


@pytest.mark.root
def test_a_device_that_cannot_be_read_is_not_blank(
    host: LinuxHost, make_device: MakeDevice
) -> None:
    device = make_device(16)
    os.truncate(device.backing_file, 0)  # the device keeps its size, and every read of it fails
    for ask in (host.probe, host.read_blank, host.assert_formattable):
        with pytest.raises(CallFailed, match=r"read .* at byte 0: Input/output error \(EIO\)"):
            ask(device.path)
    with pytest.raises(CallFailed, match="ENOENT"):
        host.probe("/dev/loop-that-is-not-there")


def _sfdisk(image: str, kind: str) -> None:
    subprocess.run(
        ["sfdisk", "-q", "--no-reread", image],
        input=f"label: {kind}\n,\n",
        text=True,
        check=True,
        capture_output=True,
    )


def _zero(image: str, offset: int, length: int) -> None:
    with open(image, "r+b") as file:
        file.seek(offset)
        file.write(bytes(length))


def _write_lvm_label(image: str, size: int) -> None:
    """An LVM2 label in sector 1: id, sector, crc, offset of the PV header, type, PV uuid, size."""
    body = (
        struct.pack("<I", 32) + b"LVM2 001" + b"A" * 32 + struct.pack("<Q", size) + bytes(512 - 72)
    )
    body = body.ljust(512 - 20, b"\0")[: 512 - 20]
    # The CRC of LVM2: the usual polynomial, seed 0xf597a6cf, no inversion at either end.
    crc = zlib.crc32(body, 0xF597A6CF ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    label = b"LABELONE" + struct.pack("<Q", 1) + struct.pack("<I", crc) + body
    Path(image).open("r+b").close()
    with open(image, "r+b") as file:
        file.seek(512)
        file.write(label)


def _md_superblock() -> bytes:
    fields = bytearray(512)
    struct.pack_into("<III", fields, 0, 0xA92B4EFC, 1, 0)
    fields[16:32] = bytes(range(16))
    fields[32:36] = b"test"
    struct.pack_into("<Q", fields, 64, 0)
    struct.pack_into("<iI", fields, 72, 1, 0)
    struct.pack_into("<Q", fields, 80, 2048)
    struct.pack_into("<I", fields, 92, 2)
    struct.pack_into("<Q", fields, 128, 2048)
    struct.pack_into("<Q", fields, 136, 2048)
    struct.pack_into("<Q", fields, 144, 8)
    struct.pack_into("<I", fields, 220, 128)
    # sb_csum: the sum of all words, the upper half folded in.
    total = sum(struct.unpack(f"<{(256 + 128 * 2) // 4}I", fields[:512]))
    struct.pack_into("<I", fields, 216, ((total & 0xFFFFFFFF) + (total >> 32)) & 0xFFFFFFFF)
    return bytes(fields)


def test_the_device_record_is_what_the_tests_think(tmp_path: Path) -> None:
    one = LoopDevice("/dev/loop0", 0, "/a", 512, 0, False, True, 5)
    assert one.same_attachment(LoopDevice("/dev/loop0", 0, "/b", 512, 0, False, True, 5))
    assert not one.same_attachment(LoopDevice("/dev/loop0", 0, "/a", 512, 0, False, True, 6))
    assert one.same_attachment(LoopDevice("/dev/loop0", 0, "/a", 512, 0, False, True, None))
    assert not one.same_attachment(LoopDevice("/dev/loop1", 1, "/a", 512, 0, False, True, 5))
