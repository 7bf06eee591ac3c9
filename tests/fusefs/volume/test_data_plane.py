# SPDX-License-Identifier: Apache-2.0
"""A data plane that cannot have a holder at once does not end: its workers would end with it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import anyio
import pytest

from fusefs.host import LinuxHost
from fusefs.process import holder_client, places
from fusefs.process.holder_client import HolderClient
from fusefs.volume import data_plane
from fusefs.volume.data_plane import DataPlane
from fusefs.volume.manager import VolumeManager
from tests.support.logs import ExpectLogs
from tests.support.waiting import until

pytestmark = pytest.mark.root


def test_a_lost_holder_that_does_not_come_up_is_tried_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    expect_logs: ExpectLogs,
) -> None:
    expect_logs("starting the next")
    expect_logs("trying again")
    monkeypatch.setattr(holder_client, "TAKE_OVER_SECONDS", 0.5)
    monkeypatch.setattr(data_plane, "LOST_SECONDS", 0.0)
    monkeypatch.setattr(data_plane, "LOOK_SECONDS", 0.1)
    host = LinuxHost()
    holder = HolderClient(tmp_path / "run", host, tended_by="ours")
    manager = VolumeManager(host, tmp_path / "run", tmp_path / "state", holder=holder)
    plane = DataPlane(manager)

    async def main() -> None:
        await anyio.to_thread.run_sync(manager.directories.prepare)
        lock = os.open(tmp_path / "run" / places.LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)  # another one holds, or is about to end
        async with anyio.create_task_group() as group:
            group.start_soon(plane.tend)
            await until(lambda: "trying again" in caplog.text, 60)
            os.close(lock)
            with anyio.fail_after(60):
                while await holder.tender() != "ours":  # noqa: ASYNC110  (a process tells nobody)
                    await anyio.sleep(0.05)
            group.cancel_scope.cancel()
        await plane.leave()

    anyio.run(main)
