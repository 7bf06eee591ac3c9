# SPDX-License-Identifier: Apache-2.0
"""A Linux guest as an ordinary process: User Mode Linux, in a network namespace of its own.

It has kernel modules that a host may lack, boots in about two seconds, needs no image (its root is
the host's, so scripts and results are simply files) and ends like any process. Commands reach it as
the paths of scripts on a serial line; when the test process dies, the line ends, and so does the
guest.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from . import processes
from .closing import Closing
from .netns import NetworkNamespace
from .requirements import missing, require

ADDRESS, HOST_ADDRESS = "10.77.0.2", "10.77.0.1"
"""The guest's and this side's; the namespace is private, so every guest has the same."""

MODULES = Path("/usr/lib/uml/modules")
SOURCE = Path(__file__).with_name("uml_xstate.c")

INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o size=100% tmpfs /mnt
mkdir -p /mnt/dev /mnt/lib/modules/$(uname -r)
mount -t devtmpfs dev /mnt/dev
mount --bind {modules}/$(uname -r) /mnt/lib/modules/$(uname -r)
ip link set lo up
ip addr add {address}/24 dev vec0
ip link set vec0 up
exec </mnt/dev/ttyS0 >/mnt/dev/ttyS0 2>&1
stty -echo -onlcr
echo "=ready= 0"
while read -r script; do
    sh "$script"
    echo "=$script= $?"
done
echo o >/proc/sysrq-trigger
sleep 10
"""


class GuestError(Exception):
    """The guest did not boot, died, or a command in it failed."""


class Guest(Closing):
    """``with Guest() as guest:`` boots it; ``guest.run(SCRIPT)`` runs shell commands in it.

    In the guest, /mnt is a tmpfs and /mnt/dev has its devices; everything else is the host's.
    """

    def __init__(self, *, memory_mib: int = 1024) -> None:
        self._uml = require("linux.uml")
        self._ip = require("ip")
        require("modprobe")
        self._compiler = require("gcc")
        if not MODULES.is_dir():
            missing(f"{MODULES} is not there (Debian package user-mode-linux)")
        if not Path("/dev/net/tun").exists():
            missing("needs /dev/net/tun")
        self.memory_mib = memory_mib
        self.namespace = NetworkNamespace("uml")
        self.directory = Path(tempfile.mkdtemp(prefix="uml-"))
        self.log = self.directory / "log"
        """The guest kernel's messages."""
        self._process: subprocess.Popen[bytes] | None = None
        self._commands = self._answers = -1
        self._received = b""
        self._scripts = 0
        self._entered = False

    # -- the process ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Start it."""
        self._prepare()
        self.start()

    def _prepare(self) -> None:
        self._shim = self.directory / "uml_xstate.so"
        flags = ("-O2", "-Wall", "-Werror", "-shared", "-fPIC")
        subprocess.run(
            [self._compiler, *flags, "-o", str(self._shim), str(SOURCE), "-ldl"],
            check=True,
            timeout=60,
        )
        self._init = self.directory / "init"
        self._init.write_text(INIT.format(modules=MODULES, address=ADDRESS))
        self._init.chmod(0o755)
        self.namespace.__enter__()
        self._entered = True
        self.namespace.run("ip", "tuntap", "add", "dev", "tap0", "mode", "tap")
        self.namespace.run("ip", "addr", "add", f"{HOST_ADDRESS}/24", "dev", "tap0")
        self.namespace.run("ip", "link", "set", "tap0", "up")

    @property
    def pid(self) -> int:
        """The process id of the guest's kernel."""
        if self._process is None:
            raise GuestError("the guest does not run")
        return self._process.pid

    def start(self, timeout: float = 60.0) -> None:
        """Boot, and wait until it takes commands."""
        if self._process is not None:
            raise GuestError("the guest runs already")
        to_guest, self._commands = os.pipe2(os.O_CLOEXEC)
        self._answers, from_guest = os.pipe2(os.O_CLOEXEC)
        self._received = b""
        arguments = [
            self._uml,
            f"mem={self.memory_mib}M",
            f"uml_dir={self.directory}/control",
            "root=/dev/root",
            "rootfstype=hostfs",
            "rootflags=/",
            "rw",
            f"init={self._init}",
            "con=null",
            "con0=null,fd:1",
            "ssl=null",
            f"ssl0=fd:{to_guest},fd:{from_guest}",
            "vec0:transport=tap,ifname=tap0,depth=64,gro=1",
            "panic=1",
            "quiet",
        ]
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    self.namespace.command(*arguments),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=processes.environment(LD_PRELOAD=str(self._shim)),
                    cwd=self.directory,
                    pass_fds=(to_guest, from_guest),
                    start_new_session=True,
                )
        finally:
            os.close(to_guest)
            os.close(from_guest)
        try:
            self._answer("ready", timeout)
        except GuestError:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL, as when the power fails, and wait for the end."""
        if self._process is not None:
            process, self._process = self._process, None
            # Its processes are its children and in its group; they would survive it.
            parts = processes.children(process.pid)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
            for pid in parts:
                processes.wait_exit(pid)
        for descriptor in (self._commands, self._answers):
            if descriptor >= 0:
                os.close(descriptor)
        self._commands = self._answers = -1

    def close(self) -> None:
        """End the guest and remove its namespace and its directory."""
        self.kill()
        if self._entered:
            self._entered = False
            self.namespace.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- commands -------------------------------------------------------------------------------

    def _answer(self, name: str, timeout: float) -> tuple[int, str]:
        """Status and output of the command that ends with ``=NAME= STATUS``."""
        deadline = time.monotonic() + timeout
        mark = f"={name}= ".encode()
        while True:
            output, found, rest = self._received.partition(mark)
            status, ended, rest = rest.partition(b"\n")
            if found and ended:
                self._received = rest
                return int(status), output.decode(errors="replace")
            left = deadline - time.monotonic()
            ready = select.select([self._answers], [], [], max(0.0, left))[0]
            data = os.read(self._answers, 65536) if ready else b""
            if not data:
                reason = "ended" if ready else f"does not answer within {timeout} s"
                said = self._received.decode(errors="replace")
                raise GuestError(f"the guest {reason}: {said}\n{self.kernel_log()[-4000:]}")
            self._received += data

    def kernel_log(self) -> str:
        """What the guest's kernel said."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def run(self, script: str, timeout: float = 30.0) -> str:
        """Run a shell script in the guest and return its output; it stops at the first error.

        Raises:
            GuestError: the guest is gone, or a command in the script failed.
        """
        if self._process is None:
            raise GuestError("the guest does not run")
        self._scripts += 1
        path = self.directory / f"script-{self._scripts}"
        path.write_text(f"set -e\n{script}\n")
        os.write(self._commands, f"{path}\n".encode())
        status, output = self._answer(str(path), timeout)
        if status != 0:
            said = f"{output}\n{self.kernel_log()[-2000:]}"
            raise GuestError(f"status {status} of:\n{script}\n{said}")
        return output

    def modprobe(self, *modules: str, options: str = "") -> None:
        """Load kernel modules in the guest."""
        for module in modules:
            self.run(f"modprobe -d /mnt {module} {options}")
