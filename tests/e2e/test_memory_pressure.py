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
"""What the worker's cgroup may grow by after the attach: its payload areas come with the load."""
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
    disk = tmp_path / "disk"
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, disk, size_bytes=512 * MEBI)
    with MemoryCgroup("-worker") as small, MemoryCgroup("-writer") as writers, KernelLog() as log:
        with small.entered():
            volume = volumes.mount(tgt.url(tid, 1), name="v", fstype="ext4", format_if_blank=True)
        assert volume.worker_pid is not None
        if memory_cgroup_of(volume.worker_pid) != small.path.name:
            small.add(volume.worker_pid)
        small.limit(small.usage_bytes + MARGIN)
        assert small.usage_bytes + MARGIN < SIZE
        writers.limit(WRITER)
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

        load = Background(write)
        deadline = time.monotonic() + PATIENCE
        written = -1
        while load.running:
            load.thread.join(10)
            now = volumes.get("v").io
            moved = now["bytes_written"] + now["bytes_read"]
            assert moved > written or not load.running, "no progress for 10 s"
            assert time.monotonic() < deadline
            written = moved
        load.join()
        assert writers.failures > before, "there was no pressure"
        assert volumes.get("v").io["bytes_written"] >= SIZE
        log.check(volume.loop)
        volumes.umount("v")
    fsck_is_clean("ext4", disk)
