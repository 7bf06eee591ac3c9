# SPDX-License-Identifier: Apache-2.0
"""The iSCSI target of the demo: the one in Python, or a private tgtd. Two LUNs on sparse files.

Each is a process of its own in a session of its own, so that Ctrl-C at the terminal does not end it
before the volumes on it are taken down. ``sessions()`` is the target's side of the story: what tgt
lists, or the TCP connections that the target's process holds.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import IO

import anyio
import anyio.to_thread

import fusefs
import pyscsi_init
from fusefs.cli.demo.story import DemoFailed
from fusefs.errors import NotAllowed
from fusefs.host.run import find_program

TARGET_NAME = "iqn.2026-11.io.pyscsi-init:demo"
START_SECONDS = 15.0
STOP_SECONDS = 5.0
LOGOUT_SECONDS = 5.0
_ESTABLISHED = "01"


class Server(ABC):
    """A target on loopback with two LUNs."""

    kind: str
    luns: tuple[int, int]
    """The LUN with content and the blank one."""
    note = ""

    def __init__(self, directory: Path, images: tuple[Path, Path]) -> None:
        self.directory = directory
        self.images = images
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def portal(self) -> str:
        """``host:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of the target."""
        if self._process is None:
            raise DemoFailed("the target does not run")
        return self._process.pid

    def url(self, index: int) -> str:
        """The URL of the first or the second LUN."""
        return f"iscsi://{self.portal}/{TARGET_NAME}/{self.luns[index]}"

    @abstractmethod
    async def start(self) -> None:
        """Start it; it answers on return.

        Raises:
            NotAllowed: a program is missing.
            DemoFailed: it did not start.
        """

    @abstractmethod
    async def sessions(self) -> list[str]:
        """The sessions that the target has, in words."""

    async def wait_for_sessions(self, count: int) -> list[str]:
        """The sessions, once there are ``count`` of them.

        Raises:
            DemoFailed: there are not, after some seconds.
        """
        deadline = time.monotonic() + LOGOUT_SECONDS
        while len(found := await self.sessions()) != count:
            if time.monotonic() > deadline:
                raise DemoFailed(
                    f"the target has {len(found)} sessions, {count} expected: {'; '.join(found)}"
                )
            await anyio.sleep(0.02)
        return found

    def _spawn(self, command: list[str], *, out: int | IO[bytes], **variables: str) -> None:
        with (self.directory / "target.log").open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  (a fixed command, no shell)
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env={**os.environ, **variables},
                cwd=self.directory,
                start_new_session=True,
            )

    def _log_end(self) -> str:
        with contextlib.suppress(OSError):
            text = (self.directory / "target.log").read_text(errors="replace")
            return " | ".join(text.strip().splitlines()[-4:])
        return ""

    async def stop(self, *, kill: bool = False) -> None:
        """End it and wait for its end; again does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        await anyio.to_thread.run_sync(_end, process, kill)


def _end(process: subprocess.Popen[bytes], kill: bool) -> None:
    try:
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(STOP_SECONDS)
    finally:
        if process.stdout is not None:
            process.stdout.close()


class PythonServer(Server):
    """``python -m pyscsi_init.testing``."""

    kind = "the target in Python (pyscsi_init.testing)"
    luns = (0, 1)

    async def start(self) -> None:
        roots = dict.fromkeys(
            str(Path(module.__path__[0]).parent) for module in (fusefs, pyscsi_init)
        )
        arguments = ["--target", TARGET_NAME, "--thin"]
        for lun, image in zip(self.luns, self.images, strict=True):
            arguments += ["--lun", f"{lun}={image}"]
        self._spawn(
            [sys.executable, "-P", "-m", "pyscsi_init.testing", *arguments],
            out=subprocess.PIPE,
            PYTHONPATH=os.pathsep.join(roots),
        )
        process = self._process
        assert process is not None  # noqa: S101  (for mypy: it was just made)
        assert process.stdout is not None  # noqa: S101  (for mypy: a pipe)
        line = b""
        with anyio.move_on_after(START_SECONDS):
            # An abandoned reader ends with the process, which whoever cancels us also ends.
            line = await anyio.to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True)
        try:
            portal = json.loads(line)["portal"]
        except (ValueError, KeyError):
            raise DemoFailed(f"the target did not start: {self._log_end()}") from None
        self.port = int(portal.rpartition(":")[2])

    async def sessions(self) -> list[str]:
        return _connections_of(self.pid, self.port)


def _connections_of(pid: int, port: int) -> list[str]:
    """The TCP connections that process ``pid`` has accepted on ``port``, as the kernel has it."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if match := re.match(r"socket:\[(\d+)\]", str(entry.readlink())):
                inodes.add(match[1])
    found = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        local, remote = fields[1].split(":"), fields[2].split(":")
        if int(local[1], 16) == port and fields[3] == _ESTABLISHED and fields[9] in inodes:
            found.append(f"TCP connection from 127.0.0.1:{int(remote[1], 16)}")
    return found


class TgtServer(Server):
    """A tgtd of our own: control socket and port are private."""

    kind = "tgt (a tgtd of our own)"
    luns = (1, 2)
    note = "LUN 0 of tgt is its controller, so the disks are LUN 1 and 2"

    async def start(self) -> None:
        tgtd = find_program("tgtd")
        self._tgtadm = find_program("tgtadm") or ""
        if tgtd is None or not self._tgtadm:
            raise NotAllowed(
                "start tgt", "tgtd or tgtadm is not installed", remedy="apt-get install tgt"
            )
        for attempt in range(1, 6):
            self.port = _free_port()
            socket_path = str(self.directory / f"tgt-{attempt}")
            self._environment = {**os.environ, "TGT_IPC_SOCKET": socket_path}
            self._spawn(
                [tgtd, "-f", "-C", "1", "--iscsi", f"portal={self.portal}"],
                out=subprocess.DEVNULL,
                TGT_IPC_SOCKET=socket_path,
            )
            if await self._answers():
                break
            await self.stop(kill=True)
        else:
            raise DemoFailed(f"tgtd did not start: {self._log_end()}")
        target = ("--mode", "target", "--tid", "1")
        await self._admin("--op", "new", *target, "-T", TARGET_NAME)
        for lun, image in zip(self.luns, self.images, strict=True):
            unit = ("--mode", "logicalunit", "--tid", "1", "--lun", str(lun))
            await self._admin("--op", "new", *unit, "-b", str(image))
            await self._admin("--op", "update", *unit, "--params", "thin_provisioning=1")
        await self._admin("--op", "bind", *target, "-I", "ALL")

    async def _answers(self) -> bool:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process is None or self._process.poll() is not None:
                return False
            with contextlib.suppress(DemoFailed):
                if self.portal in await self._admin("--op", "show", "--mode", "portal"):
                    return True
            await anyio.sleep(0.02)
        return False

    async def _admin(self, *arguments: str) -> str:
        done = await anyio.run_process(
            [self._tgtadm, "-C", "1", "--lld", "iscsi", *arguments],
            check=False,
            env=self._environment,
            start_new_session=True,
        )
        # tgtadm ends some refusals with status 0 and a line on standard error.
        if done.returncode or done.stderr.strip():
            reason = done.stderr.decode(errors="replace").strip()
            raise DemoFailed(f"tgtadm {' '.join(arguments)}: {reason}")
        return done.stdout.decode(errors="replace")

    async def sessions(self) -> list[str]:
        found, nexus = [], ""
        for line in (await self._admin("--op", "show", "--mode", "target")).splitlines():
            if match := re.match(r"\s+I_T nexus: (\d+)", line):
                nexus = match[1]
            elif match := re.match(r"\s+Initiator: (\S+)", line):
                found.append(f"I_T nexus {nexus} of {match[1]}")
        return found

    async def stop(self, *, kill: bool = True) -> None:
        # tgtd may ignore SIGTERM; its files are sparse images that nobody needs any more.
        await super().stop(kill=kill)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


SERVERS: dict[str, type[Server]] = {"python": PythonServer, "tgt": TgtServer}
