# SPDX-License-Identifier: Apache-2.0
"""A PID and mount namespace that mounts for itself, as a container does, and is killed at once.

The kernel lets each process go through its end by itself, so which of them is the last one in the
mount namespace, and takes the mounts down, is another one each time: it is done several times.
Whatever goes wrong, the FUSE connection is aborted at the end: nobody else could end the wait.
"""

from __future__ import annotations

import functools
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import pytest

from fusefs.host import LinuxHost
from fusefs.host.records import LoopDevice
from tests.support import processes
from tests.support.mount_namespace import freed
from tests.support.requirements import require
from tests.support.tgt import TgtServer
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.root, pytest.mark.tgt, pytest.mark.timeout(600)]

IQN = "iqn.2026-11.example:killed"
SIZE = 64 << 20
INSIDE = """
mount -t proc proc /proc
{sharing}
{python} -m fusefs.cli mount {url} {base}/mnt --name data --format-if-blank --fencing off
echo synced >{base}/mnt/file
sync {base}/mnt/file
echo ready
while :; do echo more >>{base}/mnt/other; done
"""
PATIENCE_S = 60.0


def start(base: Path, url: str, run: Path, sharing: str) -> subprocess.Popen[str]:
    unshare = require("unshare")
    own_mounts = (unshare, "--mount", "--propagation", "private", "--")
    script = INSIDE.format(python=sys.executable, url=url, base=base, sharing=sharing)
    return subprocess.Popen(
        # The keeper of the PID namespace stays outside of the mount namespace.
        [unshare, "--pid", "--fork", "--", *own_mounts, "sh", "-euc", script],
        env=processes.environment(
            PYSCSI_INIT_RUN_DIR=str(run), PYSCSI_INIT_STATE_DIR=str(base / "state")
        ),
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def first_of(parent: int) -> int:
    """Process 1 of the namespace."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(children[0])


def inside(first: int) -> list[int]:
    """All processes of the PID namespace, as numbers out here."""
    wanted = os.readlink(f"/proc/{first}/ns/pid")
    found = []
    for entry in os.listdir("/proc"):
        try:
            if entry.isdigit() and os.readlink(f"/proc/{entry}/ns/pid") == wanted:
                found.append(int(entry))
        except OSError:
            continue
    return found


def loops_of(base: Path, first: int) -> list[str]:
    """What is mounted in there."""
    table = Path(f"/proc/{first}/mountinfo").read_text()
    return re.findall(rf" {base}/mnt .* - ext4 (/dev/loop\d+) ", table)


def backing(loop: str) -> str:
    try:
        return Path("/sys/block", Path(loop).name, "loop/backing_file").read_text().strip()
    except OSError:
        return ""


def ended(pidfd: int) -> bool:
    """Whether a process is dead, all of its threads, and has let go of what it had."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def kill_again_and_again(base: Path, times: int) -> None:
    (base / "mnt").mkdir()
    with TgtServer() as tgt:
        tid = tgt.new_target(IQN)
        tgt.add_lun(tid, 1, base / "disk", size_bytes=SIZE)
        for number in range(times):
            run = base / f"run{number}"  # each container has its own
            # As systemd in a container does it.
            sharing = "mount --make-rshared /" if number % 2 else ""
            kill_when_ready(
                tgt, start(base, tgt.url(tid, 1), run, sharing), base, run, f"in round {number}"
            )


def kill_when_ready(
    tgt: TgtServer, keeper: subprocess.Popen[str], base: Path, run: Path, when: str
) -> None:
    """Kill it under writes, and see that its session ends too."""
    assert keeper.stdout is not None
    with keeper.stdout as said:
        assert "ready\n" in iter(said.readline, "")
        kill(keeper, base, run, when)
    wait_until(lambda: not tgt.sessions(), PATIENCE_S, f"its session is over, {when}")


def kill(keeper: subprocess.Popen[str], base: Path, run: Path, when: str) -> None:
    """Kill process 1, and with it all others; see that they and the loop device end."""
    first = first_of(keeper.pid)
    (loop,) = loops_of(base, first)
    with ExitStack() as opened:
        pidfds = []
        for pid in inside(first):
            pidfds.append(os.pidfd_open(pid))
            opened.callback(os.close, pidfds[-1])
        assert len(pidfds) >= 4  # process 1, holder, zygote, worker
        opened.callback(keeper.wait, PATIENCE_S)
        opened.enter_context(freed(first, f"{run}/volumes"))
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: all(map(ended, pidfds)), PATIENCE_S, f"the end of all {when}")
        here = (str(base), "/lun")  # what it is called when its namespace is gone
        wait_until(lambda: not backing(loop).startswith(here), PATIENCE_S, f"{loop} free {when}")


def kill_while_it_mounts(base: Path, moments: Iterable[float]) -> None:
    """Each time on a blank disk, so many seconds after its loop device was there. The last one is
    started again in its run directory, as a container is, and once more when it was mounted."""
    (base / "mnt").mkdir()
    with TgtServer() as tgt:
        tid = tgt.new_target(IQN)
        tgt.add_lun(tid, 1, base / "disk", size_bytes=SIZE)
        for number, moment in enumerate(moments):
            run = base / f"run{number}"
            os.truncate(base / "disk", 0)
            os.truncate(base / "disk", SIZE)
            shutil.rmtree(base / "state", ignore_errors=True)  # what is known of the disk
            keeper = start(base, tgt.url(tid, 1), run, "")
            assert keeper.stdout is not None
            with keeper.stdout:
                wait_until(
                    functools.partial(loops_below, run), PATIENCE_S, "its loop device is there"
                )
                (device,) = loops_below(run)
                time.sleep(moment)  # nothing is waited for: it is the moment that is tried
                os.kill(first_of(keeper.pid), signal.SIGKILL)
                keeper.wait(PATIENCE_S)
            when = f"killed after {moment:.2f} s"
            wait_until(functools.partial(is_free, device), PATIENCE_S, f"{device} is free, {when}")
            wait_until(lambda: not tgt.sessions(), PATIENCE_S, f"its session is over, {when}")
        for when in ("started again", "started once more"):
            kill_when_ready(tgt, start(base, tgt.url(tid, 1), run, ""), base, run, when)


def loops_below(run: Path) -> list[LoopDevice]:
    return [each for each in LinuxHost().loop_list() if each.backing_file.startswith(f"{run}/")]


def is_free(device: LoopDevice) -> bool:
    return not any(each.same_attachment(device) for each in LinuxHost().loop_list())


def test_nothing_is_left_of_one_that_is_killed_while_it_mounts(tmp_path: Path) -> None:
    kill_while_it_mounts(tmp_path, (0, 0.05, 0.15, 0.3))


@pytest.mark.soak
def test_nothing_is_left_whenever_it_is_killed(tmp_path: Path) -> None:
    kill_while_it_mounts(tmp_path, (number / 40 for number in range(40)))


def test_nothing_hangs_and_nothing_is_left(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, 6)


@pytest.mark.soak
def test_nothing_hangs_however_often(tmp_path: Path) -> None:
    kill_again_and_again(tmp_path, 60)
