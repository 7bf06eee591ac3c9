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
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from fusefs.host import LinuxHost
from fusefs.spec import VolumeSpec
from fusefs.volume.known import KnownVolume, KnownVolumes
from fusefs.volume.manager import VolumeManager
from tests.fusefs.volume import crashing
from tests.fusefs.volume.node import IQN, SIZE
from tests.support import processes
from tests.support.closing import Closing
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt]

STAYS = ("locks/", "steps", "initiatorname", "run/holder")
"""What no volume leaves, but the node."""


class Helper(Closing):
    """The process that forks the processes of the cases."""

    def begin(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.fusefs.volume.crashing"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=processes.environment(),
            cwd=Path(__file__).parents[3],
            text=True,
        )

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()

    def run(self, request: dict[str, object]) -> int:
        """Run one case; its wait status."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


class Case:
    """One run of an operation on a blank LUN, and the start of a front door after it."""

    def __init__(
        self, stage: Stage, operation: str, at: int = 0, whom: str = "nobody", *, into: Path
    ) -> None:
        self._stage = stage
        self._operation = operation
        self._whom = whom
        self._name = uuid.uuid4().hex
        self.base = into / self._name
        self.base.mkdir()
        self._manager = VolumeManager(LinuxHost(), self.base / "run", self.base / "state")
        self._known = KnownVolumes(self._manager)
        self.status = stage.helper.run(
            {
                "case": self._name,
                "base": str(self.base),
                "url": stage.url,
                "operation": operation,
                "at": at,
                "whom": whom,
            }
        )

    def check(self) -> None:
        """Restore, look, use, release, remove; then nothing may be left."""
        if self._whom == "all":
            assert crashing.of_case(self._name) == []
            self._stage.tgt.wait_sessions(0, timeout=30)
        try:
            anyio.run(self._check)
        except BaseException:
            anyio.run(self._end_by_force)
            raise
        self._assert_gone()
        files = [str(p.relative_to(self.base)) for p in self.base.rglob("*") if not p.is_dir()]
        assert [file for file in files if not any(part in file for part in STAYS)] == []
        done = subprocess.run(
            ["e2fsck", "-fn", self._stage.disk], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout

    async def _check(self) -> None:
        report = await self._known.restore()
        assert report.problems == [], report
        assert report.busy == [], report
        volumes = await self._known.list()
        written = self._operation in ("release", "publish")
        if not volumes:
            assert self._operation == "remove"
            spec = VolumeSpec(name="data", url=self._stage.url)
            await self._known.define(spec, owner="test")
        elif volumes[0].users:
            assert volumes[0].users == {"one": 1}
            self._assert_there(volumes[0])
        else:
            assert volumes[0].status is None
            await anyio.to_thread.run_sync(self._assert_gone)
        path = await self._known.use("data", "next")

        def read_and_write() -> None:
            if written:
                assert (path / "file").read_text() == crashing.MESSAGE
            (path / "other").write_text("after the crash")
            os.sync()

        await anyio.to_thread.run_sync(read_and_write)
        assert (await self._known.get("data")).status.state == "mounted"
        await self._known.release("data", "next")
        await self._known.release("data", "one")
        await self._known.remove("data")

    async def _end_by_force(self) -> None:
        for volume in await self._manager.status():
            await self._manager.ensure_gone(volume.name, force=True)

    def _assert_there(self, volume: KnownVolume) -> None:
        """As a whole: alive and mounted, or, where all were killed, known to be dead."""
        assert volume.status is not None
        if self._whom == "all":
            assert volume.status.state == "failed", volume
            return
        assert volume.status.state == "mounted", volume
        bound = {bind.directory for bind in volume.status.binds}
        for place in (self.base / "bound", self.base / "device"):
            assert place.exists() == (str(place) in bound)

    def _assert_gone(self) -> None:
        with open("/proc/self/mountinfo") as table:
            assert str(self.base) not in table.read()
        loops = [device.backing_file for device in LinuxHost().loop_list()]
        assert [file for file in loops if str(self.base) in file] == []
        for directory in ("run/volumes", "run/uses", "state/mounts"):
            there = self.base / directory
            assert not there.exists() or os.listdir(there) == []
        assert not (self.base / "bound").exists()
        assert not (self.base / "device").exists()
        self._stage.tgt.wait_sessions(0, timeout=30)


class Stage:
    """One LUN, for one case after the other."""

    def __init__(self, base: Path, tgt: TgtServer, helper: Helper) -> None:
        self.tgt = tgt
        self.helper = helper
        self.disk = base / "disk"
        self._base = base
        tid = tgt.new_target(IQN)
        tgt.add_lun(tid, 1, self.disk, size_bytes=SIZE)
        self.url = tgt.url(tid, 1)

    def case(self, *arguments: object) -> Case:
        """A case on a blank LUN."""
        with self.disk.open("r+b") as disk:
            disk.truncate(0)
            disk.truncate(SIZE)
        return Case(self, *arguments, into=self._base)  # type: ignore[arg-type]

    def steps(self, operation: str) -> list[str]:
        """The steps of an operation that nobody kills."""
        case = self.case(operation)
        assert case.status == 0
        names = (case.base / "steps").read_text().split("\n")
        case.check()
        return names


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with TgtServer() as tgt, Helper() as helper:
        yield Stage(tmp_path_factory.mktemp("crashes"), tgt, helper)


def crash_at(
    stage: Stage, operation: str, whom: str, every: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kill at each ``every``-th step, beginning somewhere else for each operation."""
    names = stage.steps(operation)
    began = time.monotonic()
    first = len(operation) % every + 1
    cases = range(first, len(names) + 1, every)
    for at in cases:
        case = stage.case(operation, at, whom)
        told = f"{operation}, {whom} killed at step {at} of {len(names)}: {names[at - 1]}"
        try:
            assert os.WIFSIGNALED(case.status), f"it ended with {case.status}"
            case.check()
        except BaseException as error:
            error.add_note(told)
            raise
    with capsys.disabled():
        seconds = time.monotonic() - began
        sys.stdout.write(
            f"\n{operation}: {len(names)} steps, killed at {len(cases)} ({whom}), {seconds:.0f} s\n"
        )


@pytest.mark.parametrize(
    ("operation", "whom", "every"),
    [
        ("use", "all", 7),
        ("use", "command", 19),
        ("release", "all", 9),
        ("release", "command", 13),
        ("publish", "all", 23),
        ("publish", "command", 11),
        ("remove", "command", 5),
    ],
)
def test_a_crash_at_some_steps(
    stage: Stage, operation: str, whom: str, every: int, capsys: pytest.CaptureFixture[str]
) -> None:
    crash_at(stage, operation, whom, every, capsys)


@pytest.mark.soak
@pytest.mark.parametrize("whom", ["all", "command"])
@pytest.mark.parametrize("operation", list(crashing.OPERATIONS))
def test_a_crash_at_every_step(
    stage: Stage, operation: str, whom: str, capsys: pytest.CaptureFixture[str]
) -> None:
    crash_at(stage, operation, whom, 1, capsys)
