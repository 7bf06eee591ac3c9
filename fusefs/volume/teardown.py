# SPDX-License-Identifier: Apache-2.0
"""From a directory back to nothing: in order, so that no byte is lost, or by force, so that it
ends.

In order: what could refuse is asked before anything is touched, and what is refused on the way is
put back; so a volume is either still there as it was, or gone with everything written. By force:
nothing waits for the target; what was not written is lost, and the report says what is known of it.
Both work on whatever is left of a volume, and succeed where nothing is.
"""

from __future__ import annotations

import functools
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio

from fusefs.errors import CallFailed, DeviceBusy, MountBusy, VolumeError, WorkerFailed
from fusefs.host import LoopDevice
from fusefs.process.launch import signal_and_wait, wait_for_end
from fusefs.volume.pieces import KILL_SECONDS, STOP_SECONDS, Pieces
from fusefs.volume.state import Bind
from fusefs.volume.usage import has_given_up
from fusefs.volume_errors import in_words
from pyscsi_init.errors import IscsiError

log = logging.getLogger("fusefs.volume")

STAYS_REGISTERED = "stays registered"
"""What a worker's log says of a registration that it could not give back (device/fencing.py)."""
BIRTH_SECONDS = 10.0
"""A worker that was forked as its predecessor died answers long before."""
BIRTH_PAUSE_S = 0.05
FORCED_STOP_SECONDS = 3.0
FORCED_SYNC_SECONDS = 10.0
"""A worker whose connection was aborted ends by itself; one whose target is gone may not."""

NAMESPACE_PATIENCE_S = 15.0
"""A container that starts holds copies of all mounts of its host for a moment, ours among them; on
a host that is short of processors the moment is long."""

USER_PATIENCE_S = 2.0
"""For processes that have the device open: what looks at every new device does so for a moment."""


@dataclass(slots=True)
class DetachReport:
    """What an end of a volume left undone. Empty after an orderly one."""

    name: str
    forced: bool = False
    requests_in_flight: int | None = 0
    """Requests the kernel had no answer to; None where nobody could be asked."""
    unflushed_writes: int | None = 0
    """Writes acknowledged since the last flush that succeeded; None where nobody could be asked, or
    an earlier worker answered them."""
    problems: list[str] = field(default_factory=list)
    """Steps that did not succeed, in words."""
    stays: str = ""
    """What of the fence stays at the target and keeps other nodes out, in words."""

    @property
    def clean(self) -> bool:
        """Whether nothing was lost and nothing is left."""
        return not (self.requests_in_flight or self.unflushed_writes or self.problems) and not (
            self.requests_in_flight is None or self.unflushed_writes is None
        )


async def take_down(volume: Pieces) -> DetachReport:
    """Unbind, unmount, detach the loop, stop the worker (flush, log out), remove the files.

    Raises:
        MountBusy, DeviceBusy: something uses it; it is as it was.
        CallFailed: the filesystem could not be written out; it is as it was.
        WorkerFailed: the target is away, so nothing can be written; it is as it was.

    Cancellation: the step under way is finished; the rest can be taken down later.
    """
    await volume.wait_for_successor()
    if volume.is_served() and not volume.worker_is_alive() and volume.held is not None:
        raise WorkerFailed(
            volume.state.name,
            f"it has no worker at the moment ({volume.held.last_death}), so nothing can be written "
            f"out; try again when it has, or detach by force and lose what is not written",
        )
    lost = await _why_nothing_can_be_saved(volume)
    given_up = ""
    await _refuse_if_used(volume)
    mountpoint = volume.state.mountpoint
    if mountpoint and not lost and await volume.call(volume.is_mounted_at, mountpoint):
        flush_s = volume.state.spec.session_settings().flush_timeout
        try:
            await volume.call(volume.host.sync, mountpoint, timeout_s=flush_s)
        except CallFailed as error:
            # It may have been this that told of a takeover, or of another disk.
            lost = await _why_nothing_can_be_saved(volume)
            if not lost:
                if not await volume.call(has_given_up, volume.host, mountpoint):
                    raise
                given_up = str(error)
    await _unmount_and_detach(volume)
    for bind in volume.state.binds:
        await volume.remove_made(bind)
    # The loop device stays written down: what has its path from here on is not ours.
    try:
        await volume.save(phase="detaching", mountpoint="", binds=())
    except OSError as error:  # a full disk must not keep it: cut off here it is found to be dead
        log.warning("volume %s: it ends unnoted: %s", volume.state.name, in_words(error))
    # Not sooner: what is written out on the way here, and whoever makes us stop, need a successor
    # should the worker die.
    await volume.ask_the_holder(start=False)
    await volume.wait_for_successor()
    async with volume.holder.ending(volume.state.name):
        await volume.ask_the_holder(start=False)
        if volume.held is not None and volume.held.state == "starting":
            await volume.wait_for_successor()  # it is there, or will be, but does not listen yet
        try:
            stopped = not volume.worker_is_alive() or await _stop_worker(volume, force=bool(lost))
        except IscsiError:
            # Its flush was the first command after a takeover: there will never be another one.
            lost = await _why_nothing_can_be_saved(volume)
            if not lost:
                raise
            stopped = await _stop_worker(volume, force=True)
        await volume.forget()
        await volume.unmount_fuse(lazy=bool(lost))
        report = DetachReport(volume.state.name)
        await _tell_what_stays(volume, report)
        await volume.remove_files()
    if given_up:
        report.problems.append(
            f"its filesystem had met an error before, and what it had not written by then is lost: "
            f"{given_up}"
        )
    if lost and not volume.state.spec.read_only:
        report.requests_in_flight = report.unflushed_writes = None
        done = lost.removesuffix("; detach the volume")
        report.problems.append(f"what had not reached the target by then is lost: {done}")
    elif not stopped and not volume.state.spec.read_only:
        report.unflushed_writes = None
        report.problems.append(
            "its worker died while it ended: all has reached the target, but whether the target "
            "has put it on stable storage is not known"
        )
    return report


async def _why_nothing_can_be_saved(volume: Pieces) -> str:
    """Why waiting would save nothing: the worker is dead, or its session has failed for good, as
    when another disk was found in place of the volume's own. Empty where data can be written."""
    if not volume.worker_is_alive():
        return "its worker process had died before"
    status = await volume.control.call("status")
    if failed := status.get("failed"):
        return str(failed)
    if status.get("recovering"):
        raise WorkerFailed(
            volume.state.name,
            "its target is away and it waits for it, so nothing can be written out; try again when "
            "the target is back, or detach by force and lose what is not written",
            pid=volume.worker.pid if volume.worker else None,
        )
    return ""


async def _refuse_if_used(volume: Pieces) -> None:
    ours = [bind.directory for bind in volume.state.binds]
    if volume.state.mountpoint:
        ours.append(volume.state.mountpoint)
    foreign = [
        entry.mountpoint
        for entry in await volume.call(volume.find_mounts)
        if entry.mountpoint not in ours
    ]
    if foreign:
        raise MountBusy(volume.state.mountpoint or foreign[0], mounts=foreign)
    for directory in ours:
        if await volume.call(volume.is_mounted_at, directory):
            users = await volume.call(volume.host.mount_users, directory)
            if users:
                raise MountBusy(directory, users=users)


async def _unmount_and_detach(volume: Pieces) -> None:
    """The steps that may still be refused; if one is, those before it are put back."""
    spec = volume.state.spec
    async with AsyncExitStack() as put_back:
        devices = await volume.call(volume.find_loops)

        async def unmount(directory: str, again: Callable[[], Any]) -> None:
            if await volume.call(volume.is_mounted_at, directory):
                await volume.call(volume.host.umount, directory)
                put_back.push_async_callback(_quietly, functools.partial(volume.call, again))

        for bind in reversed(volume.state.binds):
            await unmount(bind.directory, functools.partial(_bind_again, volume, bind))
        mountpoint = volume.state.mountpoint
        if mountpoint:
            entry = next(
                (e for e in await volume.call(volume.find_mounts) if e.mountpoint == mountpoint),
                None,
            )
            if entry is not None:
                await unmount(
                    mountpoint,
                    functools.partial(
                        volume.host.mount,
                        entry.source,
                        mountpoint,
                        entry.fstype,
                        options=spec.mount_options,
                        read_only=spec.read_only,
                    ),
                )
        for device in devices:
            await _detach_patiently(volume, device)
        put_back.pop_all()


async def _detach_patiently(volume: Pieces, device: LoopDevice) -> None:
    began = anyio.current_time()
    while True:
        try:
            await volume.call(volume.host.loop_detach, device)
        except DeviceBusy as busy:
            patience = USER_PATIENCE_S if busy.users else NAMESPACE_PATIENCE_S
            if anyio.current_time() - began >= patience:
                raise
            await anyio.sleep(0.1)
        else:
            return


def _bind_again(volume: Pieces, bind: Bind) -> None:
    volume.host.bind(
        volume.source_of(bind),
        bind.directory,
        read_only=bind.read_only or volume.state.spec.read_only,
    )


async def _quietly(step: Callable[[], Awaitable[Any]]) -> None:
    # The refusal that brought us here is what the caller must hear of.
    with anyio.CancelScope(shield=True):
        try:
            await step()
        except VolumeError:
            return


async def _stop_worker(volume: Pieces, *, force: bool) -> bool:
    """End it; whether it has said itself that it flushed and ends."""
    worker = volume.worker
    if worker is None:
        return True
    said = False
    settings = volume.state.spec.session_settings()
    patience = anyio.current_time() + BIRTH_SECONDS
    while True:
        try:
            await volume.control.call("stop", force=force, deadline_s=settings.flush_timeout + 10)
            said = True
            break
        except WorkerFailed:
            # It may have ended between our look and our request: then there is nothing to stop.
            if not volume.worker_is_alive():
                break
            # Or it has only just been forked, and has no socket yet.
            if anyio.current_time() > patience:
                raise
            await anyio.sleep(BIRTH_PAUSE_S)
    if not await wait_for_end(worker, settings.logout_timeout + STOP_SECONDS):
        await signal_and_wait(worker, signal.SIGKILL, KILL_SECONDS)
    return said


async def take_down_by_force(volume: Pieces) -> DetachReport:
    """End the volume whatever state it is in; nothing waits for the target. Raises only for files
    that cannot be removed.

    Cancellation: not before the end, which is near: every step has a limit.
    """
    report = DetachReport(volume.state.name, forced=True)
    with anyio.CancelScope(shield=True):
        try:
            async with volume.holder.ending(volume.state.name):
                await volume.ask_the_holder(start=False)
                await _take_down_by_force(volume, report)
        except WorkerFailed as error:
            report.problems.append(f"ask the holder: {error}")
            await _take_down_by_force(volume, report)
    return report


async def _take_down_by_force(volume: Pieces, report: DetachReport) -> None:
    said = volume.worker_is_alive()
    serving = await _ask_what_will_be_lost(volume, report)

    async def attempt(what: str, step: Callable[[], Awaitable[Any]]) -> None:
        try:
            await step()
        except (VolumeError, IscsiError, OSError) as error:
            report.problems.append(f"{what}: {error}")

    if serving:
        # What is only in the page cache is saved, if that does not take long.
        for entry in await volume.call(volume.find_mounts):
            await attempt(
                f"write out {entry.mountpoint}",
                functools.partial(
                    volume.call, volume.host.sync, entry.mountpoint, timeout_s=FORCED_SYNC_SECONDS
                ),
            )
    else:
        # The last unmount writes out what the filesystem holds, and would wait for a target that
        # does not answer.
        await attempt("end the requests", functools.partial(volume.call, volume.abort))
    for entry in reversed(await volume.call(volume.find_mounts)):
        await attempt(
            f"unmount {entry.mountpoint}",
            functools.partial(volume.call, volume.host.umount, entry.mountpoint, lazy=True),
        )
    for bind in volume.state.binds:
        await volume.remove_made(bind)
    if serving:
        await attempt("end the requests", functools.partial(volume.call, volume.abort))
    await attempt("detach the loop device", functools.partial(volume.detach_loop, lazy=True))
    worker = volume.worker
    if worker is not None and not await wait_for_end(worker, FORCED_STOP_SECONDS):
        if not await signal_and_wait(worker, signal.SIGKILL, KILL_SECONDS):
            report.problems.append(f"the worker {worker.pid} does not end even when killed")
        said = False
    await attempt(
        "read the worker's log",
        functools.partial(_tell_what_stays, volume, report, worker_said=said),
    )
    await attempt("let the holder go", volume.forget)
    await attempt("unmount FUSE", functools.partial(volume.unmount_fuse, lazy=True))
    await attempt("remove the files", volume.remove_files)


async def _tell_what_stays(
    volume: Pieces, report: DetachReport, *, worker_said: bool = True
) -> None:
    """Before the worker's log goes with the other files: what it says of its registration."""
    spec = volume.state.spec
    report.stays = await volume.call(_last_word, volume.paths.log)
    if not (report.stays or worker_said or spec.read_only or spec.fencing == "off"):
        report.stays = (
            "its worker was killed: if this node had reserved the LUN, its key stays registered: "
            "this node can attach it again, another one has to take it over"
        )
    if report.stays:
        log.info("volume %s: %s", report.name, report.stays)


def _last_word(file: Path) -> str:
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    told = [line for line in lines if STAYS_REGISTERED in line]
    return told[-1].partition(": ")[2] if told else ""


async def _ask_what_will_be_lost(volume: Pieces, report: DetachReport) -> bool:
    """Fill in the report; whether the worker is there and its target answers it."""
    report.requests_in_flight = report.unflushed_writes = None
    if not volume.worker_is_alive():
        return False
    try:
        status = await volume.control.call("status", deadline_s=2.0)
    except (VolumeError, IscsiError) as error:
        report.problems.append(f"ask the worker: {error}")
        return False
    io = status.get("io", {})
    report.requests_in_flight = int(io.get("in_flight", 0))
    # A channel that does not count them can still say that there was never a write.
    report.unflushed_writes = io.get("unflushed_writes", None if io.get("writes") else 0)
    return not status.get("recovering")
