# SPDX-License-Identifier: Apache-2.0
"""A real tgt on loopback, private to one test: own port, own control socket, own log.

What the test set up is remembered as the commands that did it, so that :meth:`TgtServer.restart`
after a SIGKILL gives the same targets, accounts and parameters on the same port, as a target that
was rebooted would.

Facts of tgt that a test should know: LUN 0 is its controller, disks begin at 1; every login brings
a unit attention; CHAP algorithms 5 and 7 only, and 7 means SHA1; MaxRecvDataSegmentLength is never
declared, so 8192 holds for what the initiator sends; digests are refused until :meth:`set_param`
allows them; SIGTERM may be ignored.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import processes
from .closing import Closing
from .requirements import require
from .slow_pwrite import BackingFault

DIGESTS = "CRC32C,None"
ADMISSION = frozenset(("bind", "ALL"))
"""In the command after which initiators may log in."""


class TgtError(Exception):
    """tgtd or tgtadm said no."""


@dataclass(frozen=True, slots=True)
class Nexus:
    """One session as tgt lists it."""

    tid: int
    number: int
    initiator: str
    connections: tuple[int, ...]


@dataclass(slots=True)
class Lun:
    """What :meth:`TgtServer.add_lun` was given, for the changes that name it again."""

    tid: int
    number: int
    path: Path
    block_size: int
    params: dict[str, str] = field(default_factory=dict)


BELOW_EPHEMERAL = range(12_000, 32_000)
"""The kernel gives none of these to a connection, so a port stays free for who restarts on it."""


def free_port(address: str = "127.0.0.1", *, ipv6: bool = False) -> int:
    """A TCP port that is free on ``address`` (and on ::1) at this moment."""
    while True:
        port = secrets.choice(BELOW_EPHEMERAL)
        with (
            contextlib.suppress(OSError),
            socket.socket() as first,
            socket.socket(socket.AF_INET6) as second,
        ):
            first.bind((address, port))
            if ipv6:
                second.bind(("::1", port))
            return port


class TgtServer(Closing):
    """``with TgtServer() as tgt:`` runs tgtd; leaving the block ends it and waits for its end."""

    def __init__(
        self,
        *,
        address: str = "127.0.0.1",
        port: int | None = None,
        ipv6: bool = False,
        fault_on: Path | None = None,
    ) -> None:
        """``address`` is any of 127.0.0.0/8; ``fault_on`` names the backing file on which
        ``self.fault`` shall work."""
        self._tgtd, self._tgtadm = require("tgtd"), require("tgtadm")
        self.ipv6 = ipv6
        self.address = address
        self.port = port or free_port(address, ipv6=ipv6)
        self.directory = Path(tempfile.mkdtemp(prefix="tgt-"))
        self.log = self.directory / "log"
        self.fault = BackingFault(self.directory, fault_on) if fault_on else None
        self.luns: dict[tuple[int, int], Lun] = {}
        self.targets: dict[int, str] = {}
        self._configuration: list[tuple[str, ...]] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    # -- the process ----------------------------------------------------------------------------

    def begin(self) -> None:
        """Start it."""
        self.start()

    @property
    def portal(self) -> str:
        """``ADDRESS:PORT``."""
        return f"{self.address}:{self.port}"

    @property
    def portal6(self) -> str:
        """``[::1]:PORT``; only with ``ipv6=True``."""
        return f"[::1]:{self.port}"

    @property
    def pid(self) -> int:
        """The process id of tgtd."""
        if self._process is None:
            raise TgtError("tgtd does not run")
        return self._process.pid

    def url(self, tid: int, lun: int | None = None, *, user: str = "") -> str:
        """The iscsi:// URL of a target or a LUN."""
        login = f"{user}@" if user else ""
        unit = "" if lun is None else f"/{lun}"
        return f"iscsi://{login}{self.portal}/{self.targets[tid]}{unit}"

    def start(self, timeout: float = 10.0) -> None:
        """Start tgtd and wait until it answers; then set up again what was set up before."""
        if self._process is not None:
            raise TgtError("tgtd runs already")
        # A new control socket each time: the old one of a killed tgtd stays behind.
        self._starts += 1
        self._environment = processes.environment(
            TGT_IPC_SOCKET=str(self.directory / f"control-{self._starts}")
        )
        fault = self.fault.environment if self.fault else {}
        portals = f"portal={self.portal}" + (f",portal={self.portal6}" if self.ipv6 else "")
        with self.log.open("ab") as log:
            log_start = log.tell()
            self._process = subprocess.Popen(
                [self._tgtd, "-f", "-C", "1", "--iscsi", portals],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment | fault,
                start_new_session=True,  # Ctrl-C is for whoever started it
                cwd=self.directory,
            )
        deadline = time.monotonic() + timeout
        while True:
            try:
                answer = self._run("--op", "show", "--mode", "portal")
            except TgtError:
                answer = ""
            if self.portal in answer:
                break
            taken = b"Address already in use" in self.log.read_bytes()[log_start:]
            if taken or self._process.poll() is not None or time.monotonic() > deadline:
                text = self.log.read_text(errors="replace")[log_start:]
                self.kill()
                raise TgtError(f"tgtd did not start on {self.portal}:\n{text}")
            time.sleep(0.01)
        # An initiator that waits for its target must not find it half set up.
        for command in sorted(self._configuration, key=ADMISSION.issubset):
            self._run(*command)

    def kill(self) -> None:
        """SIGKILL, and wait for the end. The configuration is kept for :meth:`restart`."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGCONT)  # a stopped process would otherwise keep its sockets
        process.kill()
        process.wait(10)

    def restart(self) -> None:
        """Kill tgtd if it runs, and start it on the same port with the same configuration."""
        self.kill()
        self.start()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """SIGSTOP for the length of the block: connections stay open and nothing answers."""
        process = self._process
        if process is None:
            raise TgtError("tgtd does not run")
        process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End tgtd and remove its directory (not the backing files)."""
        if self.fault:
            self.fault.close()
            self.fault = None
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- configuration --------------------------------------------------------------------------

    def _run(self, *arguments: str) -> str:
        result = subprocess.run(
            [self._tgtadm, "-C", "1", "--lld", "iscsi", *arguments],
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=20,
            check=False,
        )
        # tgtadm ends some refusals with status 0 and a line on stderr.
        if result.returncode != 0 or result.stderr.strip():
            raise TgtError(f"tgtadm {' '.join(arguments)}: {result.stderr.strip()}")
        return result.stdout

    def _configure(self, *arguments: str) -> None:
        self._run(*arguments)
        self._configuration.append(arguments)

    def new_target(self, iqn: str, *, allow_all: bool = True) -> int:
        """Make a target and return its number."""
        tid = max(self.targets, default=0) + 1
        self._configure("--op", "new", "--mode", "target", "--tid", str(tid), "-T", iqn)
        self.targets[tid] = iqn
        if allow_all:
            self.allow_all(tid)
        return tid

    def allow_all(self, tid: int) -> None:
        """Any initiator address may log in."""
        self._configure("--op", "bind", "--mode", "target", "--tid", str(tid), "-I", "ALL")

    def add_lun(
        self,
        tid: int,
        lun: int,
        path: Path,
        *,
        size_bytes: int | None = None,
        block_size: int = 512,
        readonly: bool = False,
        thin: bool = False,
        params: dict[str, Any] | None = None,
    ) -> Lun:
        """Make ``path`` (created with ``size_bytes`` when given) the logical unit ``lun``.

        ``params`` are tgt's own names, such as scsi_id, scsi_sn, vendor_id, product_id.
        """
        if size_bytes is not None:
            with path.open("ab") as file:
                file.truncate(size_bytes)
        unit = ("--mode", "logicalunit", "--tid", str(tid), "--lun", str(lun))
        self._configure("--op", "new", *unit, "-b", str(path), "--blocksize", str(block_size))
        self.luns[tid, lun] = Lun(tid, lun, path, block_size)
        wanted = {key: str(value) for key, value in (params or {}).items()}
        if readonly:
            wanted["readonly"] = "1"
        if thin:
            wanted["thin_provisioning"] = "1"
        if wanted:
            self.set_lun_params(tid, lun, **wanted)
        return self.luns[tid, lun]

    def set_lun_params(self, tid: int, lun: int, **params: object) -> None:
        """Change parameters of a logical unit, one by one."""
        unit = ("--mode", "logicalunit", "--tid", str(tid), "--lun", str(lun))
        for key, value in params.items():
            self._configure("--op", "update", *unit, "--params", f"{key}={value}")
            self.luns[tid, lun].params[key] = str(value)

    def set_online(self, tid: int, lun: int, online: bool) -> None:
        """Offline units answer NOT READY."""
        self.set_lun_params(tid, lun, online=int(online))

    def grow(self, tid: int, lun: int, size_bytes: int) -> None:
        """Change the size of a LUN's backing file and have tgt read it again.

        tgt sends no unit attention for it: initiators see NOT READY and then the new capacity.
        """
        unit = self.luns[tid, lun]
        with unit.path.open("r+b") as file:
            file.truncate(size_bytes)
        self.replace_backing(tid, lun, unit.path)

    def replace_backing(self, tid: int, lun: int, path: Path) -> None:
        """Put another file behind a LUN, as tgt allows even under a live session."""
        self.set_online(tid, lun, False)
        self.set_lun_params(tid, lun, path=path)
        self.set_online(tid, lun, True)
        self.luns[tid, lun].path = path

    def delete_lun(self, tid: int, lun: int) -> None:
        """Remove a logical unit."""
        unit = ("--mode", "logicalunit", "--tid", str(tid), "--lun", str(lun))
        self._configure("--op", "delete", *unit)
        del self.luns[tid, lun]

    def require_chap(self, tid: int, user: str, secret: str, *, outgoing: bool = False) -> None:
        """Make an account and bind it: incoming is what the initiator proves, outgoing what the
        target proves in mutual CHAP."""
        self._configure("--op", "new", "--mode", "account", "--user", user, "--password", secret)
        bind = ["--op", "bind", "--mode", "account", "--tid", str(tid), "--user", user]
        self._configure(*bind, *(["--outgoing"] if outgoing else []))

    def change_secret(self, tid: int, user: str, secret: str) -> None:
        """Another secret for an account of :meth:`require_chap`; sessions that are there stay."""
        self._run("--op", "delete", "--mode", "account", "--user", user)
        self._configuration = [each for each in self._configuration if user not in each]
        self.require_chap(tid, user, secret)

    def set_param(self, tid: int, name: str, value: object) -> None:
        """Set a target parameter: an RFC 7143 key (HeaderDigest, MaxBurstLength ...) or one of tgt
        itself (nop_interval, nop_count)."""
        target = ("--mode", "target", "--tid", str(tid))
        self._configure("--op", "update", *target, "--name", name, "--value", str(value))

    def set_system(self, name: str, value: object) -> None:
        """Set a parameter of tgtd itself, such as where it registers its targets."""
        self._configure("--op", "update", "--mode", "sys", "--name", name, "--value", str(value))

    def allow_digests(self, tid: int) -> None:
        """Let the initiator choose HeaderDigest and DataDigest; tgt refuses CRC32C otherwise."""
        self.set_param(tid, "HeaderDigest", DIGESTS)
        self.set_param(tid, "DataDigest", DIGESTS)

    def redirect(self, tid: int, address: str, port: int, *, permanent: bool = False) -> None:
        """Answer logins to this target with a redirection (RFC 7143 11.13.5).

        tgt ignores a redirection to the address that the initiator already talks to, whatever the
        port: give the other server another ``address``.
        """
        self.set_param(tid, "RedirectAddress", address)
        self.set_param(tid, "RedirectPort", port)
        self.set_param(tid, "RedirectReason", "Permanent" if permanent else "Temporary")

    # -- what tgt sees --------------------------------------------------------------------------

    def sessions(self, tid: int | None = None) -> list[Nexus]:
        """The sessions that tgt has now, of one target or of all."""
        found: list[Nexus] = []
        target = number = 0
        initiator = ""
        for line in self._run("--op", "show", "--mode", "target").splitlines():
            if match := re.match(r"Target (\d+):", line):
                target = int(match[1])
            elif match := re.match(r"\s+I_T nexus: (\d+)", line):
                number = int(match[1])
                initiator = ""
            elif match := re.match(r"\s+Initiator: (\S+)", line):
                initiator = match[1]
                found.append(Nexus(target, number, initiator, ()))
            elif match := re.match(r"\s+Connection: (\d+)", line):
                last = found.pop()
                connections = (*last.connections, int(match[1]))
                found.append(Nexus(last.tid, last.number, last.initiator, connections))
        return [nexus for nexus in found if tid in (None, nexus.tid)]

    def close_connection(self, nexus: Nexus, connection: int = 0) -> None:
        """Have tgt close one connection from its side."""
        of_target = ("--mode", "conn", "--tid", str(nexus.tid))
        of_session = ("--sid", str(nexus.number), "--cid", str(connection))
        self._run("--op", "delete", *of_target, *of_session)

    def wait_sessions(self, count: int, tid: int | None = None, timeout: float = 5.0) -> None:
        """Wait until tgt has exactly that many sessions (0 after every logout)."""
        deadline = time.monotonic() + timeout
        while len(found := self.sessions(tid)) != count:
            if time.monotonic() > deadline:
                raise AssertionError(f"tgt has {len(found)} sessions, {count} expected: {found}")
            time.sleep(0.01)
