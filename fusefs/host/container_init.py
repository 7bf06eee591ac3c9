# SPDX-License-Identifier: Apache-2.0
"""The first process of a small container: a program of its own, standard library only.

It is started as `python -I -S container_init.py JSON` by `container.start`, because between
unshare(2) and exec nothing of a threaded parent may run. It enters new mount, PID, UTS and IPC
namespaces, puts the root filesystem and the bind mounts together, changes its root and becomes the
program that was asked for. Its parent half stays outside and passes the exit status on. It imports
nothing of ours.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWPID = 0x20000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1

SETUP_FAILED = 125
"""Exit status where the container could not be made, as `docker run` has it."""

_DEVICES = ("null", "zero", "full", "random", "urandom")

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    """Raise OSError for a call that failed."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, fstype: str | None, flags: int, data: str = "") -> None:
    """mount(2)."""
    result = libc.mount(
        os.fsencode(source),
        os.fsencode(target),
        fstype.encode() if fstype else None,
        ctypes.c_ulong(flags),
        data.encode() if data else None,
    )
    check(result, f"mount {source} on {target}")


def bind(source: str, target: str, read_only: bool) -> None:
    """Bind ``source``, after making a target of its kind."""
    place = Path(target)
    if Path(source).is_dir():
        place.mkdir(parents=True, exist_ok=True)
    else:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    mount(source, target, None, MS_BIND | MS_REC)
    if read_only:
        mount("none", target, None, MS_BIND | MS_REMOUNT | MS_RDONLY)


def enter(config: dict[str, Any]) -> NoReturn:
    """In the new namespaces: build the root, change into it and execute."""
    root = config["rootfs"]
    mount(root, root, None, MS_BIND | MS_REC)
    for source, target, read_only in config["binds"]:
        bind(source, f"{root}/{target}", read_only)
    for name in _DEVICES:
        bind(f"/dev/{name}", f"{root}/dev/{name}", False)
    mount("proc", f"{root}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    hostname = config["hostname"].encode()
    check(libc.sethostname(hostname, len(hostname)), "sethostname")
    os.chdir(root)
    # pivot_root(".", ".") stacks the old root over the new one; the detach below takes it off. So
    # the container holds no mount of the host that it was not given.
    check(libc.syscall(_pivot_root_number(), b".", b"."), "pivot_root")
    check(libc.umount2(b".", MNT_DETACH), "umount the old root")
    os.chdir(config["directory"])
    os.execvpe(config["argv"][0], config["argv"], config["environment"])  # noqa: S606
    raise AssertionError("unreachable")


def _pivot_root_number() -> int:
    numbers = {"x86_64": 155, "i686": 217, "armv7l": 218, "s390x": 217, "ppc64le": 203}
    return numbers.get(os.uname().machine, 41)  # 41: aarch64, riscv64 and every newer one


def main() -> int:
    """Make the namespaces, start the inner process, wait for it or for the end of our parent."""
    config = json.loads(sys.argv[1])
    flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC
    check(libc.unshare(flags), "unshare")
    # slave: an unmount on the host reaches the container, nothing goes the other way.
    mount("none", "/", None, MS_REC | MS_SLAVE)
    lifeline: int = config["lifeline"]
    child = os.fork()
    if child == 0:
        try:
            # The inner process is PID 1 of its namespace: with it everything in there ends.
            check(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
            os.close(lifeline)
            enter(config)
        except OSError as fault:
            print(f"container: {fault}", file=sys.stderr, flush=True)  # noqa: T201 - a program
            os._exit(SETUP_FAILED)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: os.kill(child, received))
    # Not PR_SET_PDEATHSIG here: it follows the thread that started us, and a worker thread ends
    # while its program lives. The pipe's other end closes with the program.
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([ended, lifeline], [], [])
    if ended not in ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main())
