# SPDX-License-Identifier: Apache-2.0
"""The worker process itself: what it tells, what it refuses, when it ends, what it never does."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from fusefs.errors import DeviceBusy, WorkerFailed
from fusefs.process.launch import signal_and_wait, wait_for_end
from fusefs.process.pids import WorkerIdentity, is_alive, open_pidfd, start_time_of
from tests.fusefs.process.running import (
    AUDITED,
    RAM,
    Held,
    Running,
    eventually,
    in_thread,
    read,
    unmount,
    write,
)
from tests.support.requirements import require_module
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.anyio, pytest.mark.root]


@asynccontextmanager
async def running(directory: Path, zygote: str = RAM, **spec: Any) -> AsyncIterator[Running]:
    async with Held(directory, zygote) as held:
        yield await held.serve(**spec)


@pytest.fixture(params=["native", "pyfuse3"])
def channel(request: pytest.FixtureRequest) -> str:
    if request.param == "pyfuse3":
        require_module("pyfuse3")
    return str(request.param)


# -- both channels ------------------------------------------------------------------------------


async def test_it_serves_a_file_and_stops_in_order(tmp_path: Path, channel: str) -> None:
    async with running(tmp_path, fuse_channel=channel) as it:
        assert it.facts["size_bytes"] == 8 << 20
        await in_thread(write, it.file, 4096, b"x" * 4096)
        assert await in_thread(read, it.file, 4096, 4096) == b"x" * 4096
        status = await it.client.call("status")
        assert status["pid"] == it.identity.pid
        assert status["io"]["bytes_written"] == 4096
        assert await it.client.call("flush") == {}
        assert await it.client.call("stop", force=False, deadline_s=15) == {}
        assert await wait_for_end(it.identity, 10)
        assert os.listdir(it.fuse) == []
        assert not (it.directory / "control.sock").exists()


async def test_a_file_in_use_refuses_the_stop(tmp_path: Path, channel: str) -> None:
    async with running(tmp_path, fuse_channel=channel) as it:
        descriptor = await in_thread(os.open, it.file, os.O_RDWR)
        try:
            with pytest.raises(DeviceBusy, match="open"):
                await it.client.call("stop", force=False, deadline_s=15)
            assert is_alive(it.identity)
            assert await in_thread(os.pread, descriptor, 4, 0) == b"\0\0\0\0"
        finally:
            await in_thread(os.close, descriptor)
        await it.client.call("stop", force=False, deadline_s=15)
        assert await wait_for_end(it.identity, 10)


async def test_force_stops_it_in_any_case(tmp_path: Path, channel: str) -> None:
    async with running(tmp_path, fuse_channel=channel) as it:
        descriptor = await in_thread(os.open, it.file, os.O_RDWR)
        try:
            await it.client.call("stop", force=True)
            assert await wait_for_end(it.identity, 10)
            with pytest.raises(OSError, match=r".*") as failed:
                await in_thread(os.pread, descriptor, 4, 0)
            assert failed.value.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO)
        finally:
            # On one of the channels closing asks the server too, and it is gone.
            with contextlib.suppress(OSError):
                await in_thread(os.close, descriptor)


async def test_a_foreign_unmount_ends_it(tmp_path: Path, channel: str) -> None:
    async with running(tmp_path, fuse_channel=channel) as it:
        await in_thread(unmount, it.fuse)
        assert await wait_for_end(it.identity, 10)


async def test_read_only(tmp_path: Path, channel: str) -> None:
    async with running(tmp_path, fuse_channel=channel, read_only=True) as it:
        assert await in_thread(read, it.file, 0, 4) == b"\0\0\0\0"
        with pytest.raises(OSError, match=r".*") as refused:
            await in_thread(write, it.file, 0, b"x" * 512)
        assert refused.value.errno in (errno.EROFS, errno.EACCES)


# -- signals and deaths ---------------------------------------------------------------------------


async def test_signals(tmp_path: Path) -> None:
    """SIGINT is the foreground command's; SIGTERM is a polite request."""
    async with running(tmp_path) as it:
        descriptor = await in_thread(os.open, it.file, os.O_RDWR)
        try:
            for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
                os.kill(it.identity.pid, number)

            async def refused() -> bool:
                return "SIGTERM is refused" in await in_thread(it.log.read_text)

            await eventually(refused)
            assert is_alive(it.identity)
        finally:
            await in_thread(os.close, descriptor)
        assert await signal_and_wait(it.identity, signal.SIGTERM, 10)
        assert os.listdir(it.fuse) == []


async def test_it_has_a_session_of_its_own_and_keeps_no_descriptor_of_ours(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    try:
        os.set_inheritable(writing, False)
        async with running(tmp_path) as it:
            assert os.getsid(it.identity.pid) == it.identity.pid
            held = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{it.identity.pid}/fd")]
            assert f"pipe:[{os.fstat(writing).st_ino}]" not in held
            assert held.count("/dev/fuse") == 1
            assert os.readlink(f"/proc/{it.identity.pid}/fd/0") == "/dev/null"
    finally:
        os.close(reading)
        os.close(writing)


async def test_nobody_waits_for_it(tmp_path: Path) -> None:
    """Whoever started it was killed: it undoes what it did."""
    async with Held(tmp_path, RAM) as held:
        worker = await held.start()
        worker.close()
        assert await wait_for_end(worker.identity, 15)
        assert os.listdir(held.paths("v") / "fuse") == []


async def test_it_never_becomes_ready_in_a_directory_that_is_not_there(tmp_path: Path) -> None:
    async with Held(tmp_path, RAM) as held:
        worker = await held.start(fuse_directory="missing")
        with pytest.raises(Exception, match="missing") as failed:
            await worker.wait_ready(30)
        assert type(failed.value).__module__ == "fusefs.errors"
        assert not is_alive(worker.identity)


# -- what it never does ---------------------------------------------------------------------------


@pytest.mark.tgt
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_it_opens_nothing_and_imports_nothing_while_it_serves(
    tmp_path: Path, host: str
) -> None:
    """Not in service, not for its status, not to come back after a loss, not for an error."""
    with TgtServer() as tgt:
        tid = tgt.new_target("iqn.2026-01.com.example:disk")
        tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=16 << 20)
        url = tgt.url(tid, 1).replace("127.0.0.1", host)
        async with running(tmp_path, AUDITED, url=url) as it:
            await in_thread(write, it.file, 8192, b"y" * 8192)
            tgt.kill()

            async def is_recovering() -> bool:
                return bool((await it.client.call("status"))["recovering"])

            await eventually(is_recovering)
            tgt.restart()
            assert await in_thread(read, it.file, 8192, 4) == b"yyyy"
            assert (await it.client.call("status"))["recoveries"] == 1
            with pytest.raises(WorkerFailed):
                await it.client.call("nonsense")
            await in_thread(unmount, it.fuse)
            assert await wait_for_end(it.identity, 20)
            log = it.log.read_text()
        assert "serving iscsi://" in log
        assert [line for line in log.splitlines() if line.startswith("AUDIT")] == []


# -- processes are told apart ---------------------------------------------------------------------


async def test_a_number_that_was_used_again_is_another_process() -> None:
    own = start_time_of(os.getpid())
    assert own is not None
    assert is_alive(WorkerIdentity(os.getpid(), own))
    assert not is_alive(WorkerIdentity(os.getpid(), own - 1))
    assert open_pidfd(WorkerIdentity(os.getpid(), own - 1)) is None
    assert await signal_and_wait(WorkerIdentity(os.getpid(), own - 1), signal.SIGKILL, 1)


async def test_whoever_attaches_may_die_at_the_last_moment(tmp_path: Path) -> None:
    """After the last step that the worker tells of, before its word that it serves: it undoes what
    it did. To be followed then would be to serve a volume that nobody has."""
    async with Held(tmp_path) as held:
        for attempt in range(20):
            worker = await held.start(name := f"v{attempt}")
            said = b""
            while b"publish" not in said:
                with contextlib.suppress(BlockingIOError):
                    said += os.read(worker._ready_fd, 65536)
            os.kill(worker.identity.pid, signal.SIGSTOP)
            with contextlib.suppress(BlockingIOError):
                said += os.read(worker._ready_fd, 65536)
            was_quicker = b'"ok"' in said
            worker.close()
            os.kill(worker.identity.pid, signal.SIGCONT)
            if not was_quicker:
                break
        assert not was_quicker
        assert await wait_for_end(worker.identity, 10)

        async def is_forgotten() -> bool:
            return name not in (await held.client.status()).volumes

        await eventually(is_forgotten)
        assert not await in_thread(os.path.ismount, held.paths(name) / "fuse")
