# SPDX-License-Identifier: Apache-2.0
"""Containers of a Docker Engine: one that is there, or one of our own for as long as the demo.

One of our own keeps everything in the demo's directories and touches neither the network nor the
firewall. The image is made from a static busybox, without a registry.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from fusefs.cli.demo.containers import MOUNT_POINT, READY, WORK_SECONDS, Engine, Running, program
from fusefs.cli.demo.story import DemoFailed
from fusefs.cli.leftovers import is_under, processes_of
from fusefs.errors import NotAllowed
from fusefs.host import Host
from fusefs.host.container import make_rootfs
from fusefs.host.run import find_program

START_SECONDS = 30.0
STOP_SECONDS = 20.0
COMMAND_SECONDS = 60.0
LONGEST_DIRECTORY = 60


def short_directory(directory: Path) -> Path:
    """``directory``, or one in /run where containerd's sockets below it would have paths that are
    too long for a socket (unix(7): 107 bytes)."""
    return directory if len(str(directory)) < LONGEST_DIRECTORY else Path("/run", directory.name)


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
        client = find_program("docker")
        if client is None:
            raise NotAllowed("use Docker", "the docker command is not installed")
        environment = {k: v for k, v in os.environ.items() if not k.startswith("DOCKER_")}
        # Each of these takes a moment only; cut short it would leave the daemon half way.
        done = None
        with anyio.CancelScope(shield=True), anyio.move_on_after(COMMAND_SECONDS):
            done = await anyio.run_process(
                [client, "-H", self._url, *arguments],
                input=data,
                check=False,
                stderr=subprocess.PIPE,
                env={**environment, "DOCKER_CONFIG": str(self._directory / "docker-config")},
                start_new_session=True,
            )
        if done is None:
            raise DemoFailed(f"docker {arguments[0]} was not over within {COMMAND_SECONDS:g} s")
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
            *program(script),
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

    def __init__(self, directory: Path, host: Host) -> None:
        self._short = short_directory(directory)
        super().__init__(directory, f"unix://{self._short}/docker.sock")
        self.kind = "a private Docker Engine"
        self._host = host
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        daemon = find_program("dockerd")
        if daemon is None:
            raise NotAllowed(
                "start Docker", "dockerd is not installed", remedy="apt-get install docker.io"
            )
        base = self._directory
        command = [daemon, "--host", self._url, "--data-root", f"{base}/docker-data"]
        command += ["--exec-root", f"{self._short}/docker-exec", "--pidfile", f"{base}/docker.pid"]
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
        self._short.mkdir(mode=0o700, exist_ok=True)
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
        for pid in processes_of(f"{self._short}/docker-exec"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        # One that did not come up leaves the mount that it made of its directory.
        for entry in reversed(self._host.mounts()):
            for directory in (self._directory / "docker-data", self._short / "docker-exec"):
                if is_under(entry.mountpoint, str(directory)):
                    self._host.umount(entry.mountpoint, lazy=True)
