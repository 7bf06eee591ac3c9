# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at every step of attach, mount, publish and their ways back, on a real tgt.

The steps are counted by a first run of each operation, which is not killed. For each of them the
operation is run again and killed there: alone, or with holder, zygote and worker, whose deaths are
waited for. Then a front door starts anew: the volume is there as a whole or gone as a whole, and
the next use works and finds what was written. ``make test`` takes every few steps, ``make soak``
all.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fusefs.volume import crashing
from tests.fusefs.volume.node import IQN, SIZE
from tests.support import processes, totals
from tests.support.closing import Closing
from tests.support.requirements import require
from tests.support.tgt import TgtServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.tgt]

NAMESPACE = ("unshare", "--mount", "--propagation", "private")


class Helper(Closing):
    """The process that forks the processes of the cases."""

    def begin(self) -> None:
        require(NAMESPACE[0])
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - close() closes it
        self._process = subprocess.Popen(
            [*NAMESPACE, sys.executable, "-m", "tests.fusefs.volume.crashing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=processes.environment(),
            cwd=Path(__file__).parents[3],
            text=True,
        )
        # Whoever looks for what is left behind knows it by its command line.
        pid = self._process.pid
        wait_until(lambda: NAMESPACE[0] not in processes.command_line(pid), 30, "it is itself")

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()
        self._log.close()

    def ask(self, **request: object) -> int:
        """Have a process do something; its wait status."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def said(self) -> str:
        """The end of what was written on standard error."""
        self._log.seek(0)
        return self._log.read()[-4000:]


class Stage:
    """One LUN, for one case after the other."""

    def __init__(self, base: Path, tgt: TgtServer, helper: Helper) -> None:
        self._tgt = tgt
        self._helper = helper
        self._disk = base / "disk"
        self._base = base
        self._steps: dict[str, list[str]] = {}
        tid = tgt.new_target(IQN)
        tgt.add_lun(tid, 1, self._disk, size_bytes=SIZE)
        self._url = tgt.url(tid, 1)

    def steps(self, operation: str) -> list[str]:
        """The steps of an operation that nobody kills; counted once."""
        if operation not in self._steps:
            self._steps[operation] = self._case(operation, 0, "nobody")
        return self._steps[operation]

    def crash(self, operation: str, at: int, whom: str) -> None:
        """Kill an operation at a step, and see what is left, and what can be done with it."""
        self._case(operation, at, whom)

    def _case(self, operation: str, at: int, whom: str) -> list[str]:
        with self._disk.open("r+b") as disk:
            disk.truncate(0)
            disk.truncate(SIZE)
        name = uuid.uuid4().hex
        base = self._base / name
        base.mkdir()
        case = {
            "base": str(base),
            "url": self._url,
            "case": name,
            "operation": operation,
            "whom": whom,
        }
        status = self._helper.ask(do="run", at=at, **case)
        if at:
            assert status == signal.SIGKILL, f"it ended with {status}: {self._helper.said()}"
        else:
            assert status == 0, self._helper.said()
        if whom == "all":
            self._tgt.wait_sessions(0, timeout=30)
        assert self._helper.ask(do="check", **case) == 0, self._helper.said()
        self._tgt.wait_sessions(0, timeout=30)
        done = subprocess.run(
            ["e2fsck", "-fn", self._disk], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
        return [] if at else (base / "steps").read_text().split("\n")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with TgtServer() as tgt, Helper() as helper:
        yield Stage(tmp_path_factory.mktemp("crashes"), tgt, helper)


def crash_at(stage: Stage, operation: str, whom: str, every: int) -> None:
    """Kill at each ``every``-th step, beginning somewhere else for each operation."""
    names = stage.steps(operation)
    for at in range(len(operation) % every + 1, len(names) + 1, every):
        try:
            stage.crash(operation, at, whom)
        except BaseException as error:
            told = f"{operation}, {whom} killed at step {at} of {len(names)}: {names[at - 1]}"
            error.add_note(told)
            raise
        totals.count(f"{operation} of a volume killed at one of its {len(names)} steps ({whom})")


@pytest.mark.timeout(900)  # each case starts a holder and a zygote, twice
@pytest.mark.parametrize(
    ("operation", "whom", "every"),
    [
        ("use", "all", 10),
        ("use", "command", 19),
        ("release", "all", 9),
        ("release", "command", 13),
        ("publish", "all", 23),
        ("publish", "command", 11),
        ("remove", "command", 5),
    ],
)
def test_a_crash_at_some_steps(stage: Stage, operation: str, whom: str, every: int) -> None:
    crash_at(stage, operation, whom, every)


@pytest.mark.soak
@pytest.mark.parametrize("whom", ["all", "command"])
@pytest.mark.parametrize("operation", list(crashing.OPERATIONS))
def test_a_crash_at_every_step(stage: Stage, operation: str, whom: str) -> None:
    crash_at(stage, operation, whom, 1)
