# SPDX-License-Identifier: Apache-2.0
"""Whether the devices that volumes need can be opened, and not only seen.

A container's device group may refuse a device whose node is there: open(2) then fails with EPERM,
for root too, and nothing but opening tells. Opening a device whose driver is a module would load
it, so a device is opened only where its driver is in the kernel already.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from fusefs.host import fuse_mount, loop, mountinfo

_MISC = Path("/proc/misc")
_BLOCK = Path("/sys/block")
_DEVTMPFS = "devtmpfs"


def refused() -> dict[str, int]:
    """Device -> errno of opening it, of those that are there and cannot be opened: /dev/fuse,
    /dev/loop-control, and a loop device that is not in use."""
    drivers = _drivers()
    found = {}
    for path, driver in ((fuse_mount.DEVICE, "fuse"), (loop.CONTROL, "loop-control")):
        if driver in drivers and is_character_device(path):
            found[path] = _errno_of_opening(path, os.O_RDWR)
    free = _a_free_loop_device()
    if free is not None:
        found[free] = _errno_of_opening(free, os.O_RDONLY)
    return {path: number for path, number in found.items() if number}


def show_new_ones() -> bool:
    """Whether a loop device that the kernel makes appears in this /dev by itself."""
    entry = mountinfo.find("/dev")
    return entry is not None and entry.fstype == _DEVTMPFS


def is_character_device(path: str) -> bool:
    """Whether it is there and is one."""
    try:
        return stat.S_ISCHR(Path(path).stat().st_mode)
    except OSError:
        return False


def _drivers() -> set[str]:
    """The drivers of single devices that are in the kernel."""
    try:
        return {line.split()[-1] for line in _MISC.read_text().splitlines() if line.strip()}
    except OSError:
        return set()


def _a_free_loop_device() -> str | None:
    """One that has no file, so that opening it asks nobody."""
    try:
        names = sorted(path.name for path in _BLOCK.glob("loop*"))
    except OSError:
        return None
    for name in names:
        path = f"/dev/{name}"
        if not (_BLOCK / name / "loop/backing_file").exists() and Path(path).is_block_device():
            return path
    return None


def _errno_of_opening(path: str, flags: int) -> int:
    try:
        os.close(os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as fault:
        return fault.errno or 0
    return 0
