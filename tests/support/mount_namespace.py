# SPDX-License-Identifier: Apache-2.0
"""A private mount namespace: its own /run, and mounts that propagate inside and never out.

A container engine looks for volume plugins in /run/docker/plugins and nowhere else, and what a
plugin mounts must be seen by the engine. So both of one test live in one such namespace, and
several tests do so beside each other. Inside, everything is mounted shared, as systemd does it.

A new namespace begins as a copy of every mount of the machine. What other tests have mounted is
taken out of the copy at once, for it would keep their filesystems busy.

The namespace lives as long as its keeper, a process that this module is the program of, or as any
other process that was started in it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fusefs.host import LinuxHost, mountinfo, syscalls

from . import processes
from .closing import Closing
from .netns import NetworkNamespace
from .requirements import missing, require
from .source import ROOT

CLONE_NEWNS = 0x00020000
PROGRAM = "tests.support.mount_namespace"
READY = "ready"
CONNECTIONS = "/sys/fs/fuse/connections"
"""Here the keeper mounts what shows the FUSE connections of the whole machine."""
KEPT = ("/proc", "/sys", "/dev")
"""What is mounted here and below comes from the kernel, and no test has put it there."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """One mount inside."""

    mountpoint: str
    fstype: str
    source: str
    device_minor: int

    def __str__(self) -> str:
        return f"mount {self.mountpoint} ({self.fstype} from {self.source})"


class MountNamespace(Closing):
    """``with MountNamespace(run=directory):`` makes it; inside, ``directory`` is /run."""

    def __init__(self, *, run: Path, network: NetworkNamespace | None = None) -> None:
        """``network``: a namespace that what is started inside shall be in too."""
        if os.geteuid() != 0:
            missing("mount namespaces need root")
        self._nsenter = require("nsenter")
        self._run = run
        self._network = network
        self._keeper: subprocess.Popen[str] | None = None

    def begin(self) -> None:
        """Make it."""
        self._run.mkdir(parents=True, exist_ok=True)
        keeper = self._keeper = subprocess.Popen(
            [sys.executable, "-m", PROGRAM, str(self._run)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=processes.environment(),
            start_new_session=True,
        )
        assert keeper.stdout is not None
        if keeper.stdout.readline().strip() != READY:
            raise RuntimeError("the mount namespace could not be made; its error is above")

    def close(self) -> None:
        """End the keeper. What else runs inside has to be ended before."""
        keeper, self._keeper = self._keeper, None
        if keeper is not None:
            keeper.kill()
            keeper.communicate(timeout=10)

    @property
    def is_there(self) -> bool:
        """Between the beginning and the end."""
        return self._keeper is not None

    @property
    def pid(self) -> int:
        """The keeper's."""
        assert self._keeper is not None, "the namespace is not there"
        return self._keeper.pid

    def command(self, *command: str) -> list[str]:
        """The command line that runs ``command`` inside; it replaces itself by the command."""
        network = [f"--net={self._network.path}"] if self._network else []
        return [self._nsenter, f"--mount=/proc/{self.pid}/ns/mnt", *network, "--", *command]

    def mounts(self) -> list[Mounted]:
        """Everything that is mounted inside."""
        return [
            Mounted(entry.mountpoint, entry.fstype, entry.source, entry.minor)
            for entry in mountinfo.read(self.pid)
        ]

    def fuse_connections(self) -> set[int]:
        """The FUSE connections of the whole machine."""
        return {int(name) for name in os.listdir(f"/proc/{self.pid}/root{CONNECTIONS}")}

    def processes(self) -> set[int]:
        """Every process that is inside, but for the keeper."""
        inside = os.readlink(f"/proc/{self.pid}/ns/mnt")
        found = set()
        for entry in os.listdir("/proc"):
            if entry.isdigit() and int(entry) != self.pid:
                try:
                    if os.readlink(f"/proc/{entry}/ns/mnt") == inside:
                        found.add(int(entry))
                except OSError:
                    continue  # it ended
        return {pid for pid in found if processes.is_alive(pid)}


@contextlib.contextmanager
def freed(pid: int, volumes: str) -> Iterator[None]:
    """Whatever hangs on the FUSE file systems of volumes below ``volumes``, that are mounted in the
    namespace of the process ``pid`` now, is let go at the end."""
    place = re.compile(rf" 0:(\d+) / {re.escape(volumes)}/[^/ ]+/fuse .* - fuse")
    numbers = place.findall(Path(f"/proc/{pid}/mountinfo").read_text())
    assert numbers
    try:
        yield
    finally:
        for number in numbers:
            LinuxHost().fuse_abort(int(number))


def unshare_mounts() -> None:
    """Give this thread, and what it starts from now on, a mount namespace of its own: a copy of
    what there is, from which nothing propagates, in either direction."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)


def _is_kept(mountpoint: str) -> bool:
    needed = (str(ROOT), sys.prefix, sys.base_prefix, "/tmp", "/usr", "/var", "/etc", "/run")
    return (
        mountpoint == "/"
        or any(mountpoint == top or mountpoint.startswith(f"{top}/") for top in KEPT)
        or any(place == mountpoint or place.startswith(f"{mountpoint}/") for place in needed)
    )


def _keep(arguments: Sequence[str]) -> None:
    """The keeper: make the namespace, say so, and wait for the end of standard input."""
    unshare_mounts()
    for entry in reversed(mountinfo.read()):
        if not _is_kept(entry.mountpoint):
            syscalls.umount(entry.mountpoint, syscalls.MNT_DETACH)
    syscalls.mount(arguments[0], "/run", None, syscalls.MS_BIND)
    syscalls.mount("fusectl", CONNECTIONS, "fusectl", 0)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_SHARED)
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    _keep(sys.argv[1:])
