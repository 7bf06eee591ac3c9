# SPDX-License-Identifier: Apache-2.0
"""A worker dies while a command takes its volume down: what may still be refused must not have cost
the volume its data path."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fusefs.errors import MountBusy
from fusefs.host import LinuxHost
from tests.e2e.conftest import Volumes
from tests.support.direct_io import until
from tests.support.filesystems import fsck_is_clean
from tests.support.kernel_log import KernelLog

pytestmark = [pytest.mark.root, pytest.mark.tgt]


def kill_before(
    volumes: Volumes, monkeypatch: pytest.MonkeyPatch, call: str, pid: int | None
) -> Callable[[], bool]:
    """The worker is killed just before the command first makes this call of the host; whether that
    has happened."""
    assert pid is not None
    real = getattr(LinuxHost, call)
    killed: list[int] = []

    def killing(self: LinuxHost, *args: Any, **kwargs: Any) -> Any:
        if not killed:
            killed.append(pid)
            os.kill(pid, signal.SIGKILL)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(LinuxHost, call, killing)
    return lambda: bool(killed)


def test_a_volume_that_is_in_use_keeps_its_data_path(
    volumes: Volumes, disk_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """umount is refused, and by then the worker is another one."""
    volume = volumes.mount(disk_url, name="v", format_if_blank=True)
    with KernelLog() as log, (Path(volume.mountpoint) / "file").open("wb", buffering=0) as file:
        killed = kill_before(volumes, monkeypatch, "mount_users", volume.worker_pid)
        with pytest.raises(MountBusy):
            volumes.umount("v")
        assert killed()
        file.write(b"still here")
        os.fsync(file.fileno())
        until(lambda: volumes.get("v").state == "mounted")
        log.check(volume.loop)
    assert volumes.get("v").restarts == 1
    assert volumes.umount("v").clean


@pytest.mark.parametrize("call", ["sync", "umount", "loop_detach"])
def test_what_is_written_out_reaches_the_target(
    volumes: Volumes,
    disk_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    """The successor goes on with it, and the end is as clean as it would have been."""
    volume = volumes.mount(disk_url, name="v", format_if_blank=True)
    (Path(volume.mountpoint) / "file").write_bytes(b"dirty" * 100_000)
    with KernelLog() as log:
        killed = kill_before(volumes, monkeypatch, call, volume.worker_pid)
        report = volumes.umount("v")
        assert killed()
        assert report.clean, report
        log.check(volume.loop)
    assert volumes.status() == []
    fsck_is_clean("ext4", tmp_path / "disk")
    again = volumes.mount(disk_url, name="again")
    assert (Path(again.mountpoint) / "file").read_bytes() == b"dirty" * 100_000
    assert volumes.umount("again").clean
