# SPDX-License-Identifier: Apache-2.0
"""A real holder with a real zygote whose workers serve a file in the place of a LUN."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio

from fusefs.fuse import RequestSlots
from fusefs.host import LinuxHost
from fusefs.process.client import ControlClient
from fusefs.process.exchange import HeldFacts
from fusefs.process.holder_client import HolderClient
from fusefs.process.launch import StartedWorker, signal_and_wait
from fusefs.process.messages import StartDocument
from fusefs.spec import VolumeSpec

RAM = "tests.fusefs.process.ram_zygote"
AUDITED = "tests.fusefs.process.audited_zygote"
URL = "iscsi://127.0.0.1/iqn.2026-01.com.example:ram/1"


class Running:
    """A worker that serves, and the directory it has."""

    def __init__(self, worker: StartedWorker, directory: Path, facts: dict[str, Any]) -> None:
        self.identity = worker.identity
        self.facts = facts
        self.directory = directory
        self.fuse = directory / "fuse"
        self.file = self.fuse / "lun"
        self.log = directory / "log"
        self.client = ControlClient(directory, directory.name)


class Held:
    """A holder, and whatever it holds; nothing is left at the end."""

    def __init__(self, base: Path, zygote: str = RAM, *, silence_s: float | None = None) -> None:
        self.base = base
        self.run = base / "run"
        (self.run / "volumes").mkdir(parents=True)
        self.client = HolderClient(self.run, LinuxHost(), zygote=zygote, silence_s=silence_s)
        self.started: list[StartedWorker] = []

    def paths(self, name: str) -> Path:
        return self.run / "volumes" / name

    async def start(
        self, name: str = "v", fuse_directory: str = "fuse", **spec: Any
    ) -> StartedWorker:
        """As the manager does it."""
        directory = self.paths(name)
        (directory / "fuse").mkdir(mode=0o700, parents=True, exist_ok=True)
        (directory / "state.json").write_text(json.dumps({"spec": {"name": name}}))
        document = StartDocument(
            spec=VolumeSpec(**{"name": name, "url": URL, **spec}),
            chap=None,
            isid=bytes.fromhex("800001020003"),
            directory=str(directory),
            fuse_directory=str(directory / fuse_directory),
            state_directory=str(self.base / "state"),
            deadline_s=30,
        )
        with contextlib.ExitStack() as ours:
            descriptors = {"fuse": LinuxHost().open_fuse()}
            ours.callback(os.close, descriptors["fuse"])
            if document.spec.fuse_channel == "native":
                slots = RequestSlots.create()
                ours.callback(slots.close)
                descriptors["slots"] = slots.fd
            worker = await self.client.start(document, descriptors, directory / "log")
        self.started.append(worker)
        return worker

    async def serve(self, name: str = "v", **spec: Any) -> Running:
        worker = await self.start(name, **spec)
        facts = await worker.wait_ready(30)
        return Running(worker, self.paths(name), facts)

    async def facts(self, name: str = "v") -> HeldFacts:
        return (await self.client.status()).volumes[name]

    async def pids(self) -> tuple[int, int]:
        """Holder and zygote, once both are there."""
        while True:
            status = await self.client.status()
            if status.pid and status.zygote_pid:
                return status.pid, status.zygote_pid
            await anyio.sleep(0.02)

    async def serves(self, name: str = "v", *, other_than: int = 0) -> int:
        """The worker, once it is another one and serves."""

        async def there() -> bool:
            facts = await self.facts(name)
            worker = facts.worker
            return facts.state == "serving" and worker is not None and worker.pid != other_than

        await eventually(there)
        worker = (await self.facts(name)).worker
        assert worker is not None
        return worker.pid

    async def __aenter__(self) -> Held:
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            for name, facts in (await self.client.status(start=False)).volumes.items():
                async with self.client.ending(name):
                    if facts.worker is not None:
                        await signal_and_wait(facts.worker, signal.SIGKILL, 10)
                    await in_thread(unmount, self.paths(name) / "fuse")
                    await self.client.forget(name)
            for worker in self.started:
                worker.close()
                await signal_and_wait(worker.identity, signal.SIGKILL, 10)
            for directory in (self.run / "volumes").iterdir():
                await in_thread(unmount, directory / "fuse")
                await self.client.forget(directory.name)


def unmount(directory: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        while LinuxHost().umount(str(directory), lazy=True):
            pass


async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
    return await anyio.to_thread.run_sync(function, *arguments)


async def eventually(condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(30):
        while not await condition():  # noqa: ASYNC110  (another process tells nobody)
            await anyio.sleep(0.02)


def write(path: Path, offset: int, data: bytes) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.pwrite(descriptor, data, offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path, offset: int, length: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, length, offset)
    finally:
        os.close(descriptor)
