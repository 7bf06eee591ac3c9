# SPDX-License-Identifier: Apache-2.0
"""A manager over a fake host whose workers are real processes that stand in for workers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fusefs.host import FakeHost
from fusefs.process.launch import StartedWorker, is_alive, start_worker
from fusefs.process.messages import StartDocument
from fusefs.spec import VolumeSpec
from fusefs.volume.manager import VolumeManager
from fusefs.volume.state import VolumeState, load_state

URL = "iscsi://127.0.0.1/iqn.2026-01.com.example:{}/1"


class Bench:
    """A manager over a fake host, its directories, and every worker that it started."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.host = FakeHost()
        self.workers: list[StartedWorker] = []
        self.mountpoint = base / "mnt"
        self.mountpoint.mkdir()
        self.manager = self.another_manager()

    def another_manager(self) -> VolumeManager:
        return VolumeManager(
            self.host,
            self.base / "run",
            self.base / "state",
            lock_timeout_s=0,
            launch=self.launch,
        )

    def launch(self, document: StartDocument, log: Path) -> StartedWorker:
        module = "tests.fusefs.volume.stand_in_worker"
        worker = start_worker(document, log, arguments=(module,))
        self.workers.append(worker)
        return worker

    def directory(self, name: str) -> Path:
        return self.base / "run" / "volumes" / name

    def file(self, name: str) -> str:
        return str(self.directory(name) / "fuse" / "lun")

    def state(self, name: str) -> VolumeState | None:
        return load_state(self.directory(name) / "state.json")

    def spec(self, name: str = "data", **changes: Any) -> VolumeSpec:
        changes.setdefault("url", URL.format(name))
        return VolumeSpec(name=name, **changes)

    def format(self, name: str = "data", fstype: str = "ext4") -> None:
        self.host.content(self.file(name)).fstype = fstype

    def assert_nothing_left(self) -> None:
        assert self.host.left_behind == []
        assert [worker for worker in self.workers if is_alive(worker.identity)] == []
        volumes = self.base / "run" / "volumes"
        assert not volumes.exists() or os.listdir(volumes) == []

    def kill_workers(self) -> None:
        for worker in self.workers:
            if is_alive(worker.identity):
                os.kill(worker.identity.pid, 9)
                os.waitpid(worker.identity.pid, 0)
