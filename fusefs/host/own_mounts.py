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

The namespace is a private copy of the container's, so what is mounted later is not in it. What is
in it is there until the last volume is gone, and keeps its file system busy; so two kinds of mounts
are taken out of the copy (own_mounts_init.py): those of volumes, and those in which others have a
hand, by propagation from the host (`rshared`, `rslave`) or to it. When the host unmounts a disk it
goes from the container, but would not go from a private copy. A copy that is a slave would let it
go; but a container whose mounts are shared among themselves looks the same from inside, and there a
slave would get the volumes of later. What holder and workers need stays in any case: the run
and state directories, the code, and what lies above these.

On a host, and in containers with the host's PID namespace, nothing of this is done: there the
namespaces outlive the processes, and a copy of the host's mounts would keep them busy.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from fusefs.host.process import CAP_SYS_ADMIN, has_capability

_OF_PROCESS_1 = 0xEFFFFFFC
"""The inode of the first PID namespace of a machine (linux/proc_ns.h, PROC_PID_INIT_INO)."""


def ends_as_a_whole() -> bool:
    """Whether this process, and all that it starts, is in a PID namespace that can be killed."""
    try:
        return Path("/proc/self/ns/pid").stat().st_ino != _OF_PROCESS_1
    except OSError:
        return False


def command(volumes: str, needed: Sequence[str] = ()) -> list[str]:
    """The beginning of a command line that runs the rest in a mount namespace of its own; empty
    where there is no need, or no way. Volumes whose file lies below the directory ``volumes`` are
    not mounted in it, now or later; what the directories ``needed``, that one, and those of this
    interpreter lie on is."""
    if not ends_as_a_whole() or not has_capability(CAP_SYS_ADMIN):
        return []
    code = (sys.executable, sys.prefix, sys.base_prefix, *sys.path)
    places = [os.path.realpath(each) for each in (volumes, *needed, *filter(None, code))]
    places = list(dict.fromkeys(places))
    program = str(Path(__file__).with_name("own_mounts_init.py"))
    return [sys.executable, "-I", "-S", program, str(len(places)), *places]
