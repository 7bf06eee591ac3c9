# SPDX-License-Identifier: Apache-2.0
"""A process that mounts a blank LUN and is killed in the middle of mkfs, after a number of I/Os.

The helper of crashing.py runs it. How far mkfs is, the target says: the shim under its backing
file counts what is done and slows it down, so the count is exact to a few I/Os.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import struct
import threading
import time
from pathlib import Path
from typing import Any

import anyio

from fusefs.host import LinuxHost
from fusefs.process.holder_client import HolderClient
from fusefs.spec import VolumeSpec
from fusefs.volume.known import KnownVolumes
from fusefs.volume.manager import VolumeManager
from tests.fusefs.volume.crashing import CASE_VARIABLE, kill_all
from tests.support.slow_pwrite import FIELDS


class Progress:
    """How many calls the shim has let through, read from its orders."""

    def __init__(self, orders: str) -> None:
        descriptor = os.open(orders, os.O_RDONLY | os.O_CLOEXEC)
        self._memory = mmap.mmap(descriptor, 8 * len(FIELDS), prot=mmap.PROT_READ)
        os.close(descriptor)

    @property
    def passed(self) -> int:
        return int(struct.unpack_from("=Q", self._memory, 8 * FIELDS.index("passed"))[0])


def mkfs_of(parent: int) -> int:
    """The mkfs that a process has started."""
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                stat = Path(f"/proc/{entry}/stat").read_text()
            except OSError:
                continue
            name, _, rest = stat.partition("(")[2].rpartition(")")
            if name.startswith("mkfs") and int(rest.split()[1]) == parent:
                return int(entry)
    raise ProcessLookupError("no mkfs")


def cut_host(case: str, after: int, whom: str, progress: Progress, count: Path) -> LinuxHost:
    """This host; its mkfs ends, or all of us do, after that many I/Os at the target."""

    def kill() -> None:
        if whom == "mkfs":
            os.kill(mkfs_of(os.getpid()), signal.SIGKILL)
            return
        if whom == "all":
            kill_all(case)
        os.kill(os.getpid(), signal.SIGKILL)

    def mkfs(self: LinuxHost, *arguments: Any, **options: Any) -> None:
        before = progress.passed
        done = 0
        is_over = threading.Event()

        def watch() -> None:
            nonlocal done
            while not is_over.is_set():
                if after and progress.passed - before >= after:
                    kill()
                    return
                if not after:
                    # The program's own: what is looked at when it has ended does not count.
                    with contextlib.suppress(ProcessLookupError):
                        mkfs_of(os.getpid())
                        done = progress.passed - before
                time.sleep(0.0002)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            LinuxHost.mkfs(self, *arguments, **options)
        finally:
            is_over.set()
            watcher.join()
        count.write_text(str(done))

    return type("CutHost", (LinuxHost,), {"mkfs": mkfs})()


def cut(
    base: str,
    url: str,
    case: str,
    orders: str,
    after: int,
    whom: str,
    settings: dict[str, Any],
) -> None:
    """Mount; ``whom`` (mkfs, command, all) is killed after that many I/Os of mkfs, 0 for never."""
    os.environ[CASE_VARIABLE] = case
    place = Path(base)
    host = cut_host(case, after, whom, Progress(orders), Path(f"{base}.count"))
    holder = HolderClient(place / "run", host)
    manager = VolumeManager(host, place / "run", place / "state", holder=holder)
    known = KnownVolumes(manager)
    spec = VolumeSpec(name="data", url=url, format_if_blank=True, **settings)

    async def use() -> None:
        await known.define(spec, owner="test")
        await known.use("data", "one")

    anyio.run(use)
