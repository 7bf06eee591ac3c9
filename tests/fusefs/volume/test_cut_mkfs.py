# SPDX-License-Identifier: Apache-2.0
"""mkfs that is cut off, on a real tgt that counts, and the next mount of the same LUN."""

from __future__ import annotations

import signal
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.fusefs.volume.node import IQN
from tests.fusefs.volume.test_crashes import Helper
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt]

SIZE = 320 << 20
"""mkfs.xfs makes nothing smaller than 300 MiB."""
CHECKS = {
    "ext4": ("e2fsck", "-fn"),
    "xfs": ("xfs_repair", "-n"),
    "btrfs": ("btrfs", "check", "--readonly"),
}


class Stage:
    """One LUN of a tgt under whose backing file everything is counted."""

    def __init__(self, base: Path, helper: Helper, disk: Path, tgt: TgtServer) -> None:
        self._base = base
        self._helper = helper
        self._disk = disk
        self._tgt = tgt
        self._tid = tgt.new_target(IQN)
        tgt.add_lun(self._tid, 1, disk)

    def case(self, fstype: str, fencing: str, after: int, whom: str) -> int:
        """Mount, cut off, mount again; how many I/Os mkfs had done."""
        with self._disk.open("r+b") as disk:
            disk.truncate(0)
            disk.truncate(SIZE)
        name = uuid.uuid4().hex
        base = self._base / name
        base.mkdir()
        url = self._tgt.url(self._tid, 1)
        case = {"base": str(base), "url": url, "case": name, "whom": whom}
        fault = self._tgt.fault
        assert fault is not None
        fault.delay(0, SIZE, 0)  # it counts
        status = self._helper.ask(
            do="cut",
            after=after,
            orders=fault.environment["FAULT_ORDERS"],
            settings={"fstype": fstype, "fencing": fencing},
            **case,
        )
        fault.release()
        if not after:
            assert status == 0, self._helper.said()
        elif whom == "mkfs":
            assert status == 1 << 8, self._helper.said()
            assert "FormatFailed" in self._helper.said()
        else:
            assert status == signal.SIGKILL, f"it ended with {status}: {self._helper.said()}"
        if whom == "all" and after:
            self._tgt.wait_sessions(0, timeout=30)
        assert self._helper.ask(do="check", operation="use", **case) == 0, self._helper.said()
        self._tgt.wait_sessions(0, timeout=30)
        done = subprocess.run(
            [*CHECKS[fstype], self._disk], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return 0 if after else int(Path(f"{base}.count").read_text())


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    base = tmp_path_factory.mktemp("cut")
    disk = base / "disk"
    disk.write_bytes(b"")
    with disk.open("r+b") as file:
        file.truncate(SIZE)
    with TgtServer(fault_on=disk) as tgt, Helper() as helper:
        yield Stage(base, helper, disk, tgt)


def cut_at(stage: Stage, fstype: str, fencing: str, whom: str, parts: Sequence[float]) -> None:
    """Cut mkfs off when it has done these parts of its I/Os."""
    total = stage.case(fstype, fencing, 0, "nobody")
    for part in parts:
        after = max(1, int(total * part))
        try:
            stage.case(fstype, fencing, after, whom)
        except BaseException as error:
            error.add_note(f"{fstype}, {whom} killed after {after} of {total} I/Os")
            raise


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("fstype", "fencing", "whom", "parts"),
    [
        ("ext4", "auto", "all", (0.01, 0.6)),
        ("xfs", "off", "all", (0.9,)),
        ("btrfs", "off", "mkfs", (0.3,)),
    ],
)
def test_mkfs_that_was_cut_off_is_done_again(
    stage: Stage, fstype: str, fencing: str, whom: str, parts: Sequence[float]
) -> None:
    """By the node that began it: because it holds the unit, or by its note."""
    cut_at(stage, fstype, fencing, whom, parts)


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("whom", ["all", "command", "mkfs"])
@pytest.mark.parametrize("fencing", ["auto", "off"])
@pytest.mark.parametrize("fstype", list(CHECKS))
def test_mkfs_that_was_cut_off_at_many_moments(
    stage: Stage, fstype: str, fencing: str, whom: str
) -> None:
    cut_at(stage, fstype, fencing, whom, (0, 0.02, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.93))
