# SPDX-License-Identifier: Apache-2.0
"""Volumes on a real tgt, with this host's own loop devices, filesystems and mounts."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import anyio
import pytest

from fusefs.errors import NoSuchVolume
from fusefs.host import LinuxHost
from fusefs.process.holder_client import HolderClient
from fusefs.spec import VolumeSpec
from fusefs.volume.manager import VolumeManager
from fusefs.volume.resize import ResizeReport
from fusefs.volume.status import VolumeStatus
from fusefs.volume.teardown import DetachReport
from pyscsi_init import Chap
from tests.support.tgt import TgtServer

T = TypeVar("T")
IQN = "iqn.2026-11.example:disk"
GIBI = 1 << 30


class Volumes:
    """A manager of its own, called from plain functions as a command line does."""

    def __init__(self, directory: Path, *, silence_s: float | None = None) -> None:
        self.run_dir = directory / "run"
        self.state_dir = directory / "state"
        host = LinuxHost()
        holder = HolderClient(self.run_dir, host, silence_s=silence_s)
        self.manager = VolumeManager(host, self.run_dir, self.state_dir, holder=holder)
        self.directory = directory
        self._mountpoints = 0

    def call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kw: Any) -> T:
        """Run one call on an event loop of its own."""

        async def main() -> T:
            return await function(*args, **kw)

        return anyio.run(main)

    def attach(self, url: str, chap: Chap | None = None, **spec: Any) -> VolumeStatus:
        """Attach a LUN."""
        return self.call(self.manager.attach, VolumeSpec(url=url, **spec), chap)

    def mount(self, url: str, chap: Chap | None = None, **spec: Any) -> VolumeStatus:
        """Mount a LUN on a new directory."""
        self._mountpoints += 1
        mountpoint = self.directory / f"mnt{self._mountpoints}"
        mountpoint.mkdir()
        return self.call(self.manager.mount, VolumeSpec(url=url, **spec), mountpoint, chap)

    def umount(self, name: str, *, force: bool = False) -> DetachReport:
        """Unmount and detach."""
        return self.call(self.manager.umount, name, force)

    def detach(self, name: str, *, force: bool = False) -> DetachReport:
        """Detach."""
        return self.call(self.manager.detach, name, force)

    def resize(self, name: str) -> ResizeReport:
        """Take over the LUN's size."""
        return self.call(self.manager.resize, name)

    def status(self) -> list[VolumeStatus]:
        """All volumes."""
        return self.call(self.manager.status)

    def get(self, name: str) -> VolumeStatus:
        """One volume."""
        return self.call(self.manager.get, name)

    def end_all(self) -> None:
        """What a failed test left behind."""
        for volume in self.status():
            try:
                self.umount(volume.name, force=True)
            except NoSuchVolume:
                continue


@pytest.fixture
def volumes(tmp_path: Path) -> Iterator[Volumes]:
    """The volumes of one test; all gone at its end."""
    made = Volumes(tmp_path)
    yield made
    made.end_all()


@pytest.fixture
def tgt() -> Iterator[TgtServer]:
    """A tgt on a free port of 127.0.0.1 and ::1."""
    with TgtServer(ipv6=True) as server:
        yield server


@pytest.fixture
def disk_url(tgt: TgtServer, tmp_path: Path) -> str:
    """The URL of a sparse 1 GiB LUN with 512-byte blocks."""
    tid = tgt.new_target(IQN)
    tgt.add_lun(tid, 1, tmp_path / "disk", size_bytes=GIBI)
    return tgt.url(tid, 1)
