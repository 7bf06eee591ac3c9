# SPDX-License-Identifier: Apache-2.0
"""Real mounts over a RAM device: the block file as the kernel sees it.

Both channels pass the same tests; where pyfuse3 cannot (fallocate, taking over a connection), the
test says so by name.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import subprocess
from pathlib import Path

import pytest

from tests.support.fuse_server import loop_device
from tests.support.mounted_file import (
    KEEP_SIZE,
    PUNCH_HOLE,
    SIZE,
    ZERO_RANGE,
    Serve,
    errno_of,
    fallocate,
    opened,
    threads_on,
)
from tests.support.requirements import require

pytestmark = pytest.mark.root


# -- the file -----------------------------------------------------------------------------------


def test_one_directory_with_one_file(any_channel: Serve) -> None:
    server = any_channel()
    assert os.listdir(server.mountpoint) == ["lun"]
    status = os.stat(server.path)
    assert status.st_size == SIZE
    assert status.st_blocks == SIZE // 512
    assert status.st_mode & 0o777 == 0o600
    assert os.stat(server.mountpoint).st_mode & 0o777 == 0o555
    assert os.statvfs(server.mountpoint).f_bfree == 0


def test_nothing_else_can_be_there(any_channel: Serve) -> None:
    server = any_channel()
    other = server.mountpoint / "other"
    assert errno_of(lambda: os.stat(other)) == errno.ENOENT
    assert errno_of(other.mkdir) in (errno.EPERM, errno.ENOSYS)
    assert errno_of(lambda: other.write_bytes(b"x")) in (errno.EPERM, errno.ENOSYS)
    assert errno_of(server.path.unlink) in (errno.EPERM, errno.ENOSYS)
    assert errno_of(lambda: server.path.chmod(0o666)) == errno.EPERM
    assert errno_of(lambda: os.getxattr(server.path, "user.x")) == errno.ENOTSUP


def test_its_length_is_the_devices(any_channel: Serve) -> None:
    server = any_channel()
    os.truncate(server.path, SIZE)
    for size in (0, SIZE - 512, SIZE + 512):
        assert errno_of(lambda size=size: os.truncate(server.path, size)) == errno.EPERM  # type: ignore[misc]
    assert os.stat(server.path).st_size == SIZE


@pytest.mark.parametrize("block_size", [512, 4096])
def test_unaligned_reads_and_writes_equal_a_bytearray(any_channel: Serve, block_size: int) -> None:
    limits = {"max_transfer_bytes": 24 * block_size}
    server = any_channel(block_size=block_size, limits=limits)
    rng = random.Random(block_size)
    window = 1 << 20
    model = bytearray(window)
    with opened(server.path) as fd:
        for _ in range(150):
            offset = rng.randrange(window)
            length = min(rng.choice([1, 100, 511, 4096, 5000, 70_000, 300_000]), window - offset)
            if rng.random() < 0.6:
                data = rng.randbytes(length)
                assert os.pwrite(fd, data, offset) == length
                model[offset : offset + length] = data
            else:
                assert os.pread(fd, length, offset) == model[offset : offset + length]
        assert os.pread(fd, window, 0) == model


def test_writers_in_one_block_do_not_undo_each_other(any_channel: Serve) -> None:
    server = any_channel()
    with opened(server.path) as fd, threads_on(server, 8) as threads:
        jobs = [
            threads.submit(os.pwrite, fd, bytes((index + 1,)) * 16, index * 16)
            for index in range(64)
        ]
        assert all(job.result() == 16 for job in jobs)
        wanted = b"".join(bytes((index + 1,)) * 16 for index in range(64))
        assert os.pread(fd, 1024, 0) == wanted


def test_the_end_of_the_device(any_channel: Serve) -> None:
    server = any_channel()
    with opened(server.path) as fd:
        assert os.pread(fd, 4096, SIZE - 100) == bytes(100)
        assert os.pread(fd, 4096, SIZE) == b""
        assert os.pwrite(fd, b"\1" * 4096, SIZE - 100) == 100
        assert errno_of(lambda: os.pwrite(fd, b"\1", SIZE)) == errno.ENOSPC
        assert os.pread(fd, 4096, SIZE - 100) == b"\1" * 100
        assert os.fstat(fd).st_size == SIZE


def test_dd_moves_a_megabyte_in_one_request(native: Serve) -> None:
    server = native(fault=True)
    subprocess.run(
        [
            require("dd", "coreutils"),
            "if=/dev/urandom",
            f"of={server.path}",
            "bs=1M",
            "count=4",
            "conv=notrunc",
            "oflag=direct",
        ],
        check=True,
        capture_output=True,
    )
    assert server.call("log") == [["WRITE", index << 20, 1 << 20] for index in range(4)]
    with opened(server.path, os.O_RDONLY | os.O_DIRECT) as fd:
        page = mmap.mmap(-1, 1 << 20)
        assert os.preadv(fd, [page], 1 << 20) == 1 << 20
        assert page[:64].hex() == server.call("peek", 1 << 20, 64)
        page.close()
    assert server.call("log") == [["READ", 1 << 20, 1 << 20]]


# -- durability ---------------------------------------------------------------------------------


def test_fsync_reaches_the_device_every_time(any_channel: Serve) -> None:
    server = any_channel()
    with opened(server.path) as fd:
        for count in range(1, 6):
            os.pwrite(fd, b"x", count)
            (os.fsync if count % 2 else os.fdatasync)(fd)
            assert server.call("statistics")["device_flushes"] == count
    assert server.call("statistics")["flushes"] == 5


def test_an_error_of_fsync_is_told_each_time(any_channel: Serve) -> None:
    server = any_channel(fault=True)
    server.call("fail", "FLUSH", 0, SIZE)
    with opened(server.path) as fd:
        for _ in range(3):
            assert errno_of(lambda: os.fsync(fd)) == errno.ENODATA


@pytest.mark.parametrize(
    ("flags", "durable"),
    [(0, False), (os.O_DSYNC, True), (os.O_SYNC, True), (os.O_DIRECT | os.O_DSYNC, True)],
)
def test_a_file_opened_for_sync_is_durable(any_channel: Serve, flags: int, durable: bool) -> None:
    """Either the write says so itself (FUA) or the kernel sends a flush after it."""
    server = any_channel(fault=True)
    server.call("watch_fua")
    with opened(server.path, os.O_RDWR | flags) as fd:
        page = mmap.mmap(-1, 4096)
        assert os.pwritev(fd, [page], 0) == 4096
        page.close()
        flushed = server.call("statistics")["device_flushes"] > 0
        assert (server.call("seen_fua") == [True] or flushed) is durable


def test_a_durable_file_asks_for_stable_storage_each_time(any_channel: Serve) -> None:
    server = any_channel(fault=True, fua=True)
    server.call("watch_fua")
    with opened(server.path) as fd:
        for size in (512, 4096, 200 << 10):
            assert os.pwrite(fd, b"x" * size, 4096) == size
        changes = 3
        if server.kind == "native":
            assert fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 8192) == 0
            assert fallocate(fd, ZERO_RANGE, 512, 512) == 0
            changes += 2
    assert server.call("seen_fua") == [True] * changes


# -- holes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
@pytest.mark.parametrize("mode", [PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE])
def test_holes_read_as_zeros(native: Serve, loop: str, mode: int) -> None:
    server = native(loop=loop, limits={"discard_granularity_bytes": 8192})
    with opened(server.path) as fd:
        os.pwrite(fd, b"\1" * 65536, 0)
        assert fallocate(fd, mode, 5000, 40_000) == 0
        assert os.pread(fd, 65536, 0) == b"\1" * 5000 + bytes(40_000) + b"\1" * 20_536
        assert server.call("statistics")["discards"] == 1


def test_plain_allocation_is_not_supported(any_channel: Serve) -> None:
    server = any_channel()
    with opened(server.path) as fd:
        for mode in (0, KEEP_SIZE):
            assert fallocate(fd, mode, 0, 4096) == errno.EOPNOTSUPP
        # And that answer has not turned the others off, where there are others.
        again = fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 4096)
        assert again == (errno.EOPNOTSUPP if server.kind == "pyfuse3" else 0)
        assert server.call("statistics")["errors"] == 0


def test_discard_of_a_loop_device_reaches_the_device(native: Serve) -> None:
    server = native(fault=True)
    with loop_device(server.path) as loop:
        server.call("log")
        subprocess.run(
            [require("blkdiscard", "util-linux"), "-o", "1M", "-l", "2M", loop],
            check=True,
            capture_output=True,
        )
        log = server.call("log")
        assert sum(length for name, _, length in log if name == "DISCARD") == 2 << 20
        subprocess.run(
            [require("blkdiscard", "util-linux"), "-z", "-o", "4M", "-l", "1M", loop],
            check=True,
            capture_output=True,
        )
        log = server.call("log")
        zeroed = [length for name, _, length in log if name in ("DISCARD", "WRITE_ZEROES")]
        assert sum(zeroed) == 1 << 20
        assert not [name for name, _, _ in log if name == "WRITE"]


# -- read-only and errors -----------------------------------------------------------------------


@pytest.mark.parametrize("whose", ["channel", "device"])
def test_read_only(any_channel: Serve, whose: str) -> None:
    options = {"ram_read_only": True} if whose == "device" else {"read_only": True}
    server = any_channel(**options)
    for flags in (os.O_RDWR, os.O_WRONLY):
        assert errno_of(lambda flags=flags: os.close(os.open(server.path, flags))) == errno.EROFS  # type: ignore[misc]
    assert not os.access(server.path, os.W_OK)
    with opened(server.path, os.O_RDONLY) as fd:
        assert os.pread(fd, 512, 0) == bytes(512)
        os.fsync(fd)
    with loop_device(server.path, read_only=True) as loop:
        assert Path(f"/sys/block/{Path(loop).name}/ro").read_text().strip() == "1"


def test_a_bad_sector_is_an_error_of_its_reader_only(any_channel: Serve) -> None:
    server = any_channel(fault=True)
    server.call("fail", "READ", 4096, 8192)
    with opened(server.path) as fd:
        assert errno_of(lambda: os.pread(fd, 100, 5000)) == errno.ENODATA
        assert os.pread(fd, 100, 0) == bytes(100)
    assert server.call("statistics")["errors"] == 1
