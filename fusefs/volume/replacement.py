# SPDX-License-Identifier: Apache-2.0
"""A worker makes room for its successor: newer code under a volume that is in use.

The old one takes no more requests, answers those that it has, logs out and ends; what the kernel
asks in the meantime waits in the FUSE connection. The new one logs in and goes on. Nothing is lost
on any way through this: a worker that dies in between is followed as after any death.

It is also how a volume in use comes to another CHAP secret: the successor logs in with what the
secret's file says by then. So one whose target refuses the old secret is not stuck.
"""

from __future__ import annotations

import functools
import logging
from contextlib import AsyncExitStack
from dataclasses import dataclass

import anyio

from fusefs.errors import NotAllowed, VolumeError, WorkerFailed
from fusefs.process.exchange import HolderIsOlder
from fusefs.process.holder_client import is_external
from fusefs.process.launch import wait_for_end
from fusefs.volume.credentials import credentials_for
from fusefs.volume.hostcalls import host_call
from fusefs.volume.pieces import Pieces
from pyscsi_init.errors import IscsiError, SecretError
from pyscsi_init.secret import Chap

log = logging.getLogger("fusefs.volume")

MAKE_ROOM_SECONDS = 30.0
SUCCESSOR_SECONDS = 30.0
LEAVE_SECONDS = 2.0
"""From the last byte of a process to its end."""


@dataclass(frozen=True, slots=True)
class UpgradeReport:
    """What replacing a worker came to."""

    name: str
    old_pid: int
    new_pid: int
    pause_s: float
    """From the moment the old worker was asked to the moment the new one served."""


async def replace_worker(volume: Pieces, given: Chap | None = None) -> UpgradeReport:
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
    is_away = bool(status.get("recovering") or status.get("failed"))
    # A worker of older code tells it in words alone.
    in_words = "authentication failed" in str(status.get("last_error"))
    is_refused = bool(status.get("recovering") and status.get("secret_refused", in_words))
    chap = await _credentials(volume, given, is_needed=is_refused)
    if is_away and not (is_refused and chap):
        remedy = "give it the secret" if is_refused else "try again when the target is back"
        raise WorkerFailed(
            name,
            f"it cannot make room while its target is away ({status.get('last_error')}); {remedy}",
            pid=old.pid,
        )
    async with AsyncExitStack() as asked:
        try:
            successor = await asked.enter_async_context(volume.holder.successor(name, chap))
        except HolderIsOlder:
            if is_external():
                raise
            log.info("volume %s: the holder is of older code, and is replaced first", name)
            await volume.holder.renew_holder()
            successor = await asked.enter_async_context(volume.holder.successor(name, chap))
        began = anyio.current_time()
        # What a target that refuses us has not answered is left to the successor at once.
        patience = {"drain_s": 0.0} if is_refused else {}
        try:
            await volume.control.call("make-room", deadline_s=MAKE_ROOM_SECONDS, **patience)
        except WorkerFailed:
            # It left in the middle of the answer, or died: the holder tells what came of it.
            if not await wait_for_end(old, LEAVE_SECONDS):
                raise
        try:
            facts = await successor(SUCCESSOR_SECONDS)
        except WorkerFailed as error:
            raise await _with_its_own_words(volume, error) from None
        pause = anyio.current_time() - began
    return UpgradeReport(name, old.pid, int(facts["pid"]), pause)


async def _credentials(volume: Pieces, given: Chap | None, *, is_needed: bool) -> Chap | None:
    """What the successor logs in with: as given, or as the files say that the volume names; None
    for what its worker has.

    Raises:
        SecretError: a file cannot be used, and the volume ``is_needed`` to have another secret.
    """
    spec = volume.state.spec
    if given is not None or not spec.chap_secret_file:
        return given
    try:
        return await host_call(functools.partial(credentials_for, spec, None))
    except SecretError as error:
        if is_needed:
            raise
        log.warning("volume %s: %s; it goes on with the secret it has", spec.name, error)
        return None


async def _with_its_own_words(volume: Pieces, error: WorkerFailed) -> WorkerFailed:
    """With what the successor says of its target, where it lives and says something."""
    await volume.ask_the_holder()
    try:
        status = await volume.control.call("status", deadline_s=2.0)
    except (VolumeError, IscsiError):
        return error
    why = str(status.get("last_error") or "")
    pid = volume.worker.pid if volume.worker else None
    return WorkerFailed(
        volume.state.name, f"{error.reason}: {why}" if why else error.reason, pid=pid
    )
