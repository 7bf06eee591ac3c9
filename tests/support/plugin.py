# SPDX-License-Identifier: Apache-2.0
"""``pyscsi-init serve --docker`` without an engine: a process of its own, spoken to by the test."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from . import processes
from .closing import Closing
from .plugin_client import PluginClient
from .source import ROOT

START_S = STOP_S = 100.0


class Plugin(Closing):
    """``with Plugin(directory) as plugin:`` starts it, and ends it and its volumes."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.socket = directory / "plugin.sock"
        self.run_dir = directory / "run"
        self.state_dir = directory / "state"
        self.log = directory / "plugin.log"
        self.docker_host = directory / "docker.sock"
        """Where the plugin looks for an engine."""
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start it."""
        self.start()

    @property
    def environment(self) -> dict[str, str]:
        """What it and every command on its volumes is given."""
        return processes.environment(
            PYSCSI_INIT_RUN_DIR=str(self.run_dir),
            PYSCSI_INIT_STATE_DIR=str(self.state_dir),
            TMPDIR=str(self.directory),
        )

    @property
    def pid(self) -> int:
        """The process id of the running plugin."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    def command(self, *options: str) -> list[str]:
        """The command line."""
        serve = [sys.executable, "-m", "fusefs.cli", "serve", "-v", "--docker", str(self.socket)]
        return [*serve, "--docker-host", f"unix://{self.docker_host}", *options]

    def start(self, *options: str, **variables: str) -> None:
        """Start it; it takes connections on return."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(*options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment | variables,
                cwd=ROOT,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while not self.listens():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the plugin did not start\n{self.log.read_text()}")
            time.sleep(0.02)

    def listens(self) -> bool:
        """Whether somebody takes connections on its socket."""
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(self.socket)) == 0

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it and wait for its end; returns its exit status."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(how)
        try:
            return process.wait(STOP_S)
        finally:
            process.kill()
            process.wait()

    def client(self) -> PluginClient:
        """A new connection to it, for ``with``."""
        return PluginClient(self.socket)

    def call(self, name: str, **values: Any) -> Any:
        """One call that must succeed; ``name`` without ``VolumeDriver.``."""
        with self.client() as client:
            return client.call(f"VolumeDriver.{name}", **values)

    def refused(self, name: str, **values: Any) -> str:
        """One call that must fail, and why."""
        with self.client() as client:
            return client.refused(f"VolumeDriver.{name}", **values)

    def status(self, name: str) -> dict[str, Any]:
        """The Status of a volume."""
        found = self.call("Get", Name=name)["Volume"]["Status"]
        assert isinstance(found, dict)
        return found

    def cli(self, *arguments: str) -> Any:
        """A command on its volumes that must succeed, with ``--json``."""
        done = subprocess.run(
            [sys.executable, "-m", "fusefs.cli", *arguments, "--json"],
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=self.environment,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def workers(self) -> dict[str, int]:
        """The worker of each volume that is attached."""
        return {each["name"]: each["worker_pid"] for each in self.cli("status")}

    def files(self) -> list[str]:
        """Everything of volumes that is in its directories, without the lock files."""
        found = []
        for top in (self.run_dir / "volumes", self.run_dir / "uses", self.run_dir / "docker"):
            for base, _, names in os.walk(top):
                found += [f"{base}/{name}" for name in names]
        return found

    def close(self) -> None:
        """End it, and take down what a failed test left."""
        self.stop()
        if self.files():
            for name in self.workers():
                self.cli("umount", name, "--force")
