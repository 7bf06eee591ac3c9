# SPDX-License-Identifier: Apache-2.0
"""Three targets whose backing store holds one write back while later writes to it pass.

This is what a busy disk array does, and what makes the death of a connection dangerous: the write
of the dead session lands after a newer one. tgt over a file whose pwrite waits, LIO over a network
block device that this process serves, and the Python target; each behind a proxy that can be cut.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .lio import LioServer
from .proxy import TcpProxy
from .python_target import MEBI, RecordingDisk, TargetThread, make_target
from .tgt import TgtServer

IQN = "iqn.2026-11.example:holding"
SIZE = 64 * MEBI


@dataclass(frozen=True, slots=True)
class HoldingTarget:
    """A target with one disk of 64 MiB."""

    url: str
    hold: Callable[[int, int], None]
    """Hold the next write that touches this byte range."""
    wait_held: Callable[[], None]
    """Block until the write of the last ``hold`` is held."""
    release: Callable[[], None]
    """Let it land."""
    cut: Callable[[], None]
    """Reset the connections."""
    content: Callable[[int, int], bytes]
    """What the disk has in this byte range."""


@contextlib.contextmanager
def holding_tgt(directory: Path) -> Iterator[HoldingTarget]:
    """tgt; the disk is a file in ``directory``."""
    disk = directory / "held-disk"
    disk.touch()
    with TgtServer(fault_on=disk) as tgt, TcpProxy(("127.0.0.1", tgt.port)) as proxy:
        tid = tgt.new_target(IQN)
        tgt.add_lun(tid, 1, disk, size_bytes=SIZE)
        fault = tgt.fault
        assert fault is not None
        before = 0

        def hold(start: int, end: int) -> None:
            nonlocal before
            before = fault.held
            fault.hold(start, end, count=1)

        def content(start: int, end: int) -> bytes:
            with disk.open("rb") as file:
                file.seek(start)
                return file.read(end - start)

        yield HoldingTarget(
            url=f"iscsi://{proxy.portal}/{IQN}/1",
            hold=hold,
            wait_held=lambda: fault.wait_held(before + 1),
            release=fault.release,
            cut=proxy.cut,
            content=content,
        )


@contextlib.contextmanager
def holding_lio(directory: Path) -> Iterator[HoldingTarget]:
    """LIO; the disk is in this process."""
    with LioServer(memory_mib=512) as lio, lio.proxy() as proxy:
        tid = lio.new_target(IQN)
        store = lio.add_lun(tid, 0, SIZE, backend="held").store
        assert store is not None
        before = 0

        def hold(start: int, end: int) -> None:
            nonlocal before
            before = store.held
            store.hold(start, end)

        yield HoldingTarget(
            url=f"iscsi://{proxy.portal}/{IQN}/0",
            hold=hold,
            wait_held=lambda: store.wait_held(before + 1),
            release=store.release,
            cut=proxy.cut,
            content=lambda start, end: bytes(store.data[start:end]),
        )


@contextlib.contextmanager
def holding_python(
    directory: Path, *, reset_waits_for_writes: bool = True
) -> Iterator[HoldingTarget]:
    """The Python target; on request one whose reset is no barrier."""
    disk = RecordingDisk(SIZE)
    target = make_target(disk, reset_waits_for_writes=reset_waits_for_writes)
    with TargetThread(target) as served:
        rules = []

        def hold(start: int, end: int) -> None:
            lbas = range(start // 512, end // 512)
            rules.append(served.call(lambda: target.faults.hold_writes(lba=lbas, times=1)))

        yield HoldingTarget(
            url=served.url(),
            hold=hold,
            wait_held=lambda: served.wait(rules[-1]),
            release=lambda: served.call(rules[-1].release),
            cut=lambda: served.call(target.drop_connections),
            content=lambda start, end: bytes(disk.read(start, end - start)),
        )


HOLDING = {"tgt": holding_tgt, "lio": holding_lio, "python": holding_python}
