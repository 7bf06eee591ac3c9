# SPDX-License-Identifier: Apache-2.0
"""Disks keep what was written, in memory and in files alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import ConfigurationError
from pyscsi_init.testing import Disk, FileDisk, RamDisk

SIZE = 64 * 512


@pytest.fixture(params=["ram", "file"])
def thin_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    disk: Disk
    if request.param == "ram":
        disk = RamDisk(SIZE, thin=True)
    else:
        disk = FileDisk(tmp_path / "disk", SIZE, thin=True)
    yield disk
    disk.close()


def test_what_was_written_is_read(thin_disk: Disk) -> None:
    thin_disk.write(512, b"a" * 512)
    assert thin_disk.read(0, 1536) == bytes(512) + b"a" * 512 + bytes(512)


def test_discarded_blocks_read_as_zeros_and_are_free(thin_disk: Disk) -> None:
    thin_disk.write(0, b"a" * SIZE)
    thin_disk.discard(3 * 512, 20 * 512)
    assert thin_disk.read(0, SIZE) == b"a" * 1536 + bytes(20 * 512) + b"a" * (SIZE - 23 * 512)
    assert list(thin_disk.extents(0, 64)) == [(0, 3, True), (3, 20, False), (23, 41, True)]


def test_a_new_thin_disk_is_all_free(thin_disk: Disk) -> None:
    assert list(thin_disk.extents(5, 10)) == [(5, 10, False)]


def test_a_grown_disk_keeps_its_content_and_ends_in_zeros(thin_disk: Disk) -> None:
    thin_disk.write(SIZE - 512, b"z" * 512)
    thin_disk.resize(2 * SIZE)
    assert thin_disk.read(SIZE - 512, 1024) == b"z" * 512 + bytes(512)
    thin_disk.write(2 * SIZE - 512, b"y" * 512)
    assert thin_disk.read(2 * SIZE - 512, 512) == b"y" * 512


def test_fill_repeats_the_pattern(thin_disk: Disk) -> None:
    thin_disk.fill(512, 4 * 512, bytes(range(256)) * 2)
    assert thin_disk.read(0, 6 * 512) == bytes(512) + bytes(range(256)) * 8 + bytes(512)


def test_large_ranges_are_discarded_by_pages() -> None:
    disk = RamDisk(1 << 20, thin=True)
    disk.fill(0, 1 << 20, b"x" * 512)
    disk.discard(512, (1 << 20) - 1024)
    assert disk.read(0, 1 << 20) == b"x" * 512 + bytes((1 << 20) - 1024) + b"x" * 512
    disk.close()


def test_a_sparse_file_knows_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(1 << 20)
        file.seek(512 << 10)
        file.write(b"x" * 4096)
    disk = FileDisk(path, thin=True)
    allocated = [(first, count) for first, count, used in disk.extents(0, 2048) if used]
    assert allocated == [(1024, 8)]
    disk.close()


def test_a_file_that_is_there_keeps_its_size(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    path.write_bytes(b"q" * 4096)
    disk = FileDisk(path, read_only=True)
    assert (disk.size, disk.read(0, 4)) == (4096, b"qqqq")
    disk.close()


@pytest.mark.parametrize(("size", "block_size"), [(0, 512), (1000, 512), (4096, 500), (2048, 4096)])
def test_impossible_sizes_are_refused(size: int, block_size: int) -> None:
    with pytest.raises(ConfigurationError):
        RamDisk(size, block_size=block_size)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be opened"):
        FileDisk(tmp_path / "missing")


def test_each_disk_has_its_own_serial_number() -> None:
    assert RamDisk(512).serial != RamDisk(512).serial


ranges = st.tuples(st.integers(0, 63), st.integers(1, 64)).map(
    lambda pair: (pair[0], min(pair[1], 64 - pair[0]))
)
steps = st.lists(
    st.tuples(st.sampled_from(("write", "discard")), ranges, st.binary(min_size=1, max_size=1))
)


@given(steps)
def test_a_thin_disk_is_like_a_list_of_blocks(
    steps: list[tuple[str, tuple[int, int], bytes]],
) -> None:
    disk = RamDisk(SIZE, thin=True)
    model: list[bytes | None] = [None] * 64
    for action, (first, count), value in steps:
        if action == "write":
            disk.write(first * 512, value * 512 * count)
            model[first : first + count] = [value] * count
        else:
            disk.discard(first * 512, count * 512)
            model[first : first + count] = [None] * count
    assert disk.read(0, SIZE) == b"".join((value or b"\0") * 512 for value in model)
    states = [used for _, count, used in disk.extents(0, 64) for _ in range(count)]
    assert states == [value is not None for value in model]
    disk.close()
