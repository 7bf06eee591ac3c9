# SPDX-License-Identifier: Apache-2.0
"""What the kernel's tables of the whole machine have that belongs to one test."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable
from pathlib import Path

from .mount_namespace import Mounted


def loop_devices_over(directory: str) -> list[str]:
    """Loop devices whose file lies in ``directory``, in whatever mount namespace that is."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):  # it is being detached
            if directory in (text := backing.read_text().strip()):
                found.append(f"loop device {backing.parts[3]} ({text})")
    return found


def of_no_mount(connections: Collection[int], mounts_inside: Iterable[Mounted]) -> list[str]:
    """Which of these FUSE connections, which exist, have nothing mounted by them.

    The kernel uses the number of a connection again: one that has a mount, inside or in any other
    mount namespace, as that of a test beside this one, is another's now, because the mounts of the
    first one are looked for too.
    """
    mounted = {each.device_minor for each in mounts_inside}
    seen = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ends
            namespace = (process / "ns/mnt").readlink()
            if namespace not in seen:
                lines = (process / "mountinfo").read_text(errors="replace").splitlines()
                mounted.update(int(line.split()[2].partition(":")[2]) for line in lines)
                seen.add(namespace)
    return [f"FUSE connection {number}" for number in sorted(set(connections) - mounted)]
