# SPDX-License-Identifier: Apache-2.0
"""Workers, zygote and holder are killed, hung and replaced under fio with verification, on tgt.

No I/O error anywhere, every block the newest, and figures of how long I/O stood still. That fio
finds a stale block is shown by tests/support/test_fio.py and, through a volume, at the end.
"""

from __future__ import annotations

import functools
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fusefs.volume.status import VolumeStatus
from tests.e2e import victims
from tests.e2e.conftest import Volumes
from tests.e2e.victims import holder_and_zygote
from tests.support import processes
from tests.support.direct_io import until
from tests.support.fio import VerifyFailed, fio_verify
from tests.support.stalls import Figures, Prober
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt]

Tell = Callable[[Figures], None]
MEBI = 1 << 20
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


def worker_of(volumes: Volumes, *, other_than: int | None = None) -> int:
    """The worker that serves, once it is another one."""
    return victims.serving_worker(volumes, "v", other_than=other_than)


def kill(pid: int, number: int = signal.SIGKILL) -> float:
    now = time.monotonic()
    os.kill(pid, number)
    return now


def pause() -> None:
    time.sleep(random.uniform(FIRST_GAP_S, LAST_GAP_S))


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


def kill_zygotes(volumes: Volumes, url: str, times: int) -> Figures:
    """The zygote and then a worker: the next zygote is there for it, in time or a little later."""
    volume = volumes.attach(url, name="v")
    figures = Figures("zygote killed, then the worker: first read back")
    with under_load(volume) as (load, prober):
        for _ in range(times):
            worker, (_, zygote) = worker_of(volumes), holder_and_zygote(volumes)
            assert prober.stall_since(kill(zygote)) < 1.0, "a zygote is in nobody's way"
            assert worker_of(volumes) == worker
            time.sleep(random.uniform(0, 1))
            figures.seconds.append(prober.stall_since(kill(worker)))
            load.check()
            worker_of(volumes, other_than=worker)
    assert volumes.detach("v").clean
    return figures


def is_held_by_another(volumes: Volumes, holder: int) -> bool:
    status = volumes.call(functools.partial(volumes.manager.holder.status, start=False))
    return status.pid not in (None, holder) and "v" in status.volumes


def kill_holders(volumes: Volumes, url: str, times: int) -> Figures:
    """The holder, and the worker when another one holds what it needs: who kills both at once ends
    the volume."""
    volume = volumes.attach(url, name="v")
    figures = Figures("holder killed, and the worker after it: first read back")
    with under_load(volume) as (load, prober):
        for _ in range(times):
            worker, (holder, zygote) = worker_of(volumes), holder_and_zygote(volumes)
            assert prober.stall_since(kill(holder)) < 1.0, "a holder is in nobody's way"
            # No command starts one, by asking the dying one: the zygote sees to it.
            until(lambda: not processes.is_alive(holder), 30)  # noqa: B023  (called at once)
            until(functools.partial(is_held_by_another, volumes, holder), 30)
            figures.seconds.append(prober.stall_since(kill(worker)))
            load.check()
            assert worker_of(volumes, other_than=worker) != worker
            assert holder_and_zygote(volumes)[0] != holder
            assert holder_and_zygote(volumes)[1] == zygote
    assert volumes.detach("v").clean
    return figures


def upgrade_workers(volumes: Volumes, url: str, times: int) -> Figures:
    volume = volumes.attach(url, name="v")
    figures = Figures("upgraded: pause")
    with under_load(volume) as (load, _):
        for number in range(times):
            pause()
            before = holder_and_zygote(volumes)
            zygote = volumes.call(volumes.manager.holder.renew_zygote)
            assert zygote != before[1]
            report = volumes.call(volumes.manager.upgrade, "v")
            figures.seconds.append(report.pause_s)
            load.check()
            assert report.new_pid == worker_of(volumes, other_than=report.old_pid)
            if number % 2:
                assert volumes.call(volumes.manager.holder.renew_holder) != before[0]
                assert holder_and_zygote(volumes)[1] == zygote
    status = volumes.get("v")
    assert (status.restarts, status.last_death) == (0, "")
    assert volumes.detach("v").clean
    return figures


def kill_targets(volumes: Volumes, tgt: TgtServer, url: str, times: int) -> Figures:
    """The target, which is back after a second."""
    volume = volumes.attach(url, name="v")
    figures = Figures("target killed, back after a second: first read back")
    with under_load(volume) as (load, prober):
        worker = worker_of(volumes)
        for _ in range(times):
            pause()
            figures.seconds.append(prober.stall_since(victims.target(volumes, tgt, "v")))
            load.check()
    assert volumes.get("v").worker_pid == worker
    assert volumes.get("v").io["errors"] == 0
    assert volumes.detach("v").clean
    return figures


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    """Figures are for whoever runs the tests, whether they pass or not."""

    def write(figures: Figures) -> None:
        with capsys.disabled():
            sys.stdout.write(f"\n{figures}\n")

    return write


def test_workers_are_killed(volumes: Volumes, disk_url: str, tell: Tell) -> None:
    figures = kill_workers(volumes, disk_url, 10)
    tell(figures)
    assert figures.percentile(0.9) < 2.0


def test_zygotes_are_killed(volumes: Volumes, disk_url: str, tell: Tell) -> None:
    tell(kill_zygotes(volumes, disk_url, 2))


def test_holders_are_killed(volumes: Volumes, disk_url: str, tell: Tell) -> None:
    tell(kill_holders(volumes, disk_url, 2))


def test_targets_are_killed(volumes: Volumes, tgt: TgtServer, disk_url: str, tell: Tell) -> None:
    tell(kill_targets(volumes, tgt, disk_url, 2))


def test_workers_are_upgraded(volumes: Volumes, disk_url: str, tell: Tell) -> None:
    tell(upgrade_workers(volumes, disk_url, 3))


def test_everything_is_killed_but_the_worker(volumes: Volumes, disk_url: str) -> None:
    """Holder and zygote at once: the next command starts them, and they find the worker."""
    volume = volumes.attach(disk_url, name="v")
    with under_load(volume) as (_, prober):
        worker, (holder, zygote) = worker_of(volumes), holder_and_zygote(volumes)
        kill(zygote)
        kill(holder)
        until(lambda: not processes.is_alive(holder) and not processes.is_alive(zygote), 30)
        assert volumes.get("v").worker_pid == worker
        prober.stall_since(kill(worker))
        assert volumes.get("v").restarts == 1
    assert volumes.detach("v").clean


def test_a_hung_worker_is_replaced(tgt: TgtServer, tmp_path: Path, disk_url: str) -> None:
    """Stopped, it holds the descriptor and answers nothing; its heartbeat is missed."""
    volumes = Volumes(tmp_path, silence_s=2.0)
    try:
        volume = volumes.attach(disk_url, name="v")
        with under_load(volume) as (_, prober):
            worker = worker_of(volumes)
            stall = prober.stall_since(kill(worker, signal.SIGSTOP))
            assert 1.0 < stall < 10.0
            assert worker_of(volumes, other_than=worker)
        assert "did not turn" in volumes.get("v").last_death
        assert not processes.is_alive(worker)
        assert volumes.detach("v").clean
    finally:
        volumes.end_all()


def test_nothing_of_ours_is_left_with_the_last_volume(volumes: Volumes, disk_url: str) -> None:
    volumes.attach(disk_url, name="v")
    pids = [worker_of(volumes), *holder_and_zygote(volumes)]
    assert volumes.detach("v").clean
    assert [pid for pid in pids if processes.is_alive(pid)] == []


def test_the_oracle_finds_a_stale_block_through_a_volume(
    volumes: Volumes, disk_url: str, tmp_path: Path
) -> None:
    """Put in by hand under the target while fio verifies: without this the tests above prove
    nothing."""
    volume = volumes.attach(disk_url, name="v")
    stop = threading.Event()
    disk = os.open(tmp_path / "disk", os.O_RDWR)

    def put_back() -> None:
        """Keep the first content of a block and put it back for ever."""
        stale = b""
        while not stop.is_set():
            block = os.pread(disk, 4096, 0)
            if not stale and any(block):
                stale = block
            elif stale:
                os.pwrite(disk, stale, 0)

    thread = threading.Thread(target=put_back)
    thread.start()
    try:
        with pytest.raises(VerifyFailed):
            fio_verify(volume.loop, size=4 * MEBI, bs="4k", iodepth=16, loops=4)
    finally:
        stop.set()
        thread.join()
        os.close(disk)
    volumes.detach("v")


# -- long ------------------------------------------------------------------------------------------


@pytest.mark.soak
def test_workers_are_killed_many_times(volumes: Volumes, disk_url: str, tell: Tell) -> None:
    figures = kill_workers(volumes, disk_url, KILLS)
    tell(figures)
    assert figures.percentile(0.99) < 3.0


@pytest.mark.soak
@pytest.mark.parametrize("what", [kill_zygotes, kill_holders, upgrade_workers])
def test_the_others_are_killed_many_times(
    volumes: Volumes, disk_url: str, tell: Tell, what: Callable[[Volumes, str, int], Figures]
) -> None:
    tell(what(volumes, disk_url, OTHERS))


@pytest.mark.soak
def test_targets_are_killed_many_times(
    volumes: Volumes, tgt: TgtServer, disk_url: str, tell: Tell
) -> None:
    tell(kill_targets(volumes, tgt, disk_url, OTHERS))
