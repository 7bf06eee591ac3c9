# SPDX-License-Identifier: Apache-2.0
"""Ends of volumes that must not lose what could be saved, and writes that must not happen."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import IQN, Volumes
from tests.support import processes
from tests.support.requirements import require_module
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt]

MEBI = 1 << 20


def command(volumes: Volumes, *arguments: str) -> subprocess.Popen[str]:
    """The command line on these volumes."""
    return subprocess.Popen(
        [sys.executable, "-m", "fusefs.cli", *arguments],
        env=processes.environment(
            PYSCSI_INIT_RUN_DIR=str(volumes.run_dir), PYSCSI_INIT_STATE_DIR=str(volumes.state_dir)
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_signal_during_an_orderly_umount_loses_nothing(volumes: Volumes, tmp_path: Path) -> None:
    """The writing out takes longer than any grace: it is waited for all the same."""
    disk = tmp_path / "disk"
    disk.touch()
    with TgtServer(fault_on=disk) as tgt:
        tid = tgt.new_target(IQN)
        tgt.add_lun(tid, 1, disk, size_bytes=512 * MEBI)
        assert tgt.fault is not None
        volume = volumes.mount(tgt.url(tid, 1), name="v", fstype="ext4", format_if_blank=True)
        data = os.urandom(8 * MEBI)
        (Path(volume.mountpoint) / "file").write_bytes(data)
        tgt.fault.hold(0, 512 * MEBI)
        umount = command(volumes, "umount", "v")
        tgt.fault.wait_held()
        umount.send_signal(signal.SIGTERM)
        time.sleep(6.0)  # longer than what a cancelled call is granted while a volume comes up
        tgt.fault.release()
        _, told = umount.communicate(timeout=60)
        assert umount.returncode in (0, 143), told
        if volumes.status():
            volumes.umount("v")
        again = volumes.mount(tgt.url(tid, 1), name="v")
        assert (Path(again.mountpoint) / "file").read_bytes() == data
        volumes.umount("v")


def test_force_on_a_healthy_target_saves_what_it_can(volumes: Volumes, disk_url: str) -> None:
    volume = volumes.mount(disk_url, name="v", fstype="ext4", format_if_blank=True)
    data = os.urandom(8 * MEBI)
    (Path(volume.mountpoint) / "closed").write_bytes(data)
    with (Path(volume.mountpoint) / "open").open("w"):
        volumes.umount("v", force=True)
    again = volumes.mount(disk_url, name="v")
    assert (Path(again.mountpoint) / "closed").read_bytes() == data
    volumes.umount("v")


def test_a_dead_worker_is_said_to_have_lost_data(volumes: Volumes, disk_url: str) -> None:
    """With libfuse nobody follows it."""
    require_module("pyfuse3")
    volume = volumes.mount(
        disk_url, name="v", fstype="ext4", format_if_blank=True, fuse_channel="pyfuse3"
    )
    assert volume.worker_pid is not None
    os.kill(volume.worker_pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while volumes.get("v").state != "failed":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    umount = command(volumes, "umount", "v")
    _, told = umount.communicate(timeout=60)
    assert umount.returncode != 0
    assert "lost" in told
    assert volumes.status() == []


def test_copy_does_not_write_over_an_attached_volume(
    volumes: Volumes, disk_url: str, tmp_path: Path
) -> None:
    volumes.attach(disk_url, name="v")
    source = tmp_path / "source"
    source.write_bytes(os.urandom(MEBI))
    copy = command(volumes, "copy", "--overwrite", str(source), disk_url)
    _, told = copy.communicate(timeout=60)
    assert copy.returncode == 11, told
    assert "'v'" in told
    volumes.detach("v")


def test_two_mounts_on_one_directory_at_once(
    tgt: TgtServer, volumes: Volumes, tmp_path: Path
) -> None:
    tid = tgt.new_target(IQN)
    for lun in (1, 2):
        disk = tmp_path / f"disk{lun}"
        with disk.open("wb") as file:
            file.truncate(64 * MEBI)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True, timeout=60)
        tgt.add_lun(tid, lun, disk)
    directory = tmp_path / "one"
    directory.mkdir()
    results: list[int] = []

    def mount(lun: int) -> None:
        started = command(volumes, "mount", tgt.url(tid, lun), str(directory), "--name", f"v{lun}")
        started.communicate(timeout=60)
        results.append(started.returncode)

    threads = [threading.Thread(target=mount, args=(lun,)) for lun in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result == 0 for result in results) == [False, True]
    assert len(volumes.status()) == 1
    link = tmp_path / "link"
    link.symlink_to(directory)
    volumes.umount(str(link))
    assert volumes.status() == []
