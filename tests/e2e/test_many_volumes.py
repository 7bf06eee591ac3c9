# SPDX-License-Identifier: Apache-2.0
"""Many volumes at once on one target: what each costs, and that nothing is left of them.

The figures are printed (``pytest -s``, or ``-rA``): time per attach, memory (the proportional set
size, in which a page that several processes share counts for each in part), descriptors, threads.
"""

from __future__ import annotations

import os
import re
import statistics
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import IQN, Volumes
from tests.support import processes
from tests.support.direct_io import BLOCK, read_direct, write_direct
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt]

MEBI = 1 << 20
IDLE_PSS_KIB = 12 << 10


def pss_kib(pid: int) -> int:
    """The proportional set size of a process."""
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)
    assert found
    return int(found[1])


def threads(pid: int) -> int:
    """How many threads a process has."""
    return len(os.listdir(f"/proc/{pid}/task"))


def block(number: int) -> bytes:
    """What is written to a volume, other than to its neighbours."""
    return f"volume {number} ".encode().ljust(16, b".") * (BLOCK // 16)


@pytest.mark.parametrize(
    "count",
    [5, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(900)])],
)
def test_volumes_at_once(tgt: TgtServer, volumes: Volumes, tmp_path: Path, count: int) -> None:
    tid = tgt.new_target(IQN)
    for number in range(1, count + 1):
        tgt.add_lun(tid, number, tmp_path / f"disk{number}", size_bytes=16 * MEBI)
    before = processes.marked_processes(os.environ[processes.SESSION_VARIABLE])
    took = []
    for number in range(1, count + 1):
        began = time.monotonic()
        volumes.attach(tgt.url(tid, number), name=f"v{number}")
        took.append(time.monotonic() - began)
    tgt.wait_sessions(count)
    attached = volumes.status()
    assert len(attached) == count
    assert {volume.state for volume in attached} == {"attached"}
    assert len({volume.loop for volume in attached}) == count
    for number in range(1, count + 1):
        write_direct(volumes.get(f"v{number}").loop, 0, block(number))
    for number in range(1, count + 1):
        assert read_direct(volumes.get(f"v{number}").loop, 0) == block(number)
        assert (tmp_path / f"disk{number}").read_bytes()[:BLOCK] == block(number)

    workers = [volume.worker_pid for volume in attached if volume.worker_pid is not None]
    assert len(set(workers)) == count
    ours = processes.marked_processes(os.environ[processes.SESSION_VARIABLE]) - before
    others = sorted(ours - set(workers) - {tgt.pid})
    memory = sorted(pss_kib(pid) for pid in workers)
    descriptors = sorted(len(processes.open_descriptors(pid)) for pid in workers)
    print(  # noqa: T201  (figures are what this is for)
        f"\n{count} volumes: attach {statistics.median(took) * 1000:.0f} ms median, "
        f"{max(took) * 1000:.0f} ms longest; PSS of a worker {memory[len(memory) // 2]} KiB "
        f"median, {memory[-1]} KiB most; descriptors {descriptors[0]}..{descriptors[-1]}; threads "
        f"{min(map(threads, workers))}..{max(map(threads, workers))}"
    )
    for pid in others:
        print(  # noqa: T201
            f"beside them: {processes.command_line(pid)[:80]}: PSS {pss_kib(pid)} KiB, "
            f"{len(processes.open_descriptors(pid))} descriptors, {threads(pid)} threads"
        )
    total = sum(memory) + sum(pss_kib(pid) for pid in others)
    print(f"together {total // count} KiB for each volume")  # noqa: T201

    began = time.monotonic()
    for number in range(1, count + 1):
        volumes.detach(f"v{number}")
    print(f"detach {(time.monotonic() - began) * 1000 / count:.0f} ms each")  # noqa: T201
    tgt.wait_sessions(0)
    assert volumes.status() == []
    for pid in workers:
        assert processes.wait_exit(pid)
    backing = {
        path.read_text().strip() for path in Path("/sys/block").glob("loop*/loop/backing_file")
    }
    assert not any(str(tmp_path) in path for path in backing)
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()
    if count >= 50:
        assert memory[-1] <= IDLE_PSS_KIB
