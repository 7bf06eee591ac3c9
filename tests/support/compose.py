# SPDX-License-Identifier: Apache-2.0
"""docker-compose against a test's own Docker Engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .dockerd import DockerEngine
from .requirements import require


class Compose:
    """One project, from one file."""

    def __init__(self, engine: DockerEngine, file: Path, name: str, **variables: str) -> None:
        """``variables`` are what the file takes from the environment."""
        self._compose = require("docker-compose")
        self._engine = engine
        self._file = file
        self._name = name
        self._variables = variables

    def __call__(self, *arguments: str, **options: Any) -> str:
        """Run ``docker-compose`` and return its standard output; options as of
        ``DockerEngine.run``.

        Raises:
            DockerError: it ended with an error, or not in time.
        """
        return self._engine.run(
            *(self._compose, "--file", str(self._file), "--project-name", self._name),
            *("--ansi", "never", *arguments),
            env=self._variables,
            **options,
        )

    def container(self, service: str) -> str:
        """The id of a service's container; empty where there is none."""
        return self("ps", "--quiet", service).strip()

    def exec(self, service: str, *command: str, **options: Any) -> str:
        """Run a command in a service's container."""
        return self._engine.docker("exec", self.container(service), *command, **options)
