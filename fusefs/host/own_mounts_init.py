# SPDX-License-Identifier: Apache-2.0
"""The way into a mount namespace of the data path's own: a program, standard library only.

It is started as `python -I -S own_mounts_init.py COUNT DIRECTORY... COMMAND...`; own_mounts.py
says why, and what must stay mounted. The first directory is that of the volumes. It becomes the
command, also where it could not do all of that. It imports nothing of ours, and needs no other
program.

The order is the point. The copy is made a slave first: nothing that is done in it reaches the
container or the host, and the table still tells which mounts others have a hand in. Then it is made
private, so nothing comes in any more. What is mounted is read after that, so nothing is missed.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from collections.abc import Sequence
from typing import NamedTuple

CLONE_NEWNS = 0x00020000
MS_REC = 1 << 14
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

KEPT = ("/dev", "/proc", "/sys", "/run/netns", "/etc")
"""What is mounted here and below stays: the kernel's, network namespaces by name, resolv.conf."""

libc = ctypes.CDLL(None, use_errno=True)


class Mount(NamedTuple):
    """What is of interest of a line of proc_pid_mountinfo(5)."""

    number: int
    mountpoint: str
    is_slave: bool
    source: str


def table() -> list[Mount]:
    """All mounts; one is listed before those on it."""
    found = []
    with open("/proc/self/mountinfo", "rb") as file:  # noqa: PTH123 - pathlib takes long to import
        lines = os.fsdecode(file.read()).split("\n")
    for line in filter(None, lines):
        left, _, right = line.partition(" - ")
        number, _, _, _, mountpoint, _, *optional = left.split(" ")
        is_slave = any(field.startswith("master:") for field in optional)
        found.append(Mount(int(number), unescape(mountpoint), is_slave, right.split(" ")[1]))
    return found


def unescape(text: str) -> str:
    """Undo the kernel's octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def propagate(flag: int) -> None:
    """Set the propagation of all mounts."""
    check(libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | flag), None))


def check(result: int) -> None:
    """Raise OSError for a call that failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def is_of_a_volume(source: str, volumes: str) -> bool:
    """A loop device over a file below ``volumes``. Where our root is not that of the namespace,
    more stands before it."""
    try:
        path = f"/sys/block/{os.path.basename(source)}/loop/backing_file"  # noqa: PTH119
        with open(path, "rb") as file:  # noqa: PTH123
            return f"{volumes}/" in os.fsdecode(file.read())
    except OSError:
        return False


def is_needed(mountpoint: str, needed: Sequence[str]) -> bool:
    """It is one of KEPT or below, or anything that is needed lies in it."""
    if any(f"{mountpoint}/".startswith(f"{place}/") for place in KEPT):
        return True
    top = mountpoint.rstrip("/")
    return any(f"{place}/".startswith(f"{top}/") for place in (*KEPT, *needed))


def stand_apart(needed: Sequence[str]) -> None:
    """Make the namespace, and take out of it what must not be there.

    Raises:
        OSError: it was not made, or not all was done; nothing outside has changed.
    """
    check(libc.unshare(CLONE_NEWNS))
    propagate(MS_SLAVE)
    of_the_container_alone = {each.number for each in table() if not each.is_slave}
    propagate(MS_PRIVATE)
    # One goes before those on it, which go with it: so no path leads through a file system whose
    # server may not answer.
    for each in table():
        if is_of_a_volume(each.source, needed[0]) or not (
            each.number in of_the_container_alone or is_needed(each.mountpoint, needed)
        ):
            place = os.fsencode(each.mountpoint)
            while libc.umount2(place, MNT_DETACH | UMOUNT_NOFOLLOW) == 0:
                pass  # what lies over it went first


def main(arguments: list[str]) -> None:
    """Become the command."""
    count = int(arguments[0])
    command = arguments[1 + count :]
    try:
        stand_apart(arguments[1 : 1 + count])
    except OSError as error:  # no reason to have no data path
        sys.stderr.write(f"no mount namespace of its own for the data path: {error}\n")
        sys.stderr.flush()
    os.execvp(command[0], command)  # noqa: S606


if __name__ == "__main__":
    main(sys.argv[1:])
