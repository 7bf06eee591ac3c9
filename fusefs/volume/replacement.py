# SPDX-License-Identifier: Apache-2.0
"""A worker makes room for its successor: newer code under a volume that is in use.

The old one takes no more requests, answers those that it has, logs out and ends; what the kernel
asks in the meantime waits in the FUSE connection. The new one logs in and goes on. Nothing is lost
on any way through this: a worker that dies in between is followed as after any death.
"""

from __future__ import annotations

from dataclasses import dataclass

import anyio

from fusefs.errors import NotAllowed, WorkerFailed
from fusefs.volume.pieces import Pieces

MAKE_ROOM_SECONDS = 30.0
SUCCESSOR_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class UpgradeReport:
    """What replacing a worker came to."""

    name: str
    old_pid: int
    new_pid: int
    pause_s: float
    """From the moment the old worker was asked to the moment the new one served."""


async def replace_worker(volume: Pieces) -> UpgradeReport:
    """Replace the worker of a volume; see ``VolumeManager.upgrade``."""
    name = volume.state.name
    if volume.state.spec.fuse_channel != "native":
        raise NotAllowed(
            f"replace the worker of volume {name!r}",
            "libfuse cannot hand a connection over",
            remedy="detach the volume and attach it again, with --fuse native",
        )
    await volume.wait_for_successor()
    old = volume.worker
    if old is None or not volume.worker_is_alive():
        why = volume.held.last_death if volume.held else "it is dead"
        raise WorkerFailed(name, f"it has no worker that could make room ({why})")
    status = await volume.control.call("status")
    if status.get("recovering") or status.get("failed"):
        raise WorkerFailed(
            name,
            f"it cannot make room while its target is away ({status.get('last_error')}); "
            f"try again when the target is back",
            pid=old.pid,
        )
    async with volume.holder.successor(name) as successor:
        began = anyio.current_time()
        try:
            await volume.control.call("make-room", deadline_s=MAKE_ROOM_SECONDS)
        except WorkerFailed:
            # It left in the middle of the answer, or died: the holder tells what came of it.
            if volume.worker_is_alive():
                raise
        facts = await successor(SUCCESSOR_SECONDS)
        pause = anyio.current_time() - began
    return UpgradeReport(name, old.pid, int(facts["pid"]), pause)
