# SPDX-License-Identifier: Apache-2.0
"""Real mounts over a RAM device: the block file as the kernel, a loop device and fio see it.

Both channels pass the same tests; where pyfuse3 cannot (fallocate, taking over a connection), the
test says so by name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from fusefs.host import LinuxHost
from tests.support.fio import fio_verify
from tests.support.fuse_server import FuseServer, loop_device
from tests.support.requirements import require, require_module

pytestmark = pytest.mark.root

NATIVE = [("native", "asyncio"), ("native", "trio"), ("native", "uvloop")]
ALL = [*NATIVE, ("pyfuse3", "trio")]
SIZE = 32 << 20

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16

Serve = Callable[..., FuseServer]


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(params=ALL, ids="-".join)
def any_channel(
    request: pytest.FixtureRequest, serving: contextlib.ExitStack, tmp_path: Path
) -> Serve:
    """Serve over each channel and loop in turn; the arguments are FuseServer's."""
    kind, loop = request.param
    for module in {kind, loop} & {"pyfuse3", "uvloop"}:
        require_module(module)

    def serve(**options: Any) -> FuseServer:
        return serving.enter_context(
            FuseServer(tmp_path, kind=kind, loop=loop, **{"size": SIZE, **options})
        )

    return serve


@pytest.fixture
def native(serving: contextlib.ExitStack, tmp_path: Path) -> Serve:
    """Serve over the native channel on asyncio."""

    def serve(**options: Any) -> FuseServer:
        return serving.enter_context(FuseServer(tmp_path, **{"size": SIZE, **options}))

    return serve


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_RDWR) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        with contextlib.suppress(OSError):  # the first close over libfuse asks even an aborted one
            os.close(fd)


def fallocate(fd: int, mode: int, offset: int, length: int) -> int:
    """fallocate(2), which the standard library has only without a mode. Returns the errno."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length))
    return ctypes.get_errno() if done else 0


@contextlib.contextmanager
def threads_on(server: FuseServer, count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that may wait in the mount: when the test fails, the connection is aborted so that
    they, and with them the test run, come back."""
    with ThreadPoolExecutor(count) as threads:
        try:
            yield threads
        except BaseException:
            server.host.fuse_abort(server.connection)
            raise


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what another process is about to do."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def errno_of(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or 0
    return 0


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
        import mmap

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
    import mmap

    server = any_channel(fault=True)
    server.call("watch_fua")
    with opened(server.path, os.O_RDWR | flags) as fd:
        page = mmap.mmap(-1, 4096)
        assert os.pwritev(fd, [page], 0) == 4096
        page.close()
        flushed = server.call("statistics")["device_flushes"] > 0
        assert (server.call("seen_fua") == [True] or flushed) is durable


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


# -- a loop device on it ------------------------------------------------------------------------


@pytest.mark.parametrize("bs", ["4k", "64k", "1M"])
def test_fio_verifies_a_loop_device(any_channel: Serve, bs: str) -> None:
    server = any_channel()
    with loop_device(server.path) as loop:
        fio_verify(loop, size=SIZE // 2, bs=bs, loops=2, iodepth=32)
        statistics = server.call("statistics")
        assert statistics["bytes_written"] >= SIZE
        assert statistics["errors"] == statistics["in_flight"] == 0


def test_fio_verifies_sizes_side_by_side(native: Serve) -> None:
    server = native(size=48 << 20, block_size=4096, limits={"max_transfer_bytes": 5 * 4096})
    with loop_device(server.path, block_size=4096) as loop, ThreadPoolExecutor(3) as threads:
        runs = [
            threads.submit(fio_verify, loop, size=16 << 20, offset=index << 24, bs=bs, loops=2)
            for index, bs in enumerate(("4k", "128k", "1M"))
        ]
        for run in runs:
            run.result()


def test_a_stale_block_would_be_found(native: Serve) -> None:
    """The proof that the verifying tests above can fail."""
    server = native()
    with loop_device(server.path) as loop:
        fio_verify(loop, size=1 << 20, bs="4k")
        with opened(server.path) as fd:
            os.pwrite(fd, os.pread(fd, 4096, 0), 8192)
        checked = subprocess.run(
            [
                require("fio"),
                "--name=verify",
                f"--filename={loop}",
                "--rw=randread",
                "--bs=4k",
                "--size=1M",
                "--direct=1",
                "--verify=crc32c",
                "--verify_only",
            ],
            capture_output=True,
            check=False,
        )
        assert checked.returncode != 0


def test_many_requests_are_in_flight_at_once(native: Serve) -> None:
    """The kernel's default of 12 background requests would be seen here."""
    server = native(fault=True)
    with loop_device(server.path) as loop:
        server.call("hold", "READ")
        process = subprocess.Popen(
            [
                require("fio"),
                "--name=deep",
                f"--filename={loop}",
                "--rw=randread",
                "--bs=4k",
                "--size=4M",
                "--iodepth=100",
                "--ioengine=libaio",
                "--direct=1",
                "--norandommap",
                "--number_ios=200",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            eventually(lambda: server.call("held") >= 90)
        finally:
            while process.poll() is None:
                server.call("release", "lifo")
                time.sleep(0.005)
        assert process.returncode == 0
        assert server.call("statistics")["max_in_flight"] >= 90


def test_growth_is_seen_by_stat_and_by_the_loop_device(any_channel: Serve) -> None:
    server = any_channel()
    host = LinuxHost()
    device = host.loop_attach(str(server.path), block_size=512)
    try:
        assert os.stat(server.path).st_size == SIZE
        server.call("resize", 2 * SIZE)
        eventually(lambda: os.stat(server.path).st_size == 2 * SIZE)
        assert host.loop_set_capacity(device).size_bytes == 2 * SIZE
        with opened(Path(device.path)) as fd:
            os.pwrite(fd, b"\7" * 512, 2 * SIZE - 512)
            os.fsync(fd)
        assert server.call("peek", 2 * SIZE - 512, 512) == "07" * 512
    finally:
        host.loop_detach(device)


def test_a_file_system_on_it(native: Serve, tmp_path: Path) -> None:
    server = native(size=64 << 20, block_size=4096)
    target = tmp_path / "fs"
    target.mkdir()
    content = random.Random(1).randbytes(8 << 20)
    with loop_device(server.path, block_size=4096) as loop:
        run = {"check": True, "capture_output": True}
        subprocess.run([require("mkfs.ext4"), "-q", loop], **run)  # type: ignore[call-overload]
        for attempt in range(2):
            subprocess.run([require("mount"), loop, target], **run)  # type: ignore[call-overload]
            try:
                if attempt == 0:
                    (target / "file").write_bytes(content)
                assert (target / "file").read_bytes() == content
                subprocess.run([require("fstrim", "util-linux"), target], **run)  # type: ignore[call-overload]
            finally:
                subprocess.run([require("umount", "mount"), target], **run)  # type: ignore[call-overload]
        subprocess.run([require("fsck.ext4"), "-fn", loop], **run)  # type: ignore[call-overload]
    assert server.call("statistics")["flushes"] > 0
    assert server.call("statistics")["discards"] > 0


# -- life ---------------------------------------------------------------------------------------


def test_unmount_ends_the_channel(any_channel: Serve) -> None:
    server = any_channel()
    os.stat(server.path)
    server.unmount()
    assert server.process.stdout is not None
    assert server.process.stdout.readline() == b'{"closed": true}\n'


def test_abort_ends_the_channel_and_its_requests(any_channel: Serve) -> None:
    server = any_channel(fault=True)
    server.call("hold", "READ")
    with opened(server.path) as fd, threads_on(server, 1) as threads:
        job = threads.submit(errno_of, lambda: os.pread(fd, 4096, 0))
        eventually(lambda: server.call("held") == 1)
        assert server.host.fuse_abort(server.connection)
        assert job.result(10) in (errno.ECONNABORTED, errno.ENOTCONN)
        server.call("release", "fifo")
        assert server.process.stdout is not None
        assert server.process.stdout.readline() == b'{"closed": true}\n'


def test_close_does_not_wait_for_a_server_that_is_away(native: Serve) -> None:
    """fork, exec and exit close inherited descriptors of the file; none of them may hang in it."""
    server = native()
    fd = os.open(server.path, os.O_RDWR)
    other = os.dup(fd)
    os.close(other)
    server.kill()
    os.close(fd)


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_successor_answers_what_a_killed_server_left(
    native: Serve, serving: contextlib.ExitStack, tmp_path: Path, loop: str
) -> None:
    first = native(loop=loop, fault=True)
    with opened(first.path) as fd, threads_on(first, 4) as threads:
        assert os.pread(fd, 10, 0) == bytes(10)
        first.remember_init()
        first.call("hold", "WRITE")
        jobs = [threads.submit(os.pwrite, fd, b"\5" * 4096, index * 4096) for index in range(4)]
        eventually(lambda: first.call("held") == 4)
        first.kill()
        successor = serving.enter_context(
            FuseServer(tmp_path, loop=loop, size=SIZE, successor_of=first)
        )
        successor.call("resend")
        assert [job.result(10) for job in jobs] == [4096] * 4
        assert os.pread(fd, 4 * 4096, 0) == b"\5" * 4 * 4096


def test_stop_leaves_the_mount_to_a_successor(
    native: Serve, serving: contextlib.ExitStack, tmp_path: Path
) -> None:
    first = native()
    with opened(first.path) as fd, threads_on(first, 1) as threads:
        os.pread(fd, 10, 0)
        first.remember_init()
        first.call("stop")
        assert first.process.wait(10) == 0
        job = threads.submit(os.pread, fd, 10, 0)
        serving.enter_context(FuseServer(tmp_path, size=SIZE, successor_of=first))
        assert job.result(10) == bytes(10)


def test_no_descriptor_or_directory_is_left(any_channel: Serve, tmp_path: Path) -> None:
    server = any_channel()
    os.stat(server.path)
    server.unmount()
    assert not os.path.ismount(server.mountpoint)
    shutil.rmtree(server.mountpoint)
