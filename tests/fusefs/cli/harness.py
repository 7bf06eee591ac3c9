# SPDX-License-Identifier: Apache-2.0
"""The command as a user has it: a process of its own, with directories of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import processes
from tests.support.source import ROOT

IQN = "iqn.2026-01.com.example:cli"
CHAP_IQN = "iqn.2026-01.com.example:chap"
USER, SECRET = "alice", "alice-secret-123"
MUTUAL_USER, MUTUAL_SECRET = "storage", "storage-secret-9"
MEBI = 1 << 20
TIMEOUT = 60


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def failed(self, status: int, *texts: str) -> None:
        """It ended with ``status`` and said why in one line, without a traceback."""
        assert self.status == status, self
        assert self.out == "", self
        assert self.err.startswith("pyscsi-init: "), self
        assert self.err.count("\n") == 1, self
        assert "Traceback" not in self.err, self
        for text in texts:
            assert text in self.err, self


class Cli:
    """Runs the command with directories of its own."""

    def __init__(self, directory: Path) -> None:
        self.run_dir = directory / "run"
        self.environment = processes.environment(
            PYSCSI_INIT_RUN_DIR=str(self.run_dir),
            PYSCSI_INIT_STATE_DIR=str(directory / "state"),
            TMPDIR=str(directory),
        )

    def start(self, *arguments: object, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "fusefs.cli", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=self.environment | variables,
        )

    def __call__(self, *arguments: object, **variables: str) -> Done:
        process = self.start(*arguments, **variables)
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
            process.wait()
        return Done(process.returncode, out, err)

    def stop(self, process: subprocess.Popen[str], number: signal.Signals) -> Done:
        """Send a signal to a command and wait for its end."""
        process.send_signal(number)
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        finally:
            process.kill()
            process.wait()
        return Done(process.returncode, out, err)

    def volumes(self) -> list[str]:
        """What the run directory holds of volumes."""
        directory = self.run_dir / "volumes"
        return sorted(os.listdir(directory)) if directory.exists() else []
