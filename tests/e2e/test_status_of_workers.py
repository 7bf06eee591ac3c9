# SPDX-License-Identifier: Apache-2.0
"""What ``status`` says of a volume whose worker hangs, or is another one than before."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.e2e.conftest import Volumes
from tests.support.direct_io import BLOCK, until, write_direct

pytestmark = [pytest.mark.root, pytest.mark.tgt]


def test_a_worker_that_does_not_answer_has_not_failed(tmp_path: Path, disk_url: str) -> None:
    """It is killed and followed when its time is up; the volume is not lost, and I/O waits."""
    volumes = Volumes(tmp_path, silence_s=300.0)
    try:
        pid = volumes.attach(disk_url, name="v").worker_pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            status = volumes.get("v")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert (status.state, status.worker_pid) == ("recovering", pid)
        assert "no answer" in status.last_error
        status = volumes.get("v")
        assert (status.state, status.last_error) == ("attached", "")
    finally:
        volumes.end_all()


def test_nobody_claims_that_another_workers_writes_were_flushed(
    volumes: Volumes, disk_url: str
) -> None:
    volume = volumes.attach(disk_url, name="v")
    write_direct(volume.loop, 0, b"1" * BLOCK)
    assert volumes.get("v").io["unflushed_writes"] >= 1
    pid = volumes.get("v").worker_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: volumes.get("v").worker_pid not in (None, pid))
    until(lambda: volumes.get("v").state == "attached")
    assert volumes.get("v").io["unflushed_writes"] is None
    descriptor = os.open(volume.loop, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    assert volumes.get("v").io["unflushed_writes"] == 0
    assert volumes.detach("v").clean
