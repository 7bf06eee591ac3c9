# SPDX-License-Identifier: Apache-2.0
"""What the demo wants of whatever runs its containers.

A container does its work, says so, and stays until it is removed, so that its mount table can be
looked at meanwhile.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from fusefs.host import MountEntry, mountinfo

MOUNT_POINT = "/mnt/iscsipd"
READY = "-- end of work --"
WORK_SECONDS = 60.0
ENDLESS = "exec sleep 86400"


class Running(ABC):
    """A container that has done its work and stays until it is removed."""

    name: str
    output: str
    pid: int

    def mounts(self) -> list[MountEntry]:
        """What its mount table says about the volume."""
        table = mountinfo.read(self.pid)
        return [entry for entry in table if entry.mountpoint == MOUNT_POINT]

    @abstractmethod
    async def inspect(self) -> str:
        """What the engine says about its mounts; empty where there is no engine to ask."""

    @abstractmethod
    async def remove(self) -> None:
        """End it, and remove it with its own file system. Again does nothing."""


class Engine(ABC):
    """Starts containers. Everything it starts is gone after ``close``."""

    kind: str

    @abstractmethod
    async def start(self) -> None:
        """Be ready.

        Raises:
            NotAllowed, DemoFailed: it cannot be used here.
        """

    @abstractmethod
    async def run(self, name: str, script: str, source: Path, *, read_only: bool) -> Running:
        """Start a container with ``source`` at MOUNT_POINT and wait until ``script`` is done.

        Raises:
            DemoFailed: the script failed, or took too long.
        """

    @abstractmethod
    async def close(self) -> None:
        """Remove everything. Again does nothing."""


def program(script: str) -> list[str]:
    return ["/bin/sh", "-c", f"set -eu\n{script}\necho '{READY}'\n{ENDLESS}"]
