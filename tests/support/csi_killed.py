# SPDX-License-Identifier: Apache-2.0
"""The CSI driver, killed at its Nth step; and the next one, on the same directories, at once.

A helper has everything imported and forks a driver each time, so that a start costs milliseconds.
What a step is, is told in tests/fusefs/volume/crashing.py: each change of a file below the test's
directory, each call that changes the host, before and after it, each request to the holder. Only
the driver itself is killed: holder, zygote and worker are no processes of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio

from fusefs.csi.server import CsiServer
from fusefs.volume.manager import VolumeManager
from tests.fusefs.volume.crashing import SteppedHolder, Steps, stepped_host
from tests.support import processes
from tests.support.csi_driver import Driver
from tests.support.source import ROOT


class WrittenSteps(Steps):
    """Each step is written down before it counts, for whoever survives."""

    def __init__(self, base: str, at: int) -> None:
        super().__init__("", base, at, "self")
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(f"{base}/steps", flags, 0o600)

    def hit(self, name: str) -> None:
        if self._armed and "csi.sock" not in name:
            os.write(self._file, f"{name}\n".encode())
            super().hit(name)


class KilledDriver(Driver):
    """``start(at=N)`` runs a driver that kills itself at its Nth step; 0 never does."""

    def begin(self) -> None:
        with self.log.open("ab") as log:
            self._helper = subprocess.Popen(
                [sys.executable, "-m", "tests.support.csi_killed"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**self._environment, "GRPC_ENABLE_FORK_SUPPORT": "0"},
                cwd=ROOT,
                text=True,
            )
        self._runs = False
        self.start()

    def start(self, at: int = 0) -> None:
        self._ask({"do": "start", "base": str(self.base), "at": at})
        self._runs = True
        self.await_answers()

    def _died(self) -> bool:
        return False

    def _ask(self, request: dict[str, object]) -> int:
        assert self._helper.stdin is not None
        assert self._helper.stdout is not None
        self._helper.stdin.write(json.dumps(request) + "\n")
        self._helper.stdin.flush()
        return int(self._helper.stdout.readline())

    def kill(self) -> None:
        if self._runs:
            self._ask({"do": "kill"})
            self._runs = False

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for its own end; the signal."""
        status = self._ask({"do": "wait"})
        self._runs = False
        return os.WTERMSIG(status)

    def steps(self) -> list[str]:
        """The names of all steps so far."""
        path = self.base / "steps"
        return path.read_text().splitlines() if path.exists() else []

    def close(self) -> None:
        self.kill()
        assert self._helper.stdin is not None
        assert self._helper.stdout is not None
        self._helper.stdin.close()
        self._helper.wait(60)
        self._helper.stdout.close()
        self.client.close()


def serve(base: Path, at: int) -> None:
    """Be a driver until killed."""
    steps = WrittenSteps(str(base), at)
    sys.addaudithook(steps.audit)
    host = stepped_host(steps)
    holder = SteppedHolder(base / "run", host)
    holder.steps = steps
    manager = VolumeManager(host, base / "run", base / "state", lock_timeout_s=0, holder=holder)
    server = CsiServer(str(base / "csi.sock"), manager=manager, provisioners=None, node_id="n")
    steps.arm()

    async def run() -> None:
        await server.serve(anyio.Event())

    anyio.run(run, backend="asyncio")


def main() -> None:
    child = 0
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        answer = 0
        if request["do"] == "start":
            child = answer = os.fork()
            if not child:
                try:
                    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
                    os.dup2(2, 1)
                    serve(Path(request["base"]), request["at"])
                finally:
                    os._exit(1)
        else:
            if request["do"] == "kill":
                os.kill(child, 9)
            _, answer = os.waitpid(child, 0)
        sys.stdout.write(f"{answer}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    processes.mark_session()
    main()
