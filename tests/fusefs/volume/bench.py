# SPDX-License-Identifier: Apache-2.0
"""A manager over a fake host, with a real holder and zygote whose workers stand in for workers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio

from fusefs.host import FakeHost
from fusefs.process.holder_client import HolderClient
from fusefs.process.launch import StartedWorker
from fusefs.process.messages import StartDocument
from fusefs.process.pids import is_alive
from fusefs.spec import VolumeSpec
from fusefs.volume.manager import VolumeManager
from fusefs.volume.state import VolumeState, load_state
from tests.support import processes

URL = "iscsi://127.0.0.1/iqn.2026-01.com.example:{}/1"


class RecordingClient(HolderClient):
    """Keeps every worker that was started."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.started: list[StartedWorker] = []

    async def start(
        self, document: StartDocument, descriptors: Mapping[str, int], log: Path
    ) -> StartedWorker:
        worker = await super().start(document, descriptors, log)
        self.started.append(worker)
        return worker


class Bench:
    """A manager over a fake host, its directories, and every worker that it started."""

    def __init__(self, base: Path, run: str = "run", host: FakeHost | None = None) -> None:
        """Another ``run`` over the same ``base`` and ``host`` shares the state directory."""
        self.base = base
        self.run = base / run
        self.host = host or FakeHost()
        self.holder = RecordingClient(
            self.run, self.host, zygote="tests.fusefs.volume.stand_in_zygote"
        )
        self.workers = self.holder.started
        self.mountpoint = base / "mnt"
        self.mountpoint.mkdir(exist_ok=True)
        self.manager = self.another_manager()

    def another_manager(self, lock_timeout_s: float = 0) -> VolumeManager:
        return VolumeManager(
            self.host,
            self.run,
            self.base / "state",
            lock_timeout_s=lock_timeout_s,
            holder=self.holder,
        )

    def directory(self, name: str) -> Path:
        return self.run / "volumes" / name

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
        volumes = self.run / "volumes"
        assert not volumes.exists() or os.listdir(volumes) == []

    async def kill_workers(self) -> None:
        """For good: nobody follows them."""
        names = list((await self.holder.status()).volumes)
        async with contextlib.AsyncExitStack() as ending:
            # All at once: one that is not ending when it dies gets a successor.
            for name in names:
                await ending.enter_async_context(self.holder.ending(name))
            for worker in self.workers:
                if is_alive(worker.identity):
                    processes.end(worker.identity.pid)
            # The holder tells nobody when it has seen a death.
            while any(  # noqa: ASYNC110
                volume.is_followed for volume in (await self.holder.status()).volumes.values()
            ):
                await anyio.sleep(0.01)

    def clean_up(self) -> None:
        """End everything, whatever a test has left."""

        async def forget_all() -> None:
            for name in (await self.holder.status()).volumes:
                async with self.holder.ending(name):
                    await self.holder.forget(name)

        anyio.run(forget_all)
        for worker in self.workers:
            if is_alive(worker.identity):
                processes.end(worker.identity.pid)
