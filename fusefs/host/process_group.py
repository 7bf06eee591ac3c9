# SPDX-License-Identifier: Apache-2.0
"""Taking the processes of the data path out of the control group of whoever started them.

A service manager ends a service by its control group, and so does the OOM killer of one that has a
limit. A process of the data path that stands in the group of a front door would end with it, and
with it the I/O of every volume. So it gets a group of its own: a scope where systemd runs, else a
group named ``pyscsi-init`` in each hierarchy in which it stands in somebody's group.

PYSCSI_INIT_CGROUP=off leaves it where it is, for those whose limits are meant for it too.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from fusefs.host import mountinfo
from fusefs.host.records import MountEntry

VARIABLE = "PYSCSI_INIT_CGROUP"
GROUP = "pyscsi-init"
_SYSTEMD = Path("/run/systemd/system")


def is_off() -> bool:
    """Whether the processes are to stay in their starter's group."""
    return os.environ.get(VARIABLE, "").lower() in ("off", "no", "0")


def command() -> list[str]:
    """The beginning of a command line that runs the rest in a scope; empty without systemd."""
    if is_off() or not _SYSTEMD.is_dir():
        return []
    program = shutil.which("systemd-run")
    return [program, "--scope", "--collect", "--quiet", "--"] if program else []


def leave(pid: int, table: list[MountEntry] | None = None) -> list[str]:
    """Move a process that has not started another one yet; what could not be done, in words."""
    if is_off() or command():
        return []
    notes = []
    for what, group, path in _groups(pid, mountinfo.read() if table is None else table):
        if path == "/":
            continue  # it is nobody's
        try:
            group.mkdir(exist_ok=True)
            if "cpuset" in what:
                _inherit_cpuset(group)
            (group / "cgroup.procs").write_text(str(pid))
        except OSError as fault:
            notes.append(f"stays in the control group {path} ({what}): {fault.strerror}")
    return notes


def remove(table: list[MountEntry] | None = None) -> None:
    """Remove the groups, where nobody is in them any more."""
    for _, group, _ in _groups(os.getpid(), mountinfo.read() if table is None else table):
        with contextlib.suppress(OSError):
            group.rmdir()


def _groups(pid: int, table: list[MountEntry]) -> Iterator[tuple[str, Path, str]]:
    """For each hierarchy: its name, where our group is or would be, and where the process is."""
    mounts = {}
    for entry in table:
        if entry.fstype == "cgroup2":
            mounts["cgroup2"] = entry.mountpoint
        elif entry.fstype == "cgroup":
            for option in entry.super_options:
                mounts[option] = entry.mountpoint
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        what = names or "cgroup2"
        place = next((mounts[name] for name in what.split(",") if name in mounts), None)
        if place is not None:
            yield what, Path(place) / GROUP, path


def _inherit_cpuset(group: Path) -> None:
    # A fresh group of this hierarchy has no processors, and then takes no process.
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not (group / name).read_text().strip():
            (group / name).write_text((group.parent / name).read_text())
