# SPDX-License-Identifier: Apache-2.0
"""What a test left behind: mounts, loop devices, FUSE connections, network namespaces, processes.

Other test runs and other people share a developer's machine, so there only things that are surely
ours count: what lies under this run's temporary directory, and our children. A build machine
(CI=true) belongs to the run alone, and there everything new counts.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from . import processes
from .requirements import on_ci

OTHER_RUNS = "/pytest-of-"
"""In the path of each pytest run's temporary directory; what lies in another one is not ours."""

GRACE_SECONDS = 1.0
"""For the kernel and for processes that were told to end: taken only when something is found."""

PROCESS_GRACE_SECONDS = 12.0
"""A holder waits 6 s for workers that have not told it of themselves, and looks every 2 s whether
anybody wants it."""

KEPT_BY_IPROUTE2 = "mount /run/netns ("
"""``ip netns add`` makes its directory a mount point, once, and leaves it."""

HELPERS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")
"""Children that the standard library keeps for the life of the process."""


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(errors="surrogateescape").splitlines()
    except OSError:
        return []


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


def mounts() -> set[str]:
    """``mount point (type from source)`` of each mount in this mount namespace."""
    found = set()
    for line in _lines("/proc/self/mountinfo"):
        fields, _, tail = line.partition(" - ")
        kind, source = tail.split(" ")[:2]
        found.add(f"mount {fields.split(' ')[4]} ({kind} from {source})")
    return {text for text in found if not text.startswith(KEPT_BY_IPROUTE2)}


def loop_devices() -> set[str]:
    """``loopN backing file`` of each loop device in use."""
    found = set()
    for name in _listdir("/sys/block"):
        # Of the many that there are few are in use; this is asked before and after each test.
        if name.startswith("loop") and os.access(f"/sys/block/{name}/loop", os.F_OK):
            for backing in _lines(f"/sys/block/{name}/loop/backing_file"):
                found.add(f"loop device /dev/{name} ({backing})")
    return found


def snapshot(base: Path) -> set[str]:
    """Everything that could be a leak, as texts that tell what it is."""
    found = mounts() | loop_devices()
    found.update(f"network namespace {name}" for name in _listdir("/run/netns"))
    if on_ci() and "PYTEST_XDIST_WORKER" not in os.environ:
        found.update(f"FUSE connection {name}" for name in _listdir("/sys/fs/fuse/connections"))
    else:
        # Others are at work here too; what they have is theirs. The whole run is looked at when
        # it ends.
        found = {text for text in found if str(base) in text}
    found = {text for text in found if str(base) in text or OTHER_RUNS not in text}
    for pid in processes.children():
        line = processes.command_line(pid)
        if line and not any(helper in line for helper in HELPERS):
            found.add(f"child process {pid} ({line})")
    return found


def of_the_host() -> set[str]:
    """Mounts, loop devices and FUSE connections of the whole host, but for other test runs'."""
    found = mounts() | loop_devices()
    found.update(f"FUSE connection {name}" for name in _listdir("/sys/fs/fuse/connections"))
    return {text for text in found if OTHER_RUNS not in text}


def _settle(
    leftovers: set[str], again: Callable[[], set[str]], grace_s: float = GRACE_SECONDS
) -> set[str]:
    deadline = time.monotonic() + grace_s
    while leftovers and time.monotonic() < deadline:
        time.sleep(0.05)
        leftovers = again()
    return leftovers


def check(before: set[str], base: Path) -> None:
    """Fail the test if there is more than before."""
    leftovers = _settle(snapshot(base) - before, lambda: snapshot(base) - before)
    if leftovers:
        pytest.fail("left behind: " + "; ".join(sorted(leftovers)), pytrace=False)


def check_processes(before: set[int], mark: str) -> None:
    """Fail if there are more processes with our mark than before."""

    def new() -> set[str]:
        return {
            f"process {pid} ({line})"
            for pid in processes.marked_processes(mark) - before
            if (line := processes.command_line(pid)) and not any(name in line for name in HELPERS)
        }

    leftovers = _settle(new(), new, PROCESS_GRACE_SECONDS)
    if leftovers:
        pytest.fail("left behind: " + "; ".join(sorted(leftovers)), pytrace=False)
