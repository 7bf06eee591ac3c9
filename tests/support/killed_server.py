# SPDX-License-Identifier: Apache-2.0
"""A FUSE server that is killed and started again, over and over, in a process of its own.

The process forks a server, lets it serve for a moment, ends it with SIGKILL, waits until it is dead
and forks the next one on the same /dev/fuse and the same request slots. It has no thread and no
event loop itself, so a fork is all that a new server costs. The device is memory that the servers
share; each request waits in a server for a moment and they end in any order, so that a kill finds
many under way. When the kills are done, the last server goes on until standard input ends.

Used as a module: ``with KilledServer(tmp_path, loop="asyncio") as server: ...``.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio

from fusefs.fuse import NativeChannel, RequestSlots
from fusefs.host import LinuxHost
from pyscsi_init.device.interface import BlockRequest
from pyscsi_init.device.ram import RamDevice
from pyscsi_init.device.wrapper import WrappedDevice
from pyscsi_init.transport.loops import open_reactor
from pyscsi_init.transport.reactor import Reactor

from . import processes

DELAY_S = 0.002


class SharedMemoryDevice(RamDevice):
    """A RamDevice whose memory is a file that several processes map."""

    def __init__(self, fd: int) -> None:
        size = os.fstat(fd).st_size
        super().__init__(size)
        self._view.release()
        self._memory.close()
        self._memory = mmap.mmap(fd, size, mmap.MAP_SHARED)
        self._view = memoryview(self._memory)

    def _zero(self, start: int, end: int) -> None:
        self._view[start:end] = bytes(end - start)


class TardyDevice(WrappedDevice):
    """``inner``, where a request is done a moment later and not in order.

    Writes differ in when they take effect: at once, or only when they are answered, so that a kill
    finds both: a write that is done and not answered, and one that is not even begun.
    """

    def __init__(self, inner: RamDevice, reactor: Reactor, seed: int) -> None:
        super().__init__(inner)
        self._reactor = reactor
        self._random = random.Random(seed)
        self._waiting: list[tuple[BlockRequest, bool]] = []

    def submit(self, request: BlockRequest) -> None:
        if self._random.random() < 0.1:
            self.inner.submit(request)
            return
        is_done = self._random.random() < 0.5
        if is_done:
            copy = BlockRequest(
                request.operation, request.offset, request.length, request.buffer, lambda _: None
            )
            self.inner.submit(copy)
            request.error = copy.error
        if not self._waiting:
            deadline = self._reactor.now() + self._random.random() * DELAY_S
            self._reactor.call_at(deadline, self._go_on)
        self._waiting.append((request, is_done))

    def _go_on(self) -> None:
        waiting, self._waiting = self._waiting, []
        self._random.shuffle(waiting)
        for request, is_done in waiting:
            if is_done:
                request.complete(request.error)
            else:
                self.inner.submit(request)


# -- in the process of its own --------------------------------------------------------------------


async def _serve(options: dict[str, Any], generation: int, serving: int) -> None:
    ram = SharedMemoryDevice(options["memory"])
    async with open_reactor() as reactor:
        device = TardyDevice(ram, reactor, generation)
        slots = RequestSlots(options["slots"])
        channel = NativeChannel(reactor, options["fd"], device, slots=slots)
        async with anyio.create_task_group() as tasks:
            await tasks.start(channel.serve)
            os.write(serving, b"+")


def _fork(options: dict[str, Any], generation: int, serving: int) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        loop = options["loop"]
        backend_options = {"use_uvloop": True} if loop == "uvloop" else {}
        backend = "trio" if loop == "trio" else "asyncio"
        arguments = (options, generation, serving)
        anyio.run(_serve, *arguments, backend=backend, backend_options=backend_options)
    finally:
        os._exit(0)


def main() -> None:
    options = json.loads(sys.argv[1])
    rng = random.Random(options["seed"])
    slots = RequestSlots(options["slots"])
    found: list[int] = []
    is_serving, serving = os.pipe()
    pid = _fork(options, 0, serving)
    os.write(1, b'"serving"\n')
    for generation in range(1, options["kills"] + 1):
        # Most are killed while they serve, some while they begin.
        if rng.random() < 0.8:
            os.read(is_serving, 1)
            time.sleep(rng.uniform(0, 0.05))
        else:
            time.sleep(rng.uniform(0, 0.02))
        processes.end(pid)
        found.append(len(slots.outstanding()))
        os.close(is_serving)
        os.close(serving)
        is_serving, serving = os.pipe()
        pid = _fork(options, generation, serving)
    os.write(1, json.dumps(found).encode() + b"\n")
    sys.stdin.read()
    processes.end(pid)


# -- in the test ----------------------------------------------------------------------------------


class KilledServer:
    """A mount whose server is killed ``kills`` times; ``path`` is its block file."""

    def __init__(
        self, directory: Path, *, loop: str = "asyncio", size: int, kills: int, seed: int = 0
    ) -> None:
        self.host = LinuxHost()
        self.mountpoint = directory / "mnt"
        self.mountpoint.mkdir()
        self.path = self.mountpoint / "lun"
        self._options: dict[str, Any] = {"loop": loop, "kills": kills, "seed": seed}
        self._size = size

    def __enter__(self) -> KilledServer:
        self._fd = self.host.open_fuse()
        self.slots = RequestSlots.create()
        self._memory = os.memfd_create("disk")
        os.ftruncate(self._memory, self._size)
        descriptors = {"fd": self._fd, "slots": self.slots.fd, "memory": self._memory}
        try:
            self.connection = self.host.fuse_mount(
                self._fd, str(self.mountpoint), source="pyscsi-test", options=("allow_other",)
            )
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.support.killed_server",
                    json.dumps({**self._options, **descriptors}),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=tuple(descriptors.values()),
                cwd=Path(__file__).resolve().parent.parent.parent,
                env=processes.environment(),
            )
            assert self._line() == "serving"
        except BaseException:
            self._close()
            raise
        return self

    def kills(self) -> list[int]:
        """Wait until all kills are done: how many requests each has left."""
        found: list[int] = self._line()
        return found

    def _line(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the server ended: {self._process.wait()}"
        return json.loads(line)

    def _close(self) -> None:
        self.host.umount(str(self.mountpoint), lazy=True)
        os.close(self._fd)
        os.close(self._memory)
        self.slots.close()

    def __exit__(self, *exc_info: object) -> None:
        try:
            if exc_info[0] is not None:
                self.host.fuse_abort(self.connection)
        finally:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.stdout.read()
            self._process.stdout.close()
            self._process.wait(30)
            self._close()


if __name__ == "__main__":
    main()
