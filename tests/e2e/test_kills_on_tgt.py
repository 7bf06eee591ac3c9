# SPDX-License-Identifier: Apache-2.0
"""Workers, zygote and holder are killed, hung and replaced under fio with verification, on tgt.

No I/O error anywhere, every block the newest, and figures of how long I/O stood still. That fio
finds a stale block is shown by tests/support/test_fio.py and, through a volume, at the end.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fusefs.process.pids import is_alive
from fusefs.volume.status import VolumeStatus
from tests.e2e.conftest import Volumes
from tests.support import processes
from tests.support.fio import VerifyFailed, fio_verify
from tests.support.stalls import Figures, Prober
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt]

MEBI = 1 << 20
PATIENCE_S = 30.0
FIRST_GAP_S, LAST_GAP_S = 0.2, 2.0
"""Between two kills: any moment in the life of a worker, and not so soon that it is held back for
dying too often."""

KILLS = int(os.environ.get("PYSCSI_INIT_SOAK_KILLS") or 200)
OTHERS = int(os.environ.get("PYSCSI_INIT_SOAK_OTHERS") or 20)


class Load:
    """fio with verification, again and again until told to end; its errors are raised then."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._ended = threading.Event()
        self._failure: list[BaseException] = []
        self.rounds = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            try:
                fio_verify(self._path, size=32 * MEBI, bs="4k", iodepth=16, loops=2, timeout=300)
            except BaseException as error:
                self._failure.append(error)
                return
            self.rounds += 1

    def check(self) -> None:
        """Raise what fio has found."""
        if self._failure:
            raise self._failure[0]

    def end(self) -> None:
        """Let it come to the end of its round."""
        self._ended.set()
        self._thread.join(300)
        self.check()
        assert self.rounds, "fio verified nothing"


@contextmanager
def under_load(volume: VolumeStatus) -> Iterator[tuple[Load, Prober]]:
    load = Load(volume.loop)
    try:
        with Prober(volume.loop) as prober:
            yield load, prober
    finally:
        load.end()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def worker_of(volumes: Volumes, *, other_than: int | None = None) -> int:
    """The worker that serves, once it is another one."""
    found: list[int] = []

    def serves() -> bool:
        status = volumes.get("v")
        if status.state == "attached" and status.worker_pid not in (None, other_than):
            found.append(int(status.worker_pid or 0))
        return bool(found)

    eventually(serves)
    return found[0]


def holder_of(volumes: Volumes) -> tuple[int, int]:
    """Holder and zygote."""
    found: list[tuple[int, int]] = []

    def there() -> bool:
        status = volumes.call(volumes.manager.holder_status)
        if status.pid and status.zygote_pid:
            found.append((status.pid, status.zygote_pid))
        return bool(found)

    eventually(there)
    return found[0]


def kill(pid: int, number: int = signal.SIGKILL) -> float:
    now = time.monotonic()
    os.kill(pid, number)
    return now


def pause() -> None:
    time.sleep(random.uniform(FIRST_GAP_S, LAST_GAP_S))


def no_errors(volumes: Volumes, kernel_log: str) -> None:
    status = volumes.get("v")
    assert status.io["errors"] == 0
    assert not [line for line in kernel_log.splitlines() if "I/O error" in line]


def kill_workers(volumes: Volumes, url: str, times: int) -> Figures:
    volume = volumes.attach(url, name="v")
    figures = Figures("worker killed: first read back")
    with under_load(volume) as (load, prober):
        pid = worker_of(volumes)
        for _ in range(times):
            pause()
            figures.seconds.append(prober.stall_since(kill(pid)))
            load.check()
            pid = worker_of(volumes, other_than=pid)
    assert volumes.get("v").restarts == times
    assert "SIGKILL" in volumes.get("v").last_death
    assert volumes.detach("v").clean
    return figures


def test_workers_are_killed(volumes: Volumes, disk_url: str) -> None:
    figures = kill_workers(volumes, disk_url, 10)
    print(figures)
    assert figures.percentile(0.9) < 2.0


@pytest.mark.soak
def test_workers_are_killed_many_times(volumes: Volumes, disk_url: str) -> None:
    figures = kill_workers(volumes, disk_url, KILLS)
    print(figures)
    assert figures.percentile(0.99) < 1.0
