# SPDX-License-Identifier: Apache-2.0
"""Real mounts: a loop device and a file system on the block file, growth, and who outlives whom.

fio verifies what it wrote, by checksum; a stale block put in by hand proves that it would tell.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fusefs.host import LinuxHost
from tests.support import processes
from tests.support.fio import fio_verify
from tests.support.fuse_server import FuseServer, loop_device
from tests.support.mounted_file import (
    SIZE,
    Serve,
    errno_of,
    eventually,
    opened,
    threads_on,
)
from tests.support.requirements import require

pytestmark = pytest.mark.root


def require_resend() -> None:
    """FUSE_NOTIFY_RESEND came with Linux 6.9."""
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if release < (6, 9):
        pytest.skip(f"Linux {os.uname().release} does not send requests again")


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


def test_a_loop_device_grows_over_the_death_of_the_server(
    native: Serve, serving: contextlib.ExitStack, tmp_path: Path
) -> None:
    """Whoever asks for the new size waits in a process of its own, for whoever answers."""
    server = native()
    host = LinuxHost()
    with loop_device(server.path) as loop, ThreadPoolExecutor(1) as threads:
        server.call("resize", 2 * SIZE)
        os.kill(server.process.pid, signal.SIGSTOP)
        before = processes.children()
        following = threads.submit(host.loop_follow, str(server.path))
        eventually(lambda: bool(processes.children() - before))
        server.kill()
        assert not following.done()
        serving.enter_context(FuseServer(tmp_path, size=2 * SIZE, successor_of=server))
        following.result(20)
        assert {one.path: one.size_bytes for one in host.loop_list()}[loop] == 2 * SIZE


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
        first.call("hold", "WRITE")
        jobs = [threads.submit(os.pwrite, fd, b"\5" * 4096, index * 4096) for index in range(4)]
        eventually(lambda: first.call("held") == 4)
        first.kill()
        successor = serving.enter_context(
            FuseServer(tmp_path, loop=loop, size=SIZE, successor_of=first)
        )
        assert successor.call("outstanding") == []
        assert [job.result(10) for job in jobs] == [4096] * 4
        assert os.pread(fd, 4 * 4096, 0) == b"\5" * 4 * 4096


def test_a_successor_without_the_slots_asks_the_kernel_again(
    native: Serve, serving: contextlib.ExitStack, tmp_path: Path
) -> None:
    require_resend()
    first = native(fault=True)
    with opened(first.path) as fd, threads_on(first, 4) as threads:
        first.call("hold", "WRITE")
        jobs = [threads.submit(os.pwrite, fd, b"\5" * 4096, index * 4096) for index in range(4)]
        eventually(lambda: first.call("held") == 4)
        first.kill()
        successor = serving.enter_context(
            FuseServer(tmp_path, size=SIZE, fault=True, successor_of=first, with_slots=False)
        )
        assert successor.call("outstanding") == []
        successor.call("hold", "WRITE")
        successor.call("resend")
        eventually(lambda: successor.call("held") == 4)
        # Asked once more, while they are under way: nothing is done twice.
        sent = successor.call("outstanding")
        assert all(unique >> 63 for _, _, unique in sent)
        successor.call("resend")
        assert os.pread(fd, 10, 1 << 20) == bytes(10)  # what was sent again was read before this
        assert successor.call("held") == 4
        assert successor.call("outstanding") == sent
        successor.call("release", "lifo")
        assert [job.result(10) for job in jobs] == [4096] * 4
        assert os.pread(fd, 4 * 4096, 0) == b"\5" * 4 * 4096


def test_a_request_sent_again_while_it_is_under_way_is_done_once(native: Serve) -> None:
    require_resend()
    server = native(fault=True)
    with opened(server.path) as fd, threads_on(server, 4) as threads:
        server.call("hold", "WRITE")
        jobs = [threads.submit(os.pwrite, fd, b"\5" * 4096, index * 4096) for index in range(4)]
        eventually(lambda: server.call("held") == 4)
        server.call("resend")
        eventually(lambda: all(each[2] >> 63 for each in server.call("outstanding")))
        assert server.call("held") == 4
        server.call("release", "lifo")
        assert [job.result(10) for job in jobs] == [4096] * 4
        assert len(server.call("log")) == 4
        assert server.call("outstanding") == []


def test_stop_leaves_the_mount_to_a_successor(
    native: Serve, serving: contextlib.ExitStack, tmp_path: Path
) -> None:
    first = native()
    with opened(first.path) as fd, threads_on(first, 1) as threads:
        os.pread(fd, 10, 0)
        first.call("stop")
        assert first.process.wait(10) == 0
        job = threads.submit(os.pread, fd, 10, 0)
        serving.enter_context(FuseServer(tmp_path, size=SIZE, successor_of=first))
        assert job.result(10) == bytes(10)


def test_growth_between_two_servers_is_seen(
    native: Serve, serving: contextlib.ExitStack, tmp_path: Path
) -> None:
    first = native()
    assert os.stat(first.path).st_size == SIZE
    first.kill()
    serving.enter_context(FuseServer(tmp_path, size=2 * SIZE, successor_of=first))
    assert os.stat(first.path).st_size == 2 * SIZE


def test_no_descriptor_or_directory_is_left(any_channel: Serve, tmp_path: Path) -> None:
    server = any_channel()
    os.stat(server.path)
    server.unmount()
    assert not os.path.ismount(server.mountpoint)
    shutil.rmtree(server.mountpoint)
