# SPDX-License-Identifier: Apache-2.0
"""What runs the demo's containers: a Docker Engine that is there, one of our own, or namespaces.

An engine that is there serves only if its daemon lives in our mount namespace, for a bind mount is
looked up in the daemon's. One of our own keeps everything in the demo's directory and touches
neither the network nor the firewall. The image is made from a static busybox, without a registry.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import tarfile
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from fusefs.cli.demo.story import DemoFailed
from fusefs.cli.leftovers import processes_of
from fusefs.errors import NotAllowed
from fusefs.host import Bind, Container, Host, mountinfo
from fusefs.host.container import make_rootfs
from fusefs.host.records import MountEntry
from fusefs.host.run import find_program

MOUNT_POINT = "/mnt/iscsipd"
READY = "-- end of work --"
WORK_SECONDS = 60.0
START_SECONDS = 30.0
STOP_SECONDS = 20.0
COMMAND_SECONDS = 60.0
ENDLESS = "exec sleep 86400"


class Running(ABC):
    """A container that has done its work and stays until it is removed."""

    name: str
    output: str
    pid: int

    def mounts(self) -> list[MountEntry]:
        """What its mount table says about the volume."""
        table = mountinfo.read(self.pid)
        return [entry for entry in table if entry.mountpoint == MOUNT_POINT]

    @abstractmethod
    async def inspect(self) -> str:
        """What the engine says about its mounts; empty where there is no engine to ask."""

    @abstractmethod
    async def remove(self) -> None:
        """End it, and remove it with its own file system. Again does nothing."""


class Engine(ABC):
    """Starts containers. Everything it starts is gone after ``close``."""

    kind: str

    @abstractmethod
    async def start(self) -> None:
        """Be ready.

        Raises:
            NotAllowed, DemoFailed: it cannot be used here.
        """

    @abstractmethod
    async def run(self, name: str, script: str, source: Path, *, read_only: bool) -> Running:
        """Start a container with ``source`` at MOUNT_POINT and wait until ``script`` is done.

        Raises:
            DemoFailed: the script failed, or took too long.
        """

    @abstractmethod
    async def close(self) -> None:
        """Remove everything. Again does nothing."""


def _program(script: str) -> list[str]:
    return ["/bin/sh", "-c", f"set -eu\n{script}\necho '{READY}'\n{ENDLESS}"]


class Docker(Engine):
    """A Docker Engine behind a socket."""

    def __init__(self, directory: Path, url: str) -> None:
        self.kind = "Docker Engine"
        self._directory = directory
        self._url = url
        self._image = ""
        self._containers: list[_DockerContainer] = []

    async def docker(self, *arguments: str, data: bytes = b"", check: bool = True) -> str:
        """Run the docker command; returns what it printed."""
        program = find_program("docker")
        if program is None:
            raise NotAllowed("use Docker", "the docker command is not installed")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DOCKER_")}
        # Each of these takes a moment only; cut short it would leave the daemon half way.
        with anyio.CancelScope(shield=True), anyio.fail_after(COMMAND_SECONDS):
            done = await anyio.run_process(
                [program, "-H", self._url, *arguments],
                input=data,
                check=False,
                stderr=subprocess.PIPE,
                env={**environment, "DOCKER_CONFIG": str(self._directory / "docker-config")},
                start_new_session=True,
            )
        if done.returncode and check:
            reason = done.stderr.decode(errors="replace").strip()
            raise DemoFailed(f"docker {arguments[0]} ended with {done.returncode}: {reason}")
        return done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")

    async def start(self) -> None:
        version = (await self.docker("version", "--format", "{{.Server.Version}}")).strip()
        self.kind = f"{self.kind} {version.splitlines()[-1]}"
        rootfs = self._directory / "image"
        await anyio.to_thread.run_sync(make_rootfs, str(rootfs))
        archive = await anyio.to_thread.run_sync(_tar, rootfs)
        name = f"pyscsi-init-demo-{os.getpid()}:latest"
        await self.docker("import", "-", name, data=archive)
        self._image = name

    async def run(self, name: str, script: str, source: Path, *, read_only: bool) -> Running:
        name = f"{name}-{os.getpid()}"
        container = _DockerContainer(self, name)
        self._containers.append(container)
        await self.docker(
            "run",
            "--detach",
            "--name",
            name,
            "--network",
            "none",
            "--mount",
            f"type=bind,source={source},target={MOUNT_POINT}" + (",readonly" if read_only else ""),
            self._image,
            *_program(script),
        )
        await container.wait_for_work()
        return container

    async def close(self) -> None:
        for container in self._containers:
            await container.remove()
        self._containers.clear()
        if self._image:
            await self.docker("rmi", "--force", self._image)
            self._image = ""


class _DockerContainer(Running):
    def __init__(self, engine: Docker, name: str) -> None:
        self.name = name
        self.output = ""
        self.pid = 0
        self._engine = engine
        self._removed = False

    async def _inspected(self) -> dict[str, Any]:
        found = json.loads(await self._engine.docker("inspect", self.name))[0]
        assert isinstance(found, dict)  # noqa: S101  (for mypy)
        return found

    async def wait_for_work(self) -> None:
        deadline = time.monotonic() + WORK_SECONDS
        while True:
            state = (await self._inspected())["State"]
            text = await self._engine.docker("logs", self.name)
            self.output, ready, _ = text.partition(READY)
            if ready:
                self.pid = int(state["Pid"])
                return
            if not state["Running"]:
                raise DemoFailed(
                    f"container {self.name} ended with {state['ExitCode']}: {text.strip()}"
                )
            if time.monotonic() > deadline:
                raise DemoFailed(f"container {self.name} is not done: {text.strip()}")
            await anyio.sleep(0.05)

    async def inspect(self) -> str:
        mounts = (await self._inspected())["Mounts"]
        return f"docker inspect {self.name}: {json.dumps(mounts)}"

    async def remove(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        while not self._removed:
            said = await self._engine.docker("rm", "--force", "--volumes", self.name, check=False)
            listed = ("ps", "--all", "--quiet", "--filter", f"name={self.name}")
            self._removed = not (await self._engine.docker(*listed)).strip()
            if not self._removed and time.monotonic() > deadline:
                raise DemoFailed(f"container {self.name} cannot be removed: {said.strip()}")


def _tar(directory: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(directory, arcname=".")
    return buffer.getvalue()


class PrivateDocker(Docker):
    """A dockerd of our own, which lives as long as the demo."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, f"unix://{directory}/docker.sock")
        self.kind = "a private Docker Engine"
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        program = find_program("dockerd")
        if program is None:
            raise NotAllowed(
                "start Docker", "dockerd is not installed", remedy="apt-get install docker.io"
            )
        base = self._directory
        command = [program, "--host", self._url, "--data-root", f"{base}/docker-data"]
        command += ["--exec-root", f"{base}/docker-exec", "--pidfile", f"{base}/docker.pid"]
        command += ["--iptables=false", "--ip6tables=false", "--bridge=none"]
        command += ["--storage-driver=vfs", "--group=root", f"--config-file={base}/docker.json"]
        self._process = process = self._spawn(command)
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(DemoFailed):
                await super().start()
                return
            if process.poll() is not None or time.monotonic() > deadline:
                text = (base / "docker.log").read_text(errors="replace").strip()
                raise DemoFailed(f"dockerd did not start: {' | '.join(text.splitlines()[-3:])}")
            await anyio.sleep(0.05)

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        base = self._directory
        (base / "docker.json").write_text("{}")
        with (base / "docker.log").open("wb") as log:
            return subprocess.Popen(  # noqa: S603  (a fixed command, no shell)
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": str(base)},
                cwd=base,
                start_new_session=True,
            )

    async def close(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        try:
            if process.poll() is None:
                await super().close()
        finally:
            await anyio.to_thread.run_sync(self._end, process)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS)
        # A dockerd that was killed leaves its containerd and shims; their arguments name our files.
        for pid in processes_of(f"{self._directory}/docker-exec"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Namespaces(Engine):
    """Namespaces of the kernel, put together by fusefs.host: no engine at all."""

    kind = "namespaces of this kernel (no container engine)"

    def __init__(self, directory: Path, host: Host) -> None:
        self._directory = directory
        self._host = host
        self._containers: list[_NamespaceContainer] = []

    async def start(self) -> None:
        return

    async def run(self, name: str, script: str, source: Path, *, read_only: bool) -> Running:
        rootfs = self._directory / f"rootfs-{name}"
        rootfs.mkdir()

        def start() -> Container:
            started = self._host.start_container(
                _program(script),
                rootfs=str(rootfs),
                binds=[Bind(str(source), MOUNT_POINT, read_only)],
                hostname=name,
            )
            # Here, so that a caller who is cancelled meanwhile finds it in the list.
            self._containers.append(_NamespaceContainer(name, started))
            return started

        started = await anyio.to_thread.run_sync(start)
        container = next(one for one in self._containers if one.container is started)
        await container.wait_for_work()
        return container

    async def close(self) -> None:
        for container in self._containers:
            await container.remove()
        self._containers.clear()


class _NamespaceContainer(Running):
    def __init__(self, name: str, container: Container) -> None:
        self.name = name
        self.container = container
        self.output = ""
        self.pid = 0

    async def wait_for_work(self) -> None:
        stdout = self.container.process.stdout
        assert stdout is not None  # noqa: S101  (for mypy: started with pipes)
        with anyio.move_on_after(WORK_SECONDS):
            while True:
                line = await anyio.to_thread.run_sync(stdout.readline, abandon_on_cancel=True)
                text = line.decode(errors="replace")
                if text.strip() == READY:
                    self.pid = _inner_process(self.container.pid)
                    return
                if not line:
                    break
                self.output += text
        status = self.container.process.poll()
        raise DemoFailed(f"container {self.name} ended with {status}: {self.output.strip()}")

    async def inspect(self) -> str:
        return ""

    async def remove(self) -> None:
        await anyio.to_thread.run_sync(self.container.stop)


def _inner_process(pid: int) -> int:
    """The first process inside: the only child of the one that stands for it outside."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid


def shares_our_mounts(path: str) -> bool:
    """Whether the daemon behind a socket lives in our mount namespace."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(2.0)
            connection.connect(path)
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid, _, _ = struct.unpack("iII", credentials)
            theirs = Path(f"/proc/{pid}/ns/mnt").readlink()
            return theirs == Path("/proc/self/ns/mnt").readlink()
        except OSError:
            return False


def candidates(choice: str, directory: Path, host: Host) -> list[Engine]:
    """The engines to try, best first."""
    found: list[Engine] = []
    if choice in ("auto", "docker"):
        path = os.environ.get("DOCKER_HOST", "").removeprefix("unix://")
        path = path or host.capabilities().docker_socket or ""
        if path.startswith("/") and find_program("docker") and shares_our_mounts(path):
            found.append(Docker(directory, f"unix://{path}"))
        found.append(PrivateDocker(directory))
    if choice in ("auto", "namespaces"):
        found.append(Namespaces(directory, host))
    return found
