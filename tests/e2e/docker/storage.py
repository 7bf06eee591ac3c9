# SPDX-License-Identifier: Apache-2.0
"""LUNs of a tgt as volumes of a Docker Engine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.support.dockerd import PLUGIN, DockerEngine
from tests.support.tgt import TgtServer

MEBI = 1 << 20
SESSIONS_S = 30.0


@dataclass(slots=True)
class Storage:
    """Each LUN has a target of its own, as volumes of storage arrays often have."""

    tgt: TgtServer
    directory: Path

    def lun(self, name: str, size_bytes: int = 64 * MEBI) -> str:
        """Make a LUN; returns the name of its target."""
        iqn = f"iqn.2026-11.example:{name}"
        tid = self.tgt.new_target(iqn)
        self.tgt.add_lun(tid, 1, self.directory / f"{name}.disk", size_bytes=size_bytes)
        return iqn

    def options(self, target: str, portal: str = "") -> dict[str, str]:
        """The options of a volume that is this LUN."""
        where = portal or self.tgt.portal
        return {"portal": where, "target": target, "lun": "1", "fstype": "ext4", "mkfs": "true"}

    def mount_options(self, target: str) -> str:
        """The same as ``docker run --mount`` takes them, which makes the volume on the way."""
        given = [f"volume-opt={key}={value}" for key, value in self.options(target).items()]
        return ",".join(["", f"volume-driver={PLUGIN}", *given])

    def volume(
        self, engine: DockerEngine, name: str, *, portal: str = "", size_bytes: int = 64 * MEBI
    ) -> str:
        """Make a LUN and, by ``docker volume create``, the volume that it is."""
        return engine.create_volume(name, **self.options(self.lun(name, size_bytes), portal))

    def disk(self, name: str) -> Path:
        """The file behind a LUN."""
        return self.directory / f"{name}.disk"

    def check_all_is_gone(self, engine: DockerEngine) -> None:
        """No container uses a volume any more: nothing of any is left, here and at the target.

        Raises:
            AssertionError: it names what is left.
        """
        engine.check_nothing_left()
        self.tgt.wait_sessions(0, timeout=SESSIONS_S)
