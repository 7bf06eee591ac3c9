# SPDX-License-Identifier: Apache-2.0
"""Blank means read and zero, and the places where data hides are among those read."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fusefs.errors import DeviceBusy, NotBlank
from fusefs.host import LinuxHost
from fusefs.host.blank import (
    HEAD_BYTES,
    SAMPLE_BYTES,
    TAIL_BYTES,
    DirectReader,
    ext_backup_positions,
    positions,
)
from tests.fusefs.host.conftest import MIB, MakeDevice


@pytest.mark.parametrize("size", [512, 4096, MIB, HEAD_BYTES, HEAD_BYTES + 512, 5 * MIB])
def test_a_small_device_is_read_whole(size: int) -> None:
    covered = 0
    for offset, length in sorted(positions(size)):
        assert offset == covered
        covered += length
    assert covered == size


@pytest.mark.parametrize("size", [64 * MIB, 1 << 30, 10 << 40, (1 << 40) + 512])
def test_a_large_device_is_read_at_both_ends_and_between(size: int) -> None:
    ranges = list(positions(size))
    assert ranges[0] == (0, HEAD_BYTES)
    assert (size - TAIL_BYTES, TAIL_BYTES) in ranges
    assert all(offset + length <= size for offset, length in ranges)
    assert sum(length for _, length in ranges) < 8 * MIB
    between = {offset for offset, length in ranges if length == SAMPLE_BYTES}
    assert between >= {o for o in ext_backup_positions(size) if HEAD_BYTES <= o < size - MIB - 4096}


def test_the_backup_superblocks_of_mke2fs_are_among_the_positions(tmp_path: Path) -> None:
    image = tmp_path / "image"
    for block_size in (1024, 2048, 4096):
        with image.open("wb") as file:
            file.truncate(4 << 30)
        command = ["mkfs.ext4", "-n", "-F", "-b", str(block_size), str(image)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        listed = text.partition("Superblock backups stored on blocks:")[2].replace(",", " ").split()
        first = int(listed[0]) * block_size
        assert first in ext_backup_positions(4 << 30)
        known = {offset // block_size for offset in ext_backup_positions(4 << 30)}
        assert {int(block) for block in listed[:5]} <= known


@pytest.mark.root
def test_zeros_are_blank(host: LinuxHost, make_device: MakeDevice) -> None:
    check = host.read_blank(make_device(64).path)
    assert check.blank
    assert check.bytes_read >= HEAD_BYTES + TAIL_BYTES


@pytest.mark.root
@pytest.mark.parametrize("block_size", [512, 4096])
@pytest.mark.parametrize(
    "offset",
    [0, 511, HEAD_BYTES - 1, 8193 * 1024 + 56, 32 * MIB, 64 * MIB - TAIL_BYTES, 64 * MIB - 1],
)
def test_one_byte_that_is_not_zero_is_found(
    host: LinuxHost, make_device: MakeDevice, offset: int, block_size: int
) -> None:
    device = make_device(64, block_size=block_size)
    with open(device.backing_file, "r+b") as file:
        file.seek(offset)
        file.write(b"\x01")
    assert host.read_blank(device.path).first_nonzero == offset
    with pytest.raises(NotBlank) as caught:
        host.assert_formattable(device.path)
    assert caught.value.offset == offset
    assert f"at byte {offset}" in str(caught.value)


@pytest.mark.root
def test_reads_pass_the_page_cache(make_device: MakeDevice) -> None:
    device = make_device(8)
    with open(device.path, "rb") as cached:
        assert cached.read(4096) == bytes(4096)  # the device's page cache now says zero
        fd = os.open(device.backing_file, os.O_WRONLY)
        os.pwrite(fd, b"new", 0)
        os.fsync(fd)
        os.close(fd)
        with DirectReader(device.path) as reader:
            assert reader.read(0, 3) == b"new"


@pytest.mark.root
def test_a_read_at_any_offset_and_length(make_device: MakeDevice) -> None:
    device = make_device(8, block_size=4096)
    data = os.urandom(3 * MIB)
    Path(device.backing_file).write_bytes(data + bytes(5 * MIB))
    with DirectReader(device.path) as reader:
        assert reader.size == 8 * MIB
        for offset, length in [(0, 1), (5, 10), (4095, 2), (1000, 2 * MIB), (MIB - 1, MIB + 2)]:
            assert reader.read(offset, length) == data[offset : offset + length]
        assert reader.read(8 * MIB - 10, 100) == bytes(10)


@pytest.mark.root
def test_a_mounted_device_is_not_even_read(
    host: LinuxHost, make_device: MakeDevice, directory: str
) -> None:
    device = make_device(16, "mkfs.ext4", "-q")
    host.mount(device.path, directory, "ext4")
    try:
        with pytest.raises(DeviceBusy) as caught:
            host.read_blank(device.path)
        assert directory in caught.value.mounts
    finally:
        host.umount(directory)
