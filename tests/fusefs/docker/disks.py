# SPDX-License-Identifier: Apache-2.0
"""A tgt whose disks are made when they are asked for, each the only one of its target.

So a session at the target is a session of the volume on that disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.support.closing import Closing
from tests.support.tgt import Nexus, TgtServer

SIZE = 64 << 20
IQN = "iqn.2026-01.com.example"


@dataclass(frozen=True, slots=True)
class OneDisk:
    """A target with one disk."""

    tgt: TgtServer
    tid: int
    path: Path

    @property
    def options(self) -> dict[str, str]:
        """The options that name it."""
        return {"portal": self.tgt.portal, "target": self.tgt.targets[self.tid], "lun": "1"}

    @property
    def formatted(self) -> dict[str, str]:
        """The same, and it may be formatted."""
        return {**self.options, "mkfs": "true"}

    def sessions(self) -> list[Nexus]:
        """Who is logged in."""
        return self.tgt.sessions(self.tid)

    def wait_sessions(self, count: int) -> None:
        """Wait until so many are."""
        self.tgt.wait_sessions(count, self.tid, timeout=20)


class Disks(Closing):
    """``with Disks(directory) as disks:`` then ``disks.new()``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.tgt = TgtServer()

    def begin(self) -> None:
        """Start tgt."""
        self.tgt.start()

    def close(self) -> None:
        """End it."""
        self.tgt.close()

    def new(self, *, size_bytes: int = SIZE) -> OneDisk:
        """One more target with one blank disk."""
        number = len(self.tgt.targets) + 1
        tid = self.tgt.new_target(f"{IQN}:disk{number}")
        path = self.directory / f"disk{number}"
        self.tgt.add_lun(tid, 1, path, size_bytes=size_bytes, params={"scsi_sn": f"disk{number}"})
        return OneDisk(self.tgt, tid, path)
