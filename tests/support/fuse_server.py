# SPDX-License-Identifier: Apache-2.0
"""A RAM device served over FUSE by a process of its own.

A test that touches its own mount from the thread that serves it waits for itself; a process of its
own cannot do that, and when it is ended the kernel ends every request. The test talks to it in
lines of JSON: ``call`` names a function below, the answer is one line.

Used as a module: ``with FuseServer(tmp_path, kind="native", loop="asyncio") as server: ...``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import anyio

from fusefs.fuse import RequestSlots, make_channel
from fusefs.host import LinuxHost
from pyscsi_init.device.fault import FaultDevice, Match
from pyscsi_init.device.interface import BlockDevice, BlockRequest, Limits, Operation
from pyscsi_init.device.ram import RamDevice
from pyscsi_init.errors import MediumError
from pyscsi_init.transport.loops import open_reactor

from . import processes

BAD_SECTOR = MediumError("bad sector", sense_key=3, asc=0x11, ascq=0)


# -- in the process of its own --------------------------------------------------------------------


class _Served:
    """What the lines from the test do."""

    def __init__(self, ram: RamDevice, fault: FaultDevice | None, channel: Any) -> None:
        self.ram = ram
        self.fault = fault
        self.channel = channel
        self.fua: list[bool] = []

    def statistics(self) -> dict[str, int]:
        return {**asdict(self.channel.statistics), "device_flushes": self.ram.flushes}

    def resize(self, size: int) -> None:
        self.ram.resize(size)

    def log(self) -> list[Any]:
        assert self.fault is not None
        found = [(operation.name, *rest) for operation, *rest in self.fault.log]
        self.fault.log.clear()
        return found

    def fail(self, operation: str, start: int, end: int) -> None:
        assert self.fault is not None
        operations = frozenset({Operation[operation]})
        self.fault.fail(BAD_SECTOR, Match(operations=operations, start=start, end=end))

    def hold(self, operation: str) -> None:
        assert self.fault is not None
        self.fault.hold(Match(operations=frozenset({Operation[operation]})))

    def held(self) -> int:
        assert self.fault is not None
        return len(self.fault.held)

    def release(self, order: str) -> int:
        assert self.fault is not None
        self.fault.clear()
        return self.fault.release(order="lifo" if order == "lifo" else "fifo")

    def watch_fua(self) -> None:
        assert self.fault is not None
        self.fault.hold(Match(predicate=self._look))

    def _look(self, request: BlockRequest) -> bool:
        if request.operation not in (Operation.READ, Operation.FLUSH):
            self.fua.append(request.fua)
        return False

    def seen_fua(self) -> list[bool]:
        return self.fua

    def peek(self, offset: int, length: int) -> str:
        return bytes(self.ram._view[offset : offset + length]).hex()

    def stop(self) -> None:
        self.channel.stop()

    def outstanding(self) -> list[Any]:
        return list(self.channel.slots.outstanding())

    def resend(self) -> None:
        self.channel.request_resend()


async def _serve(options: dict[str, Any]) -> None:
    if options["kind"] == "pyfuse3" and options["loop"] != "trio":
        # Its other mode keeps every finished task until the end: enough to measure, no more.
        pyfuse3_asyncio = importlib.import_module("pyfuse3.asyncio")
        pyfuse3_asyncio.enable()
    fd: int = options["fd"]
    limits = Limits(**options["limits"])
    ram = RamDevice(options["size"], options["block_size"], limits=limits, **options["ram"])
    fault = FaultDevice(ram) if options["fault"] else None
    device: BlockDevice = fault or ram
    async with open_reactor() as reactor:
        channel = make_channel(
            options["kind"],
            fd,
            device,
            reactor=reactor,
            read_only=options["read_only"],
            fua=options["fua"],
            slots=RequestSlots(options["slots"]) if options["slots"] >= 0 else None,
        )
        served = _Served(ram, fault, channel)
        unfinished = b""

        def commanded() -> None:
            nonlocal unfinished
            received = os.read(0, 1 << 16)
            if not received:
                reactor.remove_reader(0)
                channel.stop()
                return
            *lines, unfinished = (unfinished + received).split(b"\n")
            for line in lines:
                name, *arguments = json.loads(line)
                answer = getattr(served, name)(*arguments)
                os.write(1, json.dumps(answer).encode() + b"\n")

        channel.closed.append(lambda: None)
        async with anyio.create_task_group() as tasks:
            await tasks.start(channel.serve)
            reactor.add_reader(0, commanded)
            os.write(1, b'"serving"\n')
        reactor.remove_reader(0)
        os.write(1, json.dumps({"closed": channel.is_closed}).encode() + b"\n")


def main() -> None:
    options = json.loads(sys.argv[1])
    loop = options["loop"]
    backend_options = {"use_uvloop": True} if loop == "uvloop" else {}
    backend = "trio" if loop == "trio" else "asyncio"
    anyio.run(_serve, options, backend=backend, backend_options=backend_options)


# -- in the test ----------------------------------------------------------------------------------


class FuseServer:
    """A mount over a RAM device in another process; ``path`` is its block file."""

    def __init__(
        self,
        directory: Path,
        *,
        kind: str = "native",
        loop: str = "asyncio",
        size: int = 64 << 20,
        block_size: int = 512,
        read_only: bool = False,
        fua: bool = False,
        fault: bool = False,
        limits: dict[str, int] | None = None,
        successor_of: FuseServer | None = None,
        with_slots: bool = True,
        ram_read_only: bool = False,
    ) -> None:
        self.host = LinuxHost()
        self.kind = kind
        self._predecessor = successor_of
        self._takes_slots = with_slots
        self.mountpoint = directory / "mnt"
        if successor_of is None:
            self.mountpoint.mkdir(exist_ok=True)
        self.path = self.mountpoint / "lun"
        self._options: dict[str, Any] = {
            "kind": kind,
            "loop": loop,
            "size": size,
            "block_size": block_size,
            "read_only": read_only,
            "fua": fua,
            "fault": fault,
            "limits": limits or {},
            "ram": {"read_only": ram_read_only},
            "slots": -1,
        }
        self._fd = -1
        self.slots: RequestSlots | None = None
        """Of the native channel; this process only keeps them."""
        self.process: subprocess.Popen[bytes]
        self.connection: int

    def __enter__(self) -> FuseServer:
        if self._predecessor is not None:
            self._fd = fd = os.dup(self._predecessor._fd)
            kept = self._predecessor.slots
            if kept is not None and self._takes_slots:
                self.slots = RequestSlots(os.dup(kept.fd))
            self.connection = self._predecessor.connection
        else:
            self._fd = fd = self.host.open_fuse()
        if self.slots is None and self.kind == "native":
            self.slots = RequestSlots.create()
        passed = (fd,) if self.slots is None else (fd, self.slots.fd)
        self._options["slots"] = -1 if self.slots is None else self.slots.fd
        try:
            if self._predecessor is None:
                self.connection = self.host.fuse_mount(
                    fd, str(self.mountpoint), source="pyscsi-test", options=("allow_other",)
                )
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "tests.support.fuse_server",
                    json.dumps({**self._options, "fd": fd}),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=passed,
                start_new_session=True,  # Ctrl-C must not end the server of a mount in use
                cwd=Path(__file__).resolve().parent.parent.parent,
                env=processes.environment(),
            )
            assert self._line() == "serving"
        except BaseException:
            self._give_up()
            raise
        return self

    def kill(self) -> None:
        """SIGKILL. The descriptor is still open here, so the connection lives on."""
        processes.end(self.process.pid)
        self.process.wait()

    def _close(self) -> None:
        os.close(self._fd)
        if self.slots is not None:
            self.slots.close()

    def _give_up(self) -> None:
        self._close()
        if self._predecessor is None:
            self.unmount()
        process = getattr(self, "process", None)
        if process is not None:
            process.stdin.close()
            process.stdout.close()
            self.kill()

    def __exit__(self, *exc_info: object) -> None:
        try:
            self.unmount()
        finally:
            self._close()
            self.end()

    def unmount(self) -> None:
        """End the connection from the kernel's side, if it is still there."""
        self.host.umount(str(self.mountpoint), lazy=True)

    def end(self) -> Any:
        """Wait for the process; its last word."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        word: Any = None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        with contextlib.suppress(ValueError, subprocess.TimeoutExpired):
            rest = self.process.stdout.read()
            word = json.loads(rest.splitlines()[-1]) if rest else None
        self.process.stdout.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            processes.end(self.process.pid)
            self.process.wait()
            raise
        return word

    def _line(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the server ended: {self.process.wait()}"
        return json.loads(line)

    def call(self, name: str, *arguments: Any) -> Any:
        """Run one of the server's functions and return its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, *arguments]).encode() + b"\n")
        self.process.stdin.flush()
        return self._line()


@contextlib.contextmanager
def loop_device(path: Path, *, block_size: int = 512, read_only: bool = False) -> Iterator[str]:
    """A loop device with direct I/O over a served file."""
    host = LinuxHost()
    device = host.loop_attach(str(path), block_size=block_size, read_only=read_only)
    try:
        yield device.path
    finally:
        host.loop_detach(device)


if __name__ == "__main__":
    main()
