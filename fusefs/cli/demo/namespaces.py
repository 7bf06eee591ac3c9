# SPDX-License-Identifier: Apache-2.0
"""Containers without an engine: namespaces of the kernel, put together by fusefs.host."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import anyio
import anyio.to_thread

from fusefs.cli.demo.containers import MOUNT_POINT, READY, WORK_SECONDS, Engine, Running, program
from fusefs.cli.demo.story import DemoFailed
from fusefs.host import Bind, Container, Host

END_SECONDS = 2.0


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
                program(script),
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
        status: object = "no exit status"
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = await anyio.to_thread.run_sync(self.container.wait, END_SECONDS)
        raise DemoFailed(f"container {self.name} ended with {status}: {self.output.strip()}")

    async def inspect(self) -> str:
        return ""

    async def remove(self) -> None:
        await anyio.to_thread.run_sync(self.container.stop)


def _inner_process(pid: int) -> int:
    """The first process inside: the only child of the one that stands for it outside."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(children[0]) if children else pid
