# SPDX-License-Identifier: Apache-2.0
"""A mount namespace of its own for the data path, where a container may be killed as a whole.

When a PID namespace is killed, all its processes end at once, and the last one that leaves a mount
namespace takes its mounts down with it. The kernel does that before it closes that process's
descriptors: do_exit() gives up the namespaces (exit_task_namespaces), and what was put off till
then runs afterwards, the last thing first (exit_task_work): the unmount of the file system was put
off later than the closing of /dev/fuse. So if that process has a /dev/fuse descriptor, the file
system is written out through a connection that is open and that nobody serves, for ever, in a wait
that SIGKILL does not end.

So holder, zygote and workers stand in a mount namespace in which the file systems of the volumes
are not mounted. Whoever ends last there takes nothing down that has to be written out, and closes
the connection; whoever ends last in the container's gets an error or an answer.

On a host, and in containers with the host's PID namespace, nothing of this is done: there the
namespaces outlive the processes, and a copy of the host's mounts would keep them busy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fusefs.host.process import CAP_SYS_ADMIN, has_capability
from fusefs.host.records import LoopDevice, MountEntry
from fusefs.host.run import find_program
from fusefs.host.syscalls import MNT_DETACH

_OF_PROCESS_1 = 0xEFFFFFFC
"""The inode of the first PID namespace of a machine (linux/proc_ns.h, PROC_PID_INIT_INO)."""

# With no shell, which an image need not have. Mounts that cannot be taken out of the copy are no
# reason to have no data path.
_SCRIPT = f"""
import ctypes, os, sys
count = int(sys.argv[1])
umount2 = ctypes.CDLL(None).umount2
for place in sys.argv[2 : 2 + count]:
    umount2(os.fsencode(place), {MNT_DETACH})
os.execvp(sys.argv[2 + count], sys.argv[2 + count :])
"""


def ends_as_a_whole() -> bool:
    """Whether this process, and all that it starts, is in a PID namespace that can be killed."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino != _OF_PROCESS_1
    except OSError:
        return False


def command(volumes: str, loops: Sequence[LoopDevice], mounts: Sequence[MountEntry]) -> list[str]:
    """The beginning of a command line that runs the rest in a mount namespace of its own; empty
    where there is no need, or no way. Volumes whose file lies below the directory ``volumes`` are
    not mounted in it, now or later."""
    program = find_program("unshare")
    if program is None or not ends_as_a_whole() or not has_capability(CAP_SYS_ADMIN):
        return []
    ours = {each.path for each in loops if each.backing_file.startswith(f"{volumes}{os.sep}")}
    # The last one first: what is mounted over another, or below it.
    there = [entry.mountpoint for entry in reversed(mounts) if entry.source in ours]
    apart = [program, "--mount", "--propagation", "private", "--"]
    if not there:
        return apart
    return [*apart, sys.executable, "-ISc", _SCRIPT, str(len(there)), *there]
