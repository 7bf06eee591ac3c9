# SPDX-License-Identifier: Apache-2.0
"""What is left of volumes that nobody owns any more: mounts, loop devices, processes, FUSE
connections.

It looks in the kernel's tables for what lies under a directory or was started for it, and changes
nothing. A process is recognised by its arguments and its environment, never by its name alone.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from fusefs.host import Host, mountinfo

DATA_PATH_ARGUMENTS = (b"fusefs.process.zygote", b"fusefs.process.holder")
"""Workers are forked by a zygote and have its arguments."""


def is_under(path: str, directory: str) -> bool:
    """Whether ``path`` is ``directory`` or lies in it."""
    return path == directory or path.startswith(directory + "/")


def of_directory(host: Host, directory: Path) -> list[str]:
    """Everything that uses ``directory``, in words. Reads tables; never waits for a target."""
    root = str(directory)
    found = [
        f"mount {entry.mountpoint} ({entry.fstype} from {entry.source})"
        for entry in host.mounts()
        if is_under(entry.mountpoint, root) or is_under(entry.source, root)
    ]
    found += [
        f"loop device {device.path} over {device.backing_file}"
        for device in host.loop_list()
        if is_under(device.backing_file, root)
    ]
    found += [f"process {pid} ({text})" for pid, text in processes_of(root).items()]
    return found


def fuse_connections(host: Host, numbers: Collection[int]) -> list[str]:
    """Which of the FUSE connections ``numbers`` still exist although nothing is mounted by them.

    The kernel uses the number of a connection again: one that has a mount now is somebody else's,
    since the mounts of the first owner are looked for by their directory.
    """
    mounted = _mounted_anywhere()
    return [
        f"FUSE connection {connection.number}"
        for connection in host.fuse_connections()
        if connection.number in numbers and connection.number not in mounted
    ]


def _mounted_anywhere() -> set[int]:
    """The numbers of the FUSE connections that have a mount, in whichever mount namespace."""
    found: set[int] = set()
    seen: set[str] = set()
    for pid in ["self", *(entry.name for entry in Path("/proc").iterdir() if entry.name.isdigit())]:
        try:
            namespace = os.readlink(f"/proc/{pid}/ns/mnt")  # noqa: PTH115  (it is no path)
            if namespace in seen:
                continue
            seen.add(namespace)
            table = mountinfo.read(pid)
        except OSError:
            continue  # it ended, or is not ours to look at
        found.update(entry.minor for entry in table if entry.fstype.startswith("fuse"))
    return found


def processes_of(text: str) -> dict[int, str]:
    """Processes, but our own and its parents, that have ``text`` in arguments or environment."""
    wanted, ancestors = os.fsencode(text), _ancestors()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) in ancestors:
            continue
        try:
            arguments = (entry / "cmdline").read_bytes()
            if wanted in arguments or wanted in (entry / "environ").read_bytes():
                found[int(entry.name)] = _shown(arguments)
        except OSError:
            continue  # it ended, or is not ours to look at
    return found


def data_path() -> dict[int, str]:
    """The workers, zygotes and holders of this host: number and command line."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if not set(DATA_PATH_ARGUMENTS).isdisjoint(arguments.split(b"\0")):
                found[int(entry.name)] = _shown(arguments)
    return found


def serves(pid: int, run_directory: Path) -> bool:
    """Whether such a process belongs to ``run_directory``: its log, on descriptor 2, lies there."""
    try:
        log = str(Path(f"/proc/{pid}/fd/2").readlink())
    except OSError:
        return False
    return is_under(log.removesuffix(" (deleted)"), str(run_directory))


def _shown(arguments: bytes) -> str:
    return arguments.replace(b"\0", b" ").decode(errors="replace").strip()[:120]


def _ancestors() -> set[int]:
    found, pid = {os.getpid()}, os.getppid()
    while pid > 1:
        found.add(pid)
        try:
            status = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        except OSError:
            break
        pid = int(status.rpartition(")")[2].split()[1])
    return found
