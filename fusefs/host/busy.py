# SPDX-License-Identifier: Apache-2.0
"""Who keeps a mount or a device busy.

"Target is busy" without a name sends people to lsof; this names them. Everything is read from
/proc by readlink and by reading fdinfo, which never enter the filesystem in question: a mount
whose server is dead can be asked about too. Processes in other mount namespaces (containers)
are found by their own mount table. The answer is a hint for a person: what ends while we look
is left out, and so is what this process may not see.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from fusefs.errors import ProcessUser, Timeout
from fusefs.host import mountinfo
from fusefs.host.blocking import bounded
from fusefs.host.records import MountEntry

SCAN_TIMEOUT_S = 5.0
"""/proc/PID/maps waits for a process that is stuck in a page fault; the rest is kept."""

_LINKS = (("cwd", "working directory"), ("root", "root directory"), ("exe", "program"))


def mount_users(mountpoint: str) -> list[ProcessUser]:
    """The processes that keep the mount at ``mountpoint``, or a mount it propagates to, busy."""
    entry = mountinfo.find(mountpoint)
    if entry is None:
        return []

    def same(other: MountEntry) -> bool:
        if other.mount_id == entry.mount_id:
            return True
        device = (other.major, other.minor) == (entry.major, entry.minor)
        peer = entry.peer_group is not None and entry.peer_group in (
            other.peer_group,
            other.master_group,
        )
        return device and peer

    found: list[ProcessUser] = []

    def scan() -> None:
        tables: dict[str, list[MountEntry]] = {}
        for pid in _pids():
            namespace = _readlink(f"/proc/{pid}/ns/mnt")
            if namespace not in tables:
                try:
                    tables[namespace] = [one for one in mountinfo.read(pid) if same(one)]
                except OSError:
                    continue
            if tables[namespace]:
                found.extend(_uses_of(pid, tables[namespace]))

    _bounded_scan(scan)
    return found


def device_users(device: str) -> list[ProcessUser]:
    """The processes that have the node ``device`` open."""
    found: list[ProcessUser] = []

    def scan() -> None:
        for pid in _pids():
            for number in _listdir(f"/proc/{pid}/fd"):
                if _readlink(f"/proc/{pid}/fd/{number}") == device:
                    found.append(ProcessUser(int(pid), _name(pid), "open file"))
                    break

    _bounded_scan(scan)
    return found


def device_mounts(major: int, minor: int) -> list[str]:
    """Where a block device is mounted, in any namespace that can be seen.

    Compared by source as well: btrfs shows an anonymous device number.
    """
    source = _readlink(f"/sys/dev/block/{major}:{minor}").rpartition("/")[2]
    found: dict[str, None] = {}
    seen: set[str] = set()
    for pid in ["self", *_pids()]:
        namespace = _readlink(f"/proc/{pid}/ns/mnt")
        if namespace in seen:
            continue
        seen.add(namespace)
        try:
            table = mountinfo.read(pid)
        except OSError:
            continue
        where = "" if pid == "self" else f" (namespace of pid {pid})"
        for entry in table:
            if (entry.major, entry.minor) == (major, minor) or (
                source and entry.source == f"/dev/{source}"
            ):
                found[f"{entry.mountpoint}{where}"] = None
    return list(found)


def mounts_below(mountpoint: str) -> list[str]:
    """The mounts that lie in the mount at ``mountpoint``."""
    table = mountinfo.read()
    entry = mountinfo.find(mountpoint, table)
    if entry is None:
        return []
    return [other.mountpoint for other in table if other.parent_id == entry.mount_id]


def _bounded_scan(scan: Callable[[], None]) -> None:
    with contextlib.suppress(Timeout):
        bounded("looking for users in /proc", SCAN_TIMEOUT_S, scan)


def _uses_of(pid: str, mounts: list[MountEntry]) -> Iterator[ProcessUser]:
    """The first use of each kind that process ``pid`` makes of ``mounts``."""
    ids = {entry.mount_id for entry in mounts}
    places = [entry.mountpoint for entry in mounts]
    name = _name(pid)
    for link, how in _LINKS:
        if _inside(_readlink(f"/proc/{pid}/{link}"), places):
            yield ProcessUser(int(pid), name, how)
    for number in _listdir(f"/proc/{pid}/fdinfo"):
        if _mount_id(pid, number) in ids:
            yield ProcessUser(int(pid), name, "open file")
            break
    for path in _mapped_files(pid):
        if _inside(path, places):
            yield ProcessUser(int(pid), name, "mapped file")
            break


def _inside(path: str, places: list[str]) -> bool:
    return any(path == place or path.startswith(place.rstrip("/") + "/") for place in places)


def _mount_id(pid: str, number: str) -> int | None:
    try:
        for line in Path(f"/proc/{pid}/fdinfo/{number}").read_text().splitlines():
            if line.startswith("mnt_id:"):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return None


def _mapped_files(pid: str) -> list[str]:
    try:
        raw = Path(f"/proc/{pid}/maps").read_bytes()
    except OSError:
        return []
    paths = dict.fromkeys(
        line.split(None, 5)[5] for line in raw.splitlines() if line.count(b"/") and b" /" in line
    )
    return [os.fsdecode(path) for path in paths]


def _pids() -> list[str]:
    return [entry for entry in _listdir("/proc") if entry.isdigit()]


def _listdir(path: str) -> list[str]:
    try:
        return [entry.name for entry in Path(path).iterdir()]
    except OSError:
        return []


def _readlink(path: str) -> str:
    try:
        return str(Path(path).readlink())
    except OSError:
        return ""


def _name(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "?"
