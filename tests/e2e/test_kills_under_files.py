# SPDX-License-Identifier: Apache-2.0
"""Workers, what starts them, and the target are killed under files, on ext4 and on xfs.

No program sees an error, nor does the kernel; every file is the newest; the filesystem is whole.
That a stale block is found is shown by tests/support/test_files.py, and through a volume here.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e import victims
from tests.e2e.conftest import Volumes
from tests.e2e.victims import Victim
from tests.support import files
from tests.support.direct_io import until
from tests.support.files import FilesWrong, FileWorkload
from tests.support.filesystems import fsck_is_clean
from tests.support.kernel_log import KernelLog
from tests.support.stalls import Figures
from tests.support.tgt import TgtServer

pytestmark = [pytest.mark.root, pytest.mark.tgt]

MEBI = 1 << 20
FIRST_GAP_S, LAST_GAP_S = 0.2, 2.0
"""Between two kills: any moment of a worker's life, and not so soon, on average, that its successor
is held back."""
OTHERS = int(os.environ.get("PYSCSI_INIT_SOAK_OTHERS") or 20)
KILLS = int(os.environ.get("PYSCSI_INIT_SOAK_KILLS_FILES") or 50)


def soak(victim: Victim, kills: int) -> object:
    """A case of the long run."""
    return pytest.param(victim, kills, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])


def small_disk(tgt: TgtServer, directory: Path) -> tuple[str, Path]:
    """The URL of a LUN of 512 MiB, and its backing file."""
    disk = directory / "small-disk"
    tid = tgt.new_target("iqn.2026-11.example:files")
    tgt.add_lun(tid, 1, disk, size_bytes=512 * MEBI)
    return tgt.url(tid, 1), disk


@pytest.mark.parametrize("fstype", ["ext4", "xfs"])
@pytest.mark.parametrize(
    ("victim", "kills"),
    [
        (victims.worker, 3),
        (victims.target, 1),
        soak(victims.worker, KILLS),
        soak(victims.zygote, OTHERS),
        soak(victims.holder, OTHERS),
        soak(victims.holder_then_worker, OTHERS),
        soak(victims.target, OTHERS),
    ],
)
def test_files_survive(
    tgt: TgtServer, volumes: Volumes, tmp_path: Path, fstype: str, victim: Victim, kills: int
) -> None:
    url, disk = small_disk(tgt, tmp_path)
    volume = volumes.mount(url, name="v", fstype=fstype, format_if_blank=True)
    choice = random.Random()
    moments = []
    workload = FileWorkload(Path(volume.mountpoint), tmp_path / "journals")
    with KernelLog() as log:
        with workload:
            for _ in range(kills):
                done = workload.done()
                time.sleep(choice.uniform(FIRST_GAP_S, LAST_GAP_S))  # any moment
                until(more_than(workload, done + 10), 30)
                moments.append(victim(volumes, tgt, "v"))
                assert workload.running
            done = workload.done()
            until(more_than(workload, done + 50), 30)
        assert volumes.get("v").io["errors"] == 0
        subprocess.run(["sync", "-f", volume.mountpoint], check=True, timeout=60)
        log.check(volume.loop)  # another test may have the loop device after the umount
        volumes.umount("v")
        stalls = Figures(
            f"{victim.__name__} killed under files on {fstype}", workload.stalls(moments)
        )
        print(f"\n{stalls}; {workload.operations} operations")  # noqa: T201  (for people)
    again = volumes.mount(url, name="v")
    with KernelLog() as log:
        workload.check(Path(again.mountpoint))
        log.check(again.loop)
    volumes.umount("v")
    fsck_is_clean(fstype, disk)


def more_than(workload: FileWorkload, count: int) -> Callable[[], bool]:
    """Whether the workload has done so much; it fails at once where the workload has ended."""

    def condition() -> bool:
        assert workload.running, "the workload has ended"
        return workload.done() > count

    return condition


def test_a_stale_block_below_the_filesystem_is_found(
    tgt: TgtServer, volumes: Volumes, tmp_path: Path
) -> None:
    """An older content of one block, put into the backing file between two mounts."""
    url, disk = small_disk(tgt, tmp_path)
    volume = volumes.mount(url, name="v", fstype="ext4", format_if_blank=True)
    workload = FileWorkload(Path(volume.mountpoint), tmp_path / "journals", threads=1)
    with workload:
        until(more_than(workload, 200), 30)
    volumes.umount("v")
    state, _, _ = files.read_journal(tmp_path / "journals" / "d0")
    content = disk.read_bytes()
    newest = next(
        block
        for file in state.values()
        for index, generation in enumerate(file.generations)
        if content.count(block := files.block_of(file.key, generation, index)) == 1
    )
    header = newest[: files.HEADER].decode()
    key, _, index, _, generation = header.split()
    with disk.open("r+b") as backing:
        backing.seek(content.index(newest))
        backing.write(files.block_of(key, int(generation) - 1, int(index)))
    again = volumes.mount(url, name="v")
    with pytest.raises(FilesWrong, match=f"generation {int(generation) - 1}, not"):
        workload.check(Path(again.mountpoint))
    volumes.umount("v")
