# SPDX-License-Identifier: Apache-2.0
"""Dirty pages wait for the worker, the worker waits for memory: neither may wait for the other.

An ext4 on a volume is written through the page cache, by a process that may have only a fraction of
the file's size as memory; so pages have to be written back before it can go on. The worker that has
to write them has next to nothing to allocate from.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from fusefs.volume.status import VolumeStatus
from tests.e2e.conftest import IQN, Volumes
from tests.support.cgroup import MemoryCgroup
from tests.support.direct_io import Background
from tests.support.filesystems import fsck_is_clean
from tests.support.fio import fio_verify
from tests.support.kernel_log import KernelLog
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt]

MEBI = 1 << 20
MARGIN = 40 * MEBI
"""What the worker may take after the attach: its payload areas come with the load. What it has
before that is charged to the cgroup in which it took it."""
WRITER = 24 * MEBI
"""What the writer's cgroup has in all: fio itself needs a third of it."""
SIZE = 128 * MEBI
PATIENCE = 90.0
"""Seconds for what takes about five: a deadlock does not end."""


def memory_cgroup_of(pid: int) -> str:
    """The name of the memory cgroup that a process is in."""
    found = re.search(r"^\d+:memory:/(.*)$", Path(f"/proc/{pid}/cgroup").read_text(), re.MULTILINE)
    assert found
    return found[1]


def test_writeback_goes_on_with_little_memory(
    tgt: TgtServer, volumes: Volumes, tmp_path: Path
) -> None:
    with MemoryCgroup("-worker") as small, MemoryCgroup("-writer") as writers:
        volume, disk = mounted(tgt, volumes, tmp_path)
        assert volume.worker_pid is not None
        small.add(volume.worker_pid)
        small.limit(MARGIN)
        writers.limit(WRITER)
        write_a_lot(volumes, volume, writers)
        assert volumes.get("v").worker_pid == volume.worker_pid
        volumes.umount("v")
    fsck_is_clean("ext4", disk)


def test_a_worker_is_not_in_the_cgroup_of_who_mounted(
    tgt: TgtServer, volumes: Volumes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There the writer's dirty pages would fill its memory, and it would wait, in the kernel, for
    pages that only it can write: with cgroup v1 that is the end."""
    monkeypatch.setenv("PYSCSI_INIT_CGROUP", "on")  # the tests have it off otherwise
    with MemoryCgroup("-both") as group:
        with group.entered():
            volume, disk = mounted(tgt, volumes, tmp_path)
        assert volume.worker_pid is not None
        assert group.path.name not in memory_cgroup_of(volume.worker_pid)
        group.limit(group.usage_bytes + WRITER)
        write_a_lot(volumes, volume, group)
        volumes.umount("v")
    fsck_is_clean("ext4", disk)


def test_a_worker_that_the_kernel_kills_for_its_memory_is_replaced(
    tgt: TgtServer, volumes: Volumes, tmp_path: Path
) -> None:
    with MemoryCgroup("-worker") as small, MemoryCgroup("-writer") as writers:
        volume, disk = mounted(tgt, volumes, tmp_path)
        assert volume.worker_pid is not None
        small.add(volume.worker_pid)
        small.limit(2 * MEBI)
        writers.limit(WRITER)
        write_a_lot(volumes, volume, writers)
        assert volumes.get("v").worker_pid != volume.worker_pid
        assert not small.pids()
        volumes.umount("v")
    fsck_is_clean("ext4", disk)


def mounted(tgt: TgtServer, volumes: Volumes, directory: Path) -> tuple[VolumeStatus, Path]:
    """An ext4 on a volume, and the backing file."""
    disk = directory / "disk"
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, disk, size_bytes=512 * MEBI)
    return volumes.mount(tgt.url(tid, 1), name="v", fstype="ext4", format_if_blank=True), disk


def write_a_lot(volumes: Volumes, volume: VolumeStatus, writers: MemoryCgroup) -> None:
    """Write SIZE bytes through the page cache from inside ``writers``, and verify them."""
    file = Path(volume.mountpoint) / "data"
    with file.open("wb") as made:
        made.truncate(SIZE)
    before = writers.failures

    def write() -> None:
        with writers.entered():
            fio_verify(
                file,
                size=SIZE,
                bs="64k",
                ioengine="sync",
                direct=False,
                end_fsync=True,
                timeout=PATIENCE,
            )

    with KernelLog() as log:
        load = Background(write)
        deadline = time.monotonic() + PATIENCE
        moved = -1
        while load.running:
            load.thread.join(10)
            io = volumes.get("v").io
            assert not load.running or io, "the worker does not answer"
            now = io["bytes_written"] + io["bytes_read"]
            assert now != moved or not load.running, "no progress for 10 s"
            assert time.monotonic() < deadline
            moved = now
        load.join()
        log.check(volume.loop)
    assert writers.failures > before, "there was no pressure"
