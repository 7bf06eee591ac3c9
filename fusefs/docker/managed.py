# SPDX-License-Identifier: Apache-2.0
"""The first process of a managed Docker plugin: ``python -m fusefs.docker.managed``.

Docker ends such a plugin by its first process, and everything in it ends with that: so this one is
not the front door but stands before it. It listens on the plugin's socket, for which Docker waits
some seconds only, starts `pyscsi-init serve --docker` with it, and starts that again when it dies:
the volumes go on meanwhile, and whoever calls waits in the socket.

At its start no process of a volume lives, whatever is mounted: what an earlier run has left is
cleared by force, and nobody uses it any more. At its end Docker grants ten seconds: what is written
and not flushed is written out, what no container uses is taken down, and what one still uses is
left to it with its errors. A plugin on the host does not have that end; that is what it is for.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    # What takes a moment to import comes when the socket listens.
    from fusefs.volume.manager import VolumeManager

log = logging.getLogger("fusefs.docker")

SOCKET = "/run/docker/plugins/pyscsi-init.sock"
"""Where Docker has the directory of the plugin's socket; its name is in config.json."""
FIRST_PASSED_FD = 3
"""sd_listen_fds(3)"""

VERBOSE_VARIABLE = "PYSCSI_INIT_VERBOSE"
MOUNTS_VARIABLE = "PYSCSI_INIT_MOUNTS"
DOCKER_HOST_VARIABLE = "PYSCSI_INIT_DOCKER_HOST"

PAUSE_SECONDS = 1.0
"""Before a front door that died is started again; Docker asks again for 30 s."""
SERVE_SECONDS = 2.0
END_SECONDS = 6.0
"""Together less than the ten seconds after which Docker kills."""
LEFT_SECONDS = 60.0
"""Clearing at the start; the first call waits for it."""


def serve_command() -> list[str]:
    """The front door, as the plugin's environment wants it."""
    command = [sys.executable, "-P", "-m", "fusefs.cli", "serve", "--docker"]
    for variable, option in (
        (MOUNTS_VARIABLE, "--mounts"),
        (DOCKER_HOST_VARIABLE, "--docker-host"),
    ):
        if value := os.environ.get(variable):
            command += [option, value]
    return command + ["--verbose"] * _verbosity()


def _verbosity() -> int:
    text = os.environ.get(VERBOSE_VARIABLE, "0")
    return min(int(text), 2) if text.isdecimal() else 0


async def clear(manager: VolumeManager) -> None:
    """Take down what an earlier run has left, and forget who used it."""
    from fusefs.errors import VolumeError
    from fusefs.volume import listing
    from fusefs.volume.hostcalls import host_call
    from pyscsi_init.errors import IscsiError

    names = await host_call(functools.partial(listing.names, manager.directories))
    for name in names:
        try:
            await manager.ensure_gone(name, force=True)
        except (VolumeError, IscsiError, OSError) as error:
            log.warning("volume %s of an earlier run: %s", name, error)
        else:
            log.warning("volume %s of an earlier run was cleared", name)
    for file in manager.directories.uses.glob("*.json"):
        file.unlink(missing_ok=True)


async def end(manager: VolumeManager) -> None:
    """Take every volume down, which begins with writing everything out. What a container still has
    stays half way. Never raises, and takes no longer than Docker grants."""
    import anyio

    from fusefs.errors import VolumeError
    from pyscsi_init.errors import IscsiError

    async def one(name: str) -> None:
        try:
            await manager.ensure_gone(name)
        except (VolumeError, IscsiError, OSError) as error:
            log.warning("volume %s: %s", name, error)

    with anyio.move_on_after(END_SECONDS):
        async with anyio.create_task_group() as group:
            for volume in await manager.status():
                group.start_soon(one, volume.name)


def listen(path: str) -> socket.socket:
    """The plugin's socket. Of an earlier run nothing lives, so its socket is replaced."""
    Path(path).unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(path)
    Path(path).chmod(0o600)
    made.listen(128)
    return made


class FirstProcess:
    """Keeps a front door running until it is told to end."""

    WAITS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)

    def __init__(self, command: list[str], listener: socket.socket) -> None:
        self._command = command
        self._listener = listener
        self._child = 0

    def run(self) -> None:
        """Return after SIGTERM, when the front door has ended."""
        while True:
            if not self._child:
                self._start()
            received = signal.sigwaitinfo(self.WAITS).si_signo
            if received == signal.SIGCHLD:
                self._reap()
            elif received == signal.SIGHUP:
                os.kill(self._child, signal.SIGHUP)
            else:
                break
        self._stop()

    def _start(self) -> None:
        self._child = os.fork()
        if not self._child:
            try:
                self._become_the_front_door()
            finally:
                os._exit(127)

    def _become_the_front_door(self) -> NoReturn:
        passed = {
            "LISTEN_FDS": "1",
            "LISTEN_FDNAMES": "docker",
            "LISTEN_PID": str(os.getpid()),
        }
        os.dup2(self._listener.fileno(), FIRST_PASSED_FD)
        os.set_inheritable(FIRST_PASSED_FD, True)  # where it was that number already
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        os.execve(self._command[0], self._command, {**os.environ, **passed})  # noqa: S606

    def _reap(self) -> None:
        """Take note of the front door's end, and of whatever else is left to us."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self._child:
                self._child = 0
                code = os.waitstatus_to_exitcode(status)
                log.warning("the front door ended with %s and is started again", code)
                time.sleep(PAUSE_SECONDS)

    def _stop(self) -> None:
        if not self._child:
            return
        os.kill(self._child, signal.SIGTERM)
        deadline = time.monotonic() + SERVE_SECONDS
        while self._child and (left := deadline - time.monotonic()) > 0:
            if signal.sigtimedwait((signal.SIGCHLD,), left):
                pid, _ = os.waitpid(self._child, os.WNOHANG)
                if pid:
                    return
        os.kill(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)


def main() -> None:
    """Listen, clear, serve, end."""
    # From now on a signal waits until it is asked for; who is started gets no mask.
    signal.pthread_sigmask(signal.SIG_BLOCK, FirstProcess.WAITS)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    listener = listen(SOCKET)

    import anyio

    from fusefs.host import LinuxHost
    from fusefs.process.orphans import adopt_orphans
    from fusefs.volume.manager import VolumeManager

    adopt_orphans()
    manager = VolumeManager(LinuxHost())

    async def at_the_start() -> None:
        with anyio.move_on_after(LEFT_SECONDS):
            await clear(manager)

    anyio.run(at_the_start)
    FirstProcess(serve_command(), listener).run()
    anyio.run(end, manager)


if __name__ == "__main__":
    main()
