# SPDX-License-Identifier: Apache-2.0
"""Volumes on LIO, the kernel's target: files under load while worker and target die."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.conftest import Volumes
from tests.support.direct_io import until
from tests.support.files import FileWorkload
from tests.support.filesystems import fsck_is_clean
from tests.support.fio import fio_verify
from tests.support.kernel_log import KernelLog
from tests.support.lio import LioServer

pytestmark = pytest.mark.root

MEBI = 1 << 20
QUICK = {"default_time2wait": 0, "login_timeout": 2.0, "noop_interval": 1.0, "noop_timeout": 1.0}


@pytest.fixture
def lio() -> Iterator[LioServer]:
    """LIO; the test's thread is in its namespace, and so is the data path that it starts."""
    with LioServer() as server, server.namespace.entered():
        yield server


@pytest.mark.parametrize("block_size", [512, 4096])
def test_fio_verifies_the_loop_device(lio: LioServer, volumes: Volumes, block_size: int) -> None:
    tid = lio.new_disk(64 * MEBI, block_size=block_size)
    volume = volumes.attach(lio.url(tid), name="v")
    assert (volume.size_bytes, volume.block_size) == (64 * MEBI, block_size)
    for bs, depth in (("4k", 32), ("1m", 4)):
        fio_verify(volume.loop, size=32 * MEBI, bs=bs, iodepth=depth)
    assert volumes.get("v").io["errors"] == 0
    volumes.detach("v")
    lio.wait_sessions(tid, 0)


def test_files_survive_worker_and_target(lio: LioServer, volumes: Volumes, tmp_path: Path) -> None:
    """The worker is killed, then the target's power fails, then the worker again while the target
    boots."""
    disk = tmp_path / "disk"
    tid = lio.new_disk(256 * MEBI, backend="file", file=disk)
    volume = volumes.mount(
        lio.url(tid), name="v", fstype="ext4", format_if_blank=True, settings=QUICK
    )

    def kill_worker() -> None:
        pid = volumes.get("v").worker_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: volumes.get("v").worker_pid not in (None, pid), 20)

    workload = FileWorkload(Path(volume.mountpoint), tmp_path / "journals", threads=2)

    def goes_on(steps: int = 30) -> None:
        done = workload.done()
        until(lambda: workload.done() > done + steps or not workload.running, 60)
        assert workload.running

    with KernelLog() as log:
        with workload:
            goes_on()
            kill_worker()
            goes_on()
            lio.kill()
            time.sleep(0.5)  # some of the load has to run into it
            kill_worker()
            lio.start()
            goes_on()
        assert volumes.get("v").io["errors"] == 0
        log.check(volume.loop)
    volumes.umount("v")
    again = volumes.mount(lio.url(tid), name="v")
    workload.check(Path(again.mountpoint))
    volumes.umount("v")
    lio.wait_sessions(tid, 0)
    lio.kill()
    fsck_is_clean("ext4", disk)
