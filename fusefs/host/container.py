# SPDX-License-Identifier: Apache-2.0
"""A small container without a container engine, for the demo and for hosts that have none.

It gives a program what makes a volume worth showing: a mount namespace, a root filesystem of
its own and the volume in it. It is no sandbox: same user, same network, all capabilities. The
root is built from a static busybox; the work inside the namespaces is `container_init`, a
program of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fusefs.errors import CallFailed, CommandFailed, NotAllowed
from fusefs.host import mountinfo
from fusefs.host.run import KILL_GRACE_S, require_program, run

_DIRECTORIES = ("bin", "dev", "etc", "proc", "root", "tmp", "usr/bin", "usr/sbin", "sbin", "var")
_ENVIRONMENT = {"PATH": "/bin:/sbin:/usr/bin:/usr/sbin", "HOME": "/root", "TERM": "xterm"}


@dataclass(frozen=True, slots=True)
class Bind:
    """A directory or file of the host, and where the container sees it."""

    source: str
    target: str
    read_only: bool = False


@dataclass(slots=True)
class Container:
    """A running container. Leave it with ``stop``: its root directory goes with it."""

    process: subprocess.Popen[bytes]
    rootfs: str
    _owns_rootfs: bool = field(repr=False)
    _lifeline: int | None = field(repr=False)

    @property
    def pid(self) -> int:
        """The process outside that stands for the container."""
        return self.process.pid

    def wait(self, timeout_s: float | None = None) -> int:
        """The exit status of the program (128 + number where a signal ended it).

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        return self.process.wait(timeout_s)

    def stop(self, *, grace_s: float = 0.0) -> int:
        """End it, with SIGKILL after ``grace_s``, and remove its root; again does nothing."""
        if self.process.poll() is None and grace_s > 0:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(grace_s)
        if self.process.poll() is None:
            self.process.kill()
        status = self.process.wait(KILL_GRACE_S)
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()
        if self._owns_rootfs and not _mounts_in(self.rootfs):
            # Its mounts lay in its own namespace; on the host these are plain files. A mount that
            # somebody made here meanwhile would be emptied with them, hence the look.
            shutil.rmtree(self.rootfs, ignore_errors=True)
        return status


def make_rootfs(directory: str) -> None:
    """A root filesystem from the host's static busybox.

    Raises:
        NotAllowed: there is no busybox, or it needs shared libraries.
    """
    busybox = require_program("busybox", "busybox-static")
    root = Path(directory)
    try:
        for name in _DIRECTORIES:
            (root / name).mkdir(parents=True, exist_ok=True)
        shutil.copy2(busybox, root / "bin/busybox")
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\n")
    except OSError as fault:
        raise CallFailed("write", directory, fault.errno or 0) from fault
    try:
        listing = run((busybox, "--list-full"), timeout_s=30).stdout
        for line in listing.split():
            link = root / line
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists() and not link.is_symlink():
                link.symlink_to("/bin/busybox")
        # A program that needs shared libraries cannot even start in there.
        run(("chroot", directory, "/bin/busybox", "true"), timeout_s=30)
    except CommandFailed as fault:
        raise NotAllowed(
            "make a root filesystem from busybox", fault.output, remedy="install busybox-static"
        ) from fault


def start(
    argv: Sequence[str],
    *,
    rootfs: str,
    binds: Sequence[Bind] = (),
    hostname: str = "container",
    directory: str = "/",
    terminal: bool = False,
) -> Container:
    """Run ``argv`` in a new container; see ``Host.start_container``."""
    fresh = not (Path(rootfs) / "bin").exists()
    if fresh:
        make_rootfs(rootfs)
    theirs, ours = os.pipe2(os.O_CLOEXEC)
    config = {
        "rootfs": os.path.realpath(rootfs),
        "binds": [[os.path.realpath(b.source), b.target, b.read_only] for b in binds],
        "hostname": hostname,
        "directory": directory,
        "argv": list(argv),
        "environment": _ENVIRONMENT,
        "lifeline": theirs,
    }
    program = str(Path(__file__).with_name("container_init.py"))
    command = (sys.executable, "-I", "-S", program, json.dumps(config))
    pipe = None if terminal else subprocess.PIPE
    try:
        process = subprocess.Popen(
            command,
            stdin=None if terminal else subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            pass_fds=(theirs,),
        )
    except OSError as fault:
        os.close(ours)
        raise CommandFailed(command[:4], exit_status=None, output=str(fault)) from fault
    finally:
        os.close(theirs)
    return Container(process, str(config["rootfs"]), fresh, ours)


def _mounts_in(directory: str) -> bool:
    return any(
        entry.mountpoint == directory or entry.mountpoint.startswith(directory + "/")
        for entry in mountinfo.read()
    )
