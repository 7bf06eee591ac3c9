# SPDX-License-Identifier: Apache-2.0
"""A Docker host of a test's own: its bridge, its NAT, and a storage network behind it.

::

    container ── bridge ── [ NAT ] ── veth ── target
    172.31.78.x  172.31.78.1   10.78.0.1       10.78.0.2
                └────── namespace host ──┘    └ namespace storage

Two network namespaces: ``host`` is where dockerd runs, so its bridge, its routes and its firewall
rules are there and nowhere else; ``storage`` is where a target runs. The storage network knows no
way back to the containers' addresses: what reaches a target from a container has been through NAT.
dockerd has a mount namespace of its own too, so nothing of it can stay. What is mounted below
``volumes`` while it runs is seen in there, as on a host whose mounts are shared.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from . import processes
from .closing import Closing
from .netns import NetworkNamespace
from .requirements import SBIN, require
from .tgt import TgtServer

HOST, STORAGE = "10.78.0.1", "10.78.0.2"
BRIDGE, ROUTED = "172.31.78.1/24", "172.31.79.0/24"
START_S, STOP_S, COMMAND_S = 60.0, 60.0, 300.0


class DockerError(Exception):
    """docker or dockerd said no."""


class BridgedDocker(Closing):
    """``with BridgedDocker() as engine:`` starts the namespaces and a dockerd in them."""

    def __init__(self) -> None:
        require("iptables")
        self._client, self._daemon = require("docker"), require("dockerd")
        self._unshare = require("unshare")
        self.host = NetworkNamespace("host")
        self.storage = NetworkNamespace("storage")
        # Short, because containerd's sockets lie below it and have 107 bytes for their paths.
        self.directory = Path(tempfile.mkdtemp(prefix="bridge-"))
        self.volumes = self.directory / "volumes"
        self._entered = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> str:
        """Where the engine listens, for ``DOCKER_HOST``."""
        return f"unix://{self.directory}/docker.sock"

    @property
    def log(self) -> str:
        """What dockerd has said."""
        return (self.directory / "log").read_text(errors="replace")

    def begin(self) -> None:
        """Make the networks and start dockerd; it answers on return."""
        self._entered.enter_context(self.host)
        self._entered.enter_context(self.storage)
        link = ("link", "add", "storage", "type", "veth", "peer", "name", "host")
        self.host.run("ip", *link, "netns", self.storage.name)
        for namespace, device, address in (
            (self.host, "storage", HOST),
            (self.storage, "host", STORAGE),
        ):
            namespace.run("ip", "addr", "add", f"{address}/24", "dev", device)
            namespace.run("ip", "link", "set", device, "up")
        self.volumes.mkdir()
        self._run("mount", "--bind", str(self.volumes), str(self.volumes))
        self._entered.callback(self._run, "umount", str(self.volumes))
        self._run("mount", "--make-private", str(self.volumes))
        self._run("mount", "--make-shared", str(self.volumes))
        self.start()

    @staticmethod
    def _run(*command: str) -> None:
        subprocess.run(command, check=True, capture_output=True, timeout=20)

    def start(self) -> None:
        """Start dockerd.

        Raises:
            DockerError: it does not answer in time; with its log.
        """
        here = self.directory
        (here / "daemon.json").write_text("{}")  # not the machine's own
        command = [
            *("--host", self.socket, "--data-root", f"{here}/data", "--exec-root", f"{here}/exec"),
            *("--pidfile", f"{here}/pid", f"--config-file={here}/daemon.json", "--group=root"),
            *("--storage-driver=overlay2", "--ip6tables=false", f"--bip={BRIDGE}"),
            "--shutdown-timeout=5",
        ]
        with (here / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self.host.command(
                    *(self._unshare, "--mount", "--propagation", "slave", "--"),
                    *(self._daemon, *command),
                ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment(),
                cwd=here,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(DockerError):
                self.docker("version")
                return
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise DockerError(f"dockerd did not start:\n{self.log}")
            time.sleep(0.05)

    def environment(self) -> dict[str, str]:
        """For ``docker``: this engine, and nothing of the user's own configuration."""
        mine = {k: v for k, v in processes.environment().items() if not k.startswith("DOCKER_")}
        path = f"{mine.get('PATH', '')}:{SBIN}"
        return {
            **mine,
            "PATH": path,
            "TMPDIR": str(self.directory),
            "DOCKER_CONFIG": f"{self.directory}/client",
            "DOCKER_HOST": self.socket,
        }

    def command(self, *arguments: str) -> list[str]:
        """The command line of ``docker`` for this engine."""
        return [self._client, "--host", self.socket, *arguments]

    def docker(self, *arguments: str, timeout: float = COMMAND_S) -> str:
        """Run ``docker`` and return its standard output.

        Raises:
            DockerError: it ended with an error, or not in time.
        """
        try:
            done = subprocess.run(
                self.command(*arguments),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout,
                env=self.environment(),
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise DockerError(f"docker {' '.join(arguments)}: not over in {timeout:g} s") from late
        if done.returncode:
            raise DockerError(
                f"docker {' '.join(arguments)}: ended with {done.returncode}\n"
                f"{done.stdout}{done.stderr}"
            )
        return done.stdout

    def import_image(self, archive: Path, name: str, *changes: str) -> None:
        """Make an image of a tar archive; ``changes`` are lines of a Dockerfile."""
        options = [text for change in changes for text in ("--change", change)]
        self.docker("import", *options, str(archive), name)

    def routed_network(self) -> str:
        """Make a second bridge, without NAT: the storage network is told the way back."""
        masquerade = "com.docker.network.bridge.enable_ip_masquerade=false"
        options = ("--driver", "bridge", "--subnet", ROUTED, "--opt", masquerade)
        self.docker("network", "create", *options, "routed")
        self.storage.run("ip", "route", "add", ROUTED, "via", HOST)
        return "routed"

    @contextlib.contextmanager
    def stopped_at_the_end(self, container: str) -> Iterator[None]:
        """Have a container end as it likes, and be removed, when the block ends."""
        try:
            yield
        finally:
            with contextlib.suppress(DockerError):  # it may have ended by itself
                self.docker("stop", "--time", "30", container)
            with contextlib.suppress(DockerError):
                self.docker("rm", "--force", "--volumes", container)

    def pid_of(self, container: str) -> int:
        """The process id, on this machine, of a container's first process."""
        return int(self.docker("inspect", "--format", "{{.State.Pid}}", container))

    def stop(self) -> None:
        """End dockerd, its containers and all that it started; again does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(DockerError):
            if left := self.docker("ps", "--all", "--quiet").split():
                self.docker("rm", "--force", "--volumes", *left)
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)
        # One that was killed leaves its containerd and its shims; their arguments name our files.
        for entry in os.listdir("/proc"):
            if entry.isdigit() and f"{self.directory}/" in processes.command_line(int(entry)):
                processes.end(int(entry))

    def close(self) -> None:
        """End everything and remove the namespaces."""
        try:
            self.stop()
        finally:
            self._entered.close()
            shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def storage_target(engine: BridgedDocker) -> Iterator[TgtServer]:
    """A tgt on the storage network, for the length of the block."""
    with contextlib.ExitStack() as stack:
        with engine.storage.entered():
            tgt = TgtServer(address=STORAGE)
            stack.callback(tgt.close)
            tgt.start()
        yield tgt
