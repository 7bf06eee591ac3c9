# SPDX-License-Identifier: Apache-2.0
"""What a run has left behind, found by its own directory, told, and cleared away.

After an orderly end there is nothing. It is looked for all the same, because a benchmark that
leaves loop devices and mounts on somebody's machine is worse than none.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from tests.support import processes

from .processes import Failed, processes_of, run

PATIENCE_S = 5.0
"""A process of ours that has been told to end may still be at it."""


def clear(directory: Path) -> list[str]:
    """Take away what still lies in ``directory``, the last first; returns what there was."""
    found = []
    for pid, line in processes_of(directory).items():
        if not processes.wait_exit(pid, PATIENCE_S):
            found.append(f"left behind: process {pid}, {line}")
            processes.end(pid)
    for mount in reversed(_mounts(directory)):
        found.append(f"left behind: mount {mount}")
        _try(["umount", "--lazy", mount])
    for device in _loops(directory):
        found.append(f"left behind: loop device {device}")
        _try(["losetup", "-d", device])
    return found


def _try(command: list[str]) -> None:
    with contextlib.suppress(Failed):  # it is told already that it is there
        run(command)


def _mounts(directory: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    places = [line.split()[4] for line in lines]
    return [place for place in places if place.startswith(f"{directory}/")]


def _loops(directory: Path) -> list[str]:
    found = []
    for entry in sorted(Path("/sys/block").glob("loop*/loop/backing_file")):
        try:
            backing = entry.read_text()
        except OSError:
            continue
        if backing.startswith(f"{directory}/"):
            found.append(f"/dev/{entry.parent.parent.name}")
    return found
