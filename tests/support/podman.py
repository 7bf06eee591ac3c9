# SPDX-License-Identifier: Apache-2.0
"""Podman with the same plugin socket as a test's Docker Engine, and nothing of the machine's own.

It is no daemon: each command starts a container or ends one by itself, in the engine's mount
namespace, with storage, locks and configuration in a directory of the test.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .closing import Closing
from .dockerd import PLUGIN, PLUGIN_SOCKET, DockerEngine, DockerError
from .requirements import require

# Limits and a cgroup manager that a machine without systemd has too.
CONFIGURATION = f"""\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[engine.volume_plugins]
"{PLUGIN}" = "{PLUGIN_SOCKET}"
"""
POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}\n'


class Podman(Closing):
    """``with Podman(engine) as podman:`` then ``podman.podman("run", ...)``."""

    def __init__(self, engine: DockerEngine) -> None:
        self._podman, _ = require("podman"), require("runc")
        require("conmon")
        self._engine = engine
        self.directory = engine.directory / "podman"

    def begin(self) -> None:
        """Write its configuration."""
        self.directory.mkdir()
        (self.directory / "containers.conf").write_text(CONFIGURATION)
        (self.directory / "policy.json").write_text(POLICY)

    def podman(self, *arguments: str, **options: Any) -> str:
        """Run ``podman`` and return its standard output; options as of ``DockerEngine.run``.

        Raises:
            DockerError: it ended with an error, or not in time.
        """
        here = self.directory
        return self._engine.run(
            *(self._podman, "--root", f"{here}/root", "--runroot", "/run/podman"),
            *("--tmpdir", "/run/podman-tmp", "--runtime", "runc"),
            *arguments,
            env={
                "CONTAINERS_CONF": f"{here}/containers.conf",
                "XDG_RUNTIME_DIR": "/run",
                "XDG_CONFIG_HOME": str(here),
            },
            **options,
        )

    def import_image(self, archive: Path, name: str, changes: Sequence[str] = ()) -> str:
        """Make an image of a tar archive; ``changes`` are lines of a Dockerfile."""
        options = [text for change in changes for text in ("--change", change)]
        self.podman("import", *options, str(archive), name)
        return name

    def close(self) -> None:
        """Remove its containers and unmount its storage."""
        with contextlib.suppress(DockerError):
            self.podman("rm", "--all", "--force", "--time", "0")
