# SPDX-License-Identifier: Apache-2.0
"""A volume whose real target goes away: for a while, for too long, or to come back as another."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.conftest import IQN, Volumes
from tests.support.direct_io import BLOCK, Background, read_direct, until, write_direct
from tests.support.filesystems import make_filesystem
from tests.support.fio import fio_verify
from tests.support.kernel_log import KernelLog
from tests.support.requirements import require
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt]

MEBI = 1 << 20
ATTENTIVE = {"noop_interval": 1.0, "noop_timeout": 1.0, "login_timeout": 2.0}
"""A target that is silent is found within two seconds."""

ABSENCES = [
    pytest.param("killed", 5.0, id="killed"),
    pytest.param("silent", 6.0, id="silent"),
    pytest.param("killed", 60.0, id="killed-60s", marks=pytest.mark.soak),
    pytest.param("silent", 60.0, id="silent-60s", marks=pytest.mark.soak),
]


def disk_of(tgt: TgtServer, path: Path, size: int = 64 * MEBI) -> str:
    """The URL of a LUN over ``path``."""
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, path, size_bytes=size)
    return tgt.url(tid, 1)


@pytest.mark.parametrize(("how", "seconds"), ABSENCES)
def test_a_load_waits_for_its_target(
    tgt: TgtServer, volumes: Volumes, tmp_path: Path, how: str, seconds: float
) -> None:
    """fio is in the middle of its writes, waits, and finds every block as it wrote it."""
    volume = volumes.attach(disk_of(tgt, tmp_path / "disk"), name="v", settings=ATTENTIVE)
    with KernelLog() as log:
        verify = partial(fio_verify, size=48 * MEBI, bs="4k", iodepth=32, loops=4)
        load = Background(partial(verify, volume.loop, timeout=seconds + 100))
        until(lambda: volumes.get("v").io["bytes_written"] > 4 * MEBI)
        if how == "killed":
            tgt.kill()
            time.sleep(seconds)  # the absence itself: real time of a real target
            done = volumes.get("v").io
            assert volumes.get("v").state == "recovering"
            tgt.start()
        else:
            with tgt.stopped():
                time.sleep(seconds)
                done = volumes.get("v").io
                assert volumes.get("v").state == "recovering"
        assert load.running
        assert done["in_flight"] > 0
        load.join(90)
        log.check(volume.loop)
    after = volumes.get("v")
    assert after.state == "attached"
    assert after.io["errors"] == 0
    assert after.recoveries >= 1
    volumes.detach("v")
    tgt.wait_sessions(0)


def test_a_worker_that_dies_while_its_target_is_away(
    tgt: TgtServer, volumes: Volumes, tmp_path: Path
) -> None:
    """Its successor has never seen the target; it keeps the load waiting until it has."""
    volume = volumes.attach(disk_of(tgt, tmp_path / "disk"), name="v", settings=ATTENTIVE)
    with KernelLog() as log:
        verify = partial(fio_verify, size=24 * MEBI, bs="4k", iodepth=32, loops=3)
        load = Background(partial(verify, volume.loop))
        until(lambda: volumes.get("v").io["bytes_written"] > 4 * MEBI)
        tgt.kill()
        until(lambda: volumes.get("v").state == "recovering")
        pids = {volume.worker_pid}
        for _ in range(2):
            pid = volumes.get("v").worker_pid
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            until(lambda: volumes.get("v").worker_pid not in (None, *pids), 20)
            pids.add(volumes.get("v").worker_pid)
            # It serves already, in the place of the target.
            until(lambda: volumes.get("v").io.get("in_flight"), 20)
        assert volumes.get("v").state == "recovering"
        assert load.running
        tgt.start()
        load.join(60)
        log.check(volume.loop)
    after = volumes.get("v")
    assert after.state == "attached"
    assert after.io["errors"] == 0
    volumes.detach("v")


@pytest.mark.parametrize(
    "seconds", [pytest.param(1.0, id="1s"), pytest.param(5.0, id="5s", marks=pytest.mark.soak)]
)
def test_fail_after_that_time_and_come_back(
    tgt: TgtServer, volumes: Volumes, tmp_path: Path, seconds: float
) -> None:
    volume = volumes.attach(
        disk_of(tgt, tmp_path / "disk"), name="v", on_disconnect=f"fail-after={seconds:g}"
    )
    write_direct(volume.loop, 0, b"1" * BLOCK)
    for call in (
        partial(read_direct, volume.loop, 0),
        partial(write_direct, volume.loop, BLOCK, b"2" * BLOCK),
    ):
        tgt.kill()
        began = time.monotonic()
        with pytest.raises(OSError, match="Input/output") as caught:
            call()
        took = time.monotonic() - began
        assert caught.value.errno == errno.EIO
        assert seconds - 0.2 < took < seconds + 1.5
        # From now on nothing waits.
        began = time.monotonic()
        with pytest.raises(OSError, match="Input/output"):
            call()
        assert time.monotonic() - began < 0.5
        assert "recovering" in volumes.get("v").state
        tgt.start()
        until(lambda: volumes.get("v").state == "attached")
        assert read_direct(volume.loop, 0) == b"1" * BLOCK
        write_direct(volume.loop, BLOCK, b"3" * BLOCK)
    assert read_direct(volume.loop, BLOCK) == b"3" * BLOCK
    volumes.detach("v")


def ext4(path: Path) -> None:
    """An ext4 of its own, with its own UUID."""
    with path.open("wb") as file:
        file.truncate(64 * MEBI)
    make_filesystem("ext4", path)


def gpt(path: Path) -> None:
    """A partition table, with its own UUID."""
    with path.open("wb") as file:
        file.truncate(64 * MEBI)
    subprocess.run(
        [require("sfdisk"), "-q", str(path)], input="label: gpt\n,\n", text=True, check=True
    )


@pytest.mark.parametrize("content", [ext4, gpt])
def test_another_disk_at_the_same_place_is_refused_and_never_written(
    tgt: TgtServer, volumes: Volumes, tmp_path: Path, content: object
) -> None:
    """Same target name, same LUN, same identifiers, which are tgt's own: another disk."""
    assert callable(content)
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first, second):
        content(path)
    before = second.read_bytes()
    assert before != first.read_bytes()
    volume = volumes.attach(disk_of(tgt, first), name="v")
    offset = 40 * MEBI
    write_direct(volume.loop, offset, b"1" * BLOCK)
    port = tgt.port
    tgt.kill()
    waiting = Background(write_direct, volume.loop, offset, b"2" * BLOCK)
    until(lambda: volumes.get("v").state == "recovering")
    with TgtServer(port=port) as other:
        disk_of(other, second)
        with pytest.raises(OSError, match="Input/output"):
            waiting.join()
        for call in (
            partial(read_direct, volume.loop, 0),
            partial(write_direct, volume.loop, 0, b"3" * BLOCK),
        ):
            with pytest.raises(OSError, match="Input/output"):
                call()
        told = volumes.get("v")
        assert told.state == "failed"
        assert "another" in told.last_error
        assert "another" in str(volumes.detach("v"))
        other.wait_sessions(0)
    assert second.read_bytes() == before
    assert volumes.status() == []


def test_a_mounted_filesystem_never_reaches_another_disk(
    tgt: TgtServer, volumes: Volumes, tmp_path: Path
) -> None:
    """Its journal and its page cache are what must not land there."""
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first, second):
        ext4(path)
    before = second.read_bytes()
    volume = volumes.mount(disk_of(tgt, first), name="v")
    file = Path(volume.mountpoint) / "file"
    file.write_bytes(b"dirty" * 100_000)
    port = tgt.port
    tgt.kill()
    with TgtServer(port=port) as other:
        disk_of(other, second)
        synced = subprocess.run(
            ["sync", str(file)], capture_output=True, text=True, check=False, timeout=60
        )
        assert synced.returncode != 0
        assert "another" in volumes.get("v").last_error
        volumes.umount("v")
    assert second.read_bytes() == before
    assert volumes.status() == []


def test_a_disk_that_grew_while_away_is_accepted(
    tgt: TgtServer, volumes: Volumes, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    ext4(disk)
    volume = volumes.attach(disk_of(tgt, disk), name="v")
    offset = 40 * MEBI
    tgt.kill()
    waiting = Background(write_direct, volume.loop, offset, b"2" * BLOCK)
    until(lambda: volumes.get("v").state == "recovering")
    with disk.open("r+b") as file:
        file.truncate(96 * MEBI)
    tgt.start()
    waiting.join()
    assert read_direct(volume.loop, offset) == b"2" * BLOCK
    until(lambda: volumes.get("v").size_bytes == 96 * MEBI)
    assert Path(volume.file).stat().st_size == 96 * MEBI
    assert volumes.get("v").state == "attached"
    assert volumes.get("v").io["errors"] == 0
    volumes.detach("v")
