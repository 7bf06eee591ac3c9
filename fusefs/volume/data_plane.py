# SPDX-License-Identifier: Apache-2.0
"""Holder, zygote and workers as a service of their own, and how one such service follows another.

In a cluster the front door and the data path are two pods, so that a new front door touches no I/O.
When the data path itself is replaced, the new one is started while the old one serves. It takes the
holder's place (descriptors, request slots and documents come over a socket in the run directory,
which both pods share), has a zygote of its own, and lets the workers make room for successors of
its own, one after the other. A worker that cannot make room, because its target is away, is killed:
its successor goes on with the requests that have no answer, as after any death. At the end nothing
of the old one is left but the process that waits to be told to end.

Both have to see each other's processes (one process namespace) and the run directory under one
name. Mounts need not be shared: each has the file where it needs it
(:mod:`fusefs.process.private_mount`).
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import anyio

from fusefs.errors import NoSuchVolume, OperationInProgress, VolumeError, WorkerFailed
from fusefs.process.exchange import HeldFacts
from fusefs.process.launch import signal_and_wait
from fusefs.process.pids import WorkerIdentity
from fusefs.volume.manager import VolumeManager
from pyscsi_init.errors import IscsiError

log = logging.getLogger("fusefs.volume")

LOOK_SECONDS = 1.0
LOST_SECONDS = 3.0
"""Without any holder for so long nobody else is about to have one: the next is ours."""
KILL_SECONDS = 10.0
LEAVE_SECONDS = 5.0
SUCCESSOR_SECONDS = 60.0

ProgressCallback = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Moved:
    """How one volume came over."""

    name: str
    pause_s: float | None
    """How long it took no requests; None where its worker was killed for it."""
    problem: str = ""
    """Why it is still served by the old one, or by nobody."""
    left_behind: WorkerIdentity | None = None
    """The worker of the old one that serves it still, and ends with the old one."""


class DataPlane:
    """What ``pyscsi-init data-plane`` does."""

    def __init__(self, manager: VolumeManager, progress: ProgressCallback | None = None) -> None:
        """``manager`` has a holder client that is ``tended_by`` a name of our own."""
        self._manager = manager
        self._holder = manager.holder
        self._progress = progress or (lambda _step: None)

    async def take_over(self) -> list[Moved]:
        """Become the data plane of the run directory; what came of each volume that there was.

        Raises:
            WorkerFailed: the one there is keeps everything; nothing has changed for a volume.

        Cancellation: each volume is served by the old one or by us.
        """
        await self._holder.take_over()
        self._progress("the holder is ours")
        await self._holder.renew_zygote()
        self._progress("workers come from here")
        # What is forked from now on is ours already.
        held = (await self._holder.status()).volumes
        return [await self._move(name, facts) for name, facts in sorted(held.items())]

    async def await_the_rest(self, moved: Iterable[Moved]) -> None:
        """Wait until the old data plane serves none of these any more, so that it may be ended."""
        left = {each.name: each.left_behind for each in moved if each.left_behind}
        while left:
            try:
                held = (await self._holder.status()).volumes
            except WorkerFailed as error:
                # To end for that would end the workers that are here already.
                log.warning("the holder gives no answer, asking again: %s", error)
            else:
                left = {
                    name: worker
                    for name, worker in left.items()
                    if name in held and held[name].worker == worker
                }
            await anyio.sleep(LOOK_SECONDS if left else 0)

    async def tend(self) -> None:
        """See that there is a holder until another data plane has taken over."""
        missing_since: float | None = None
        while True:
            tender = await self._holder.tender()
            now = anyio.current_time()
            if tender is None:
                missing_since = now if missing_since is None else missing_since
                if now - missing_since >= LOST_SECONDS:
                    log.warning("there is no holder; starting the next")
                    try:
                        await self._holder.take_over()
                    except WorkerFailed as error:
                        # To end for that would end the workers of this container too.
                        log.warning("no holder comes up, trying again: %s", error)
                    else:
                        missing_since = None
            elif tender != self._holder.tended_by:
                return
            else:
                missing_since = None
            await anyio.sleep(LOOK_SECONDS)

    async def leave(self) -> None:
        """End: volumes that are still ours go on as those of any command do."""
        with anyio.CancelScope(shield=True), anyio.move_on_after(LEAVE_SECONDS):
            await self._holder.leave()

    # -- one volume -------------------------------------------------------------------------------

    async def _move(self, name: str, facts: HeldFacts) -> Moved:
        old = facts.worker
        if old is None:
            return Moved(name, None)  # it waits for a worker, which comes from here
        why = ""
        with anyio.move_on_after(SUCCESSOR_SECONDS):
            while True:
                try:
                    report = await self._manager.upgrade(name)
                except OperationInProgress:
                    continue  # a command works on it, and ends
                except NoSuchVolume:
                    return Moved(name, None)
                except (VolumeError, IscsiError) as error:
                    why = str(error)
                    break
                return Moved(name, report.pause_s)
        if not facts.native:
            return Moved(name, None, why, old)
        self._progress(f"{name}: {why}; its worker is killed and followed")
        return await self._kill(name, old)

    async def _kill(self, name: str, old: WorkerIdentity) -> Moved:
        await signal_and_wait(old, signal.SIGKILL, KILL_SECONDS)
        with anyio.move_on_after(SUCCESSOR_SECONDS):
            while True:
                try:
                    held = (await self._holder.status()).volumes.get(name)
                except WorkerFailed as error:
                    return Moved(name, None, str(error))
                if held is None or (held.worker is not None and held.worker != old):
                    return Moved(name, None)
                await anyio.sleep(0.05)
        return Moved(name, None, f"nobody follows its worker {old.pid}")
