# SPDX-License-Identifier: Apache-2.0
"""A real iSNS server (open-isns) on loopback, private to one test: own port, own socket, own files.

Every registered node is in one discovery domain, unless ``default_domain=False``: then nobody sees
anybody until domains are made. Targets are put into it by ``isnsadm``, as an array would register
them.

Facts of open-isns that a test should know: it stores IPv4 addresses as its clients write them, and
isnsadm writes them IPv4-compatible (::127.0.0.1) instead of mapped.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from . import processes
from .closing import Closing
from .requirements import require
from .tgt import free_port


class IsnsFailed(Exception):
    """isnsd or isnsadm said no."""


class IsnsServer(Closing):
    """``with IsnsServer() as isns:`` runs isnsd; leaving the block ends it and waits for it."""

    def __init__(self, *, default_domain: bool = True, persistent: bool = False) -> None:
        self._isnsd, self._isnsadm = require("isnsd"), require("isnsadm")
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="isns-"))
        self.log = self.directory / "log"
        self._default_domain = default_domain
        self._database = str(self.directory / "database") if persistent else ""
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self) -> None:
        """Start it."""
        self.start()

    @property
    def address(self) -> str:
        """``127.0.0.1:PORT``."""
        return f"127.0.0.1:{self.port}"

    def _configuration(self, name: str, **more: str) -> Path:
        values = {
            "SourceName": f"iqn.2026-11.example.isns:{name}",
            "IQNPrefix": "iqn.2026-11.example.isns",
            "Database": self._database,
            "ServerAddress": self.address,
            "ControlSocket": str(self.directory / "control"),
            "PIDFile": str(self.directory / f"{name}.pid"),
            "DefaultDiscoveryDomain": str(int(self._default_domain)),
            "Security": "0",
            "SLPRegister": "0",
            "Network.ConnectTimeout": "5",
            "Network.CallTimeout": "5",
            **more,
        }
        path = self.directory / f"{name}.conf"
        path.write_text("".join(f"{key} = {value}\n" for key, value in values.items() if value))
        return path

    def start(self, timeout: float = 10.0) -> None:
        """Start isnsd and wait until it takes connections."""
        configuration = self._configuration("server", BindAddress=self.address)
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self._isnsd, "-f", "-4", "-c", str(configuration), "-d", "scn"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=processes.environment(),
                start_new_session=True,  # Ctrl-C is for whoever started it
                cwd=self.directory,
            )
        deadline = time.monotonic() + timeout
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), 1):
                    return
            except OSError:
                pass
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise IsnsFailed(f"isnsd did not start:\n{self.log.read_text(errors='replace')}")
            time.sleep(0.01)

    def kill(self) -> None:
        """SIGKILL, and wait for the end; without ``persistent`` all registrations are gone."""
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.wait(10)

    def pause(self) -> None:
        """Let it take connections and answer nothing, until :meth:`resume`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """The end of :meth:`pause`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End isnsd and remove its files."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def admin(self, *arguments: str, name: str = "admin") -> str:
        """Run isnsadm under a source name of its own, and return what it printed."""
        configuration = self._configuration(name)
        done = subprocess.run(
            [self._isnsadm, "-c", str(configuration), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            env=processes.environment(),
            check=False,
        )
        if done.returncode != 0:
            raise IsnsFailed(f"isnsadm {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout

    def add_target(self, name: str, *portals: str, entity: str = "array", alias: str = "") -> None:
        """Register a target with its portals (``host:port``) as the array ``entity`` does."""
        node = f"target={name}" + (f",alias={alias}" if alias else "")
        self.admin(
            "--register",
            f"entity={entity}",
            node,
            *(f"portal={portal}" for portal in portals),
            name=entity,
        )

    def remove_target(self, name: str, *, entity: str = "array") -> None:
        """Deregister a target."""
        self.admin("--deregister", f"iscsi-name={name}", name=entity)

    def nodes(self) -> str:
        """The nodes that share the default domain, as they are listed to the array ``array``."""
        return self.admin("--list", "nodes", name="array")
