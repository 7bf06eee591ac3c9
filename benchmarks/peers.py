# SPDX-License-Identifier: Apache-2.0
"""The C peers with the same data path as ours: a LUN as a FUSE file, with a loop device over it.

- ``qemu-storage-daemon``: libiscsi and a FUSE export in one process. Debian's 7.2 uses one buffer
  for all requests, so parallel writes corrupt each other: its reads and its writes at depth 1 are
  fair figures, its deeper writes are those of a broken peer.
- the same with one background request at a time in the kernel: correct.
- ``nbdfuse`` over ``qemu-nbd``: correct.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import processes

from .criteria import NBDFUSE, QEMU, QEMU_SERIAL
from .level import Context
from .processes import Failed, daemon, descendants, run, wait_until

URL = re.compile(r"iscsi://(?P<portal>[^/]+)/(?P<target>[^/]+)/(?P<lun>\d+)")
CONNECTIONS = Path("/sys/fs/fuse/connections")


@dataclass(frozen=True, slots=True)
class Peer:
    """A block device that a peer serves, and the processes that serve it."""

    device: str
    pids: tuple[int, ...]


@contextlib.contextmanager
def peer(context: Context, kind: str, url: str) -> Iterator[Peer]:
    """A peer over a LUN, for the length of the block."""
    context.step(f"start {kind}")
    start = _nbdfuse if kind == NBDFUSE else _qemu_storage_daemon
    number = sum(1 for _ in context.directory.glob("peer*"))
    directory = context.directory / f"peer{number}"
    directory.mkdir()
    with start(kind, url, directory) as (file, pids), _loop(file) as device:
        yield Peer(device, pids)


@contextlib.contextmanager
def _qemu_storage_daemon(
    kind: str, url: str, directory: Path
) -> Iterator[tuple[Path, tuple[int, ...]]]:
    found = URL.fullmatch(url)
    if found is None:
        raise Failed(f"{url} is not understood")
    file, log = directory / "lun", directory / "log"
    file.touch()
    command = [
        "qemu-storage-daemon",
        "--blockdev",
        (
            f"driver=iscsi,node-name=d0,transport=tcp,portal={found['portal']},"
            f"target={found['target']},lun={found['lun']},cache.direct=on"
        ),
        "--export",
        f"type=fuse,id=e0,node-name=d0,mountpoint={file},writable=on",
    ]
    with daemon(command, log) as process, _unmounted(file):
        wait_until(lambda: is_mounted(file), "its FUSE export", process=process, log=log)
        if kind == QEMU_SERIAL:
            set_max_background(file, 1)
        yield file, (process.pid,)


@contextlib.contextmanager
def _nbdfuse(kind: str, url: str, directory: Path) -> Iterator[tuple[Path, tuple[int, ...]]]:
    mount, log = directory / "mnt", directory / "log"
    mount.mkdir()
    command = [
        "nbdfuse",
        f"{mount}/",
        "--socket-activation",
        *("qemu-nbd", "--format=raw", "--nocache", "--shared=16", url),
    ]
    with daemon(command, log) as process, _descendants_ended(process.pid), _unmounted(mount):
        wait_until(lambda: is_mounted(mount), f"{kind}: its mount", process=process, log=log)
        file = mount / "nbd"
        file.stat()  # the answer comes from qemu-nbd, which is started by then
        yield file, (process.pid, *descendants(process.pid))


@contextlib.contextmanager
def _descendants_ended(pid: int) -> Iterator[None]:
    """nbdfuse ends when it is unmounted, and what it started ends with its socket: unless not."""
    below: list[int] = []
    try:
        yield
    finally:
        below = descendants(pid)
        for child in below:
            if not processes.wait_exit(child, 5):
                processes.end(child, how=signal.SIGKILL)


def is_mounted(path: Path) -> bool:
    """Whether something is mounted on just this path; asks the kernel's table, not the path."""
    return any(
        line.split()[4] == str(path)
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
    )


@contextlib.contextmanager
def _unmounted(path: Path) -> Iterator[None]:
    try:
        yield
    finally:
        if is_mounted(path):
            try:
                run(["umount", str(path)])
            except Failed:
                run(["umount", "--lazy", str(path)])


@contextlib.contextmanager
def _loop(file: Path) -> Iterator[str]:
    device = run(["losetup", "--direct-io=on", "-f", "--show", str(file)]).strip()
    try:
        yield device
    finally:
        run(["losetup", "-d", device])


def set_max_background(file: Path, number: int) -> None:
    """How many background requests the kernel sends to the server of this FUSE file at once."""
    minor = os.minor(file.stat().st_dev)
    with _fusectl(file.parent / "fusectl") as connections:
        (connections / str(minor) / "max_background").write_text(f"{number}\n")


@contextlib.contextmanager
def _fusectl(place: Path) -> Iterator[Path]:
    """The kernel's directory of FUSE connections, mounted for the moment where it is not."""
    if any(CONNECTIONS.iterdir()):
        yield CONNECTIONS
        return
    place.mkdir(exist_ok=True)
    run(["mount", "-t", "fusectl", "fusectl", str(place)])
    try:
        yield place
    finally:
        run(["umount", str(place)])


__all__ = ["NBDFUSE", "QEMU", "QEMU_SERIAL", "Peer", "peer"]
