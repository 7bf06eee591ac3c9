# SPDX-License-Identifier: Apache-2.0
"""An engine that several tests share, the calls that it makes, and containers on a volume."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.e2e.docker.storage import Storage
from tests.support.dockerd import PLUGIN_SOCKET, DockerEngine
from tests.support.images import WORKER
from tests.support.plugin_client import PluginClient
from tests.support.tgt import Nexus

CALL = re.compile(r"(?:Plugin|VolumeDriver)\.(\w+) Name=(\S*) ID=(\S*) from")


@dataclass(frozen=True, slots=True)
class Call:
    """One call of an engine, as the plugin's log has it."""

    name: str
    volume: str
    id: str


class Everyday:
    """A Docker Engine with the plugin, and a tgt; each test has LUNs and volumes of its own."""

    def __init__(self, engine: DockerEngine, storage: Storage) -> None:
        self.engine, self.storage = engine, storage
        self._seen = 0
        self._count = 0

    def options(self, name: str) -> dict[str, object]:
        """A new blank LUN, as options of a volume."""
        target = self.storage.lun(name)
        return {"portal": self.storage.tgt.portal, "target": target, "lun": 1, "mkfs": "true"}

    def volume(self, **changes: object) -> str:
        """A new LUN and the volume that it is."""
        self._count += 1
        name = f"volume{self._count}"
        self.engine.create_volume(name, **{**self.options(name), **changes})
        return name

    def run(self, *options: str, script: str, check: bool = True) -> str:
        """``docker run --rm`` of a shell script."""
        given = ("--network", "none", *options, WORKER, "/bin/sh", "-ec", script)
        return self.engine.docker("run", "--rm", *given, check=check).strip()

    def start(self, name: str, *options: str, script: str = "exec sleep 1000") -> str:
        """``docker run --detach``."""
        given = ("--network", "none", "--init", *options, WORKER, "/bin/sh", "-ec", script)
        self.engine.docker("run", "--detach", "--name", name, *given)
        return name

    def remove(self, *names: str) -> None:
        """``docker rm --force``."""
        self.engine.docker("rm", "--force", *names)

    def sessions(self, volume: str) -> list[Nexus]:
        """Who is logged in to a volume's target."""
        tgt = self.storage.tgt
        return tgt.sessions(self._tid(volume))

    def wait_sessions(self, volume: str, count: int) -> None:
        """Wait until so many are."""
        self.storage.tgt.wait_sessions(count, self._tid(volume), timeout=30)

    def _tid(self, volume: str) -> int:
        targets = self.storage.tgt.targets
        return next(tid for tid, name in targets.items() if name.endswith(f":{volume}"))

    def calls(self) -> list[Call]:
        """The calls since this was asked last."""
        text = (self.engine.directory / "plugin.log").read_text()
        found = [Call(*match.groups()) for match in CALL.finditer(text)]
        new, self._seen = found[self._seen :], len(found)
        return new

    def client(self) -> PluginClient:
        """The plugin's socket, for ``with``, without an engine between."""
        return PluginClient(f"/proc/{self.engine.namespace.pid}/root{PLUGIN_SOCKET}")
