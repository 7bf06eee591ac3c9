# SPDX-License-Identifier: Apache-2.0
"""This host with a real tgt: a manager, a disk, and helpers that wait for other processes."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio

from fusefs.host import LinuxHost
from fusefs.spec import VolumeSpec
from fusefs.volume.manager import VolumeManager
from tests.support import processes
from tests.support.tgt import TgtServer

SIZE = 64 << 20
IQN = "iqn.2026-01.com.example:disk"


class Node:
    """A tgt with one disk, and a manager with directories of its own."""

    def __init__(self, base: Path, tgt: TgtServer) -> None:
        self.base = base
        self.tgt = tgt
        self.tid = tgt.new_target(IQN)
        self.disk = base / "disk"
        tgt.add_lun(self.tid, 1, self.disk, size_bytes=SIZE)
        self.mountpoint = base / "mnt"
        self.mountpoint.mkdir()
        self.manager = VolumeManager(LinuxHost(), base / "run", base / "state", lock_timeout_s=0)

    def spec(self, name: str = "data", **changes: Any) -> VolumeSpec:
        changes.setdefault("url", self.tgt.url(self.tid, 1))
        return VolumeSpec(name=name, **changes)

    def directory(self, name: str = "data") -> Path:
        return self.base / "run" / "volumes" / name

    def assert_nothing_left(self) -> None:
        volumes = self.base / "run" / "volumes"
        assert not volumes.exists() or os.listdir(volumes) == []
        with open("/proc/self/mountinfo") as table:
            assert str(self.base) not in table.read()
        assert all(str(self.base) not in d.backing_file for d in LinuxHost().loop_list())

    def clean_up(self) -> None:
        """After a test that failed: whatever there is goes."""

        async def end_all() -> None:
            for status in await self.manager.status():
                with contextlib.suppress(Exception):
                    await self.manager.detach(status.name, force=True)

        anyio.run(end_all)


async def in_thread(function: Any, *arguments: Any) -> Any:
    """Files of a volume are touched in threads: its worker is another process, but a slow one."""
    return await anyio.to_thread.run_sync(function, *arguments)


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float = 20) -> None:
    """Other processes tell nobody when they are so far: look again and again."""
    with anyio.fail_after(seconds):
        while not await condition():  # noqa: ASYNC110
            await anyio.sleep(0.02)


async def ended(pid: int) -> None:
    assert await in_thread(processes.wait_exit, pid, 20)


def make_ext4(disk: Path) -> None:
    subprocess.run(["mkfs.ext4", "-q", "-F", str(disk)], check=True)
