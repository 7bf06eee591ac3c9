# SPDX-License-Identifier: Apache-2.0
"""The pieces that one volume consists of on this host: how each is found and how each is removed.

A removal that finds nothing has succeeded: after a crash any piece may be there or not, and the
same code serves the roll-back of an attach, an orderly detach, and the clearing of leftovers. A
piece is recognised by what the kernel says about it (a loop device by its backing file and serial
number, a mount by the device below it), never by its name alone: names are used again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import re
import signal
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath
from typing import Any, TypeVar

import anyio

from fusefs.errors import CallFailed, DeviceBusy, HostError, VolumeError, WorkerFailed
from fusefs.host import Host, LoopDevice, MountEntry
from fusefs.process.client import ControlClient
from fusefs.process.exchange import HeldFacts
from fusefs.process.holder_client import HolderClient
from fusefs.process.launch import signal_and_wait, wait_for_end
from fusefs.process.pids import WorkerIdentity, is_alive
from fusefs.volume import elsewhere
from fusefs.volume.hostcalls import host_call
from fusefs.volume.paths import VolumePaths
from fusefs.volume.state import Bind, VolumeState, boot_id, save_state
from fusefs.volume_errors import in_words
from pyscsi_init.errors import IscsiError

log = logging.getLogger("fusefs.volume")

T = TypeVar("T")

STOP_SECONDS = 20.0
"""After its answer to ``stop`` a worker logs out, which has a limit of its own far below this."""
KILL_SECONDS = 10.0
SUCCESSOR_SECONDS = 10.0
"""How long a command waits for a worker that is to take over from a dead one."""
PAUSE_S = 0.02

FOREIGN_LOOPS = "foreign_loops"
"""In the facts of a state: devices over another file of the same path, from before ours."""

_FILESYSTEMS_OF_NODES = ("devtmpfs", "tmpfs")
"""What /dev is; in containers the second."""
_LOOP_NODE = re.compile(r"loop\d+")


def loop_from_json(values: Mapping[str, Any]) -> LoopDevice | None:
    """The loop device of a state file; None where there is none, or another version wrote it."""
    try:
        return LoopDevice(**values) if values else None
    except TypeError:
        return None


def loop_to_json(device: LoopDevice) -> dict[str, Any]:
    """The counterpart of :func:`loop_from_json`."""
    return dataclasses.asdict(device)


class Pieces:
    """One volume's pieces. ``state`` is replaced by each :meth:`save`, ``held`` by each
    :meth:`ask_the_holder`: it is what the holder says, None where it does not know the volume."""

    def __init__(
        self,
        host: Host,
        paths: VolumePaths,
        state: VolumeState,
        holder: HolderClient,
        held: HeldFacts | None = None,
    ) -> None:
        self.host = host
        self.paths = paths
        self.state = state
        self.holder = holder
        self.held = held
        self.control = ControlClient(paths.directory, state.name)

    async def save(self, **changes: Any) -> None:
        """Write the state with ``changes``."""
        self.state = self.state.with_(**changes)
        await host_call(functools.partial(save_state, self.paths.state, self.state))

    async def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """A call of the host, in a thread. A cancelled caller waits for its end: to end the
        requests under it would lose what the filesystem is writing out."""
        return await host_call(functools.partial(function, *args, **kwargs))

    # -- finding --------------------------------------------------------------------------------

    @property
    def worker(self) -> WorkerIdentity | None:
        """The present worker: the holder knows it. The state names the first one, which may be
        dead; none of another boot, whose numbers mean others now."""
        if self.held is not None:
            return self.held.worker
        return self.state.worker if self.state.boot_id == boot_id() else None

    def worker_is_alive(self) -> bool:
        """Whether that process is still that process."""
        worker = self.worker
        return worker is not None and is_alive(worker)

    def is_served(self) -> bool:
        """Whether there is a worker, or there will be one by itself."""
        return self.worker_is_alive() or (self.held is not None and self.held.is_followed)

    async def ask_the_holder(self, *, start: bool = True) -> None:
        """Look again who the worker is. Without a holder the state file's word stays."""
        try:
            status = await self.holder.status(start=start)
            self.held = status.volumes.get(self.state.name)
        except WorkerFailed as error:
            log.warning("volume %s: %s", self.state.name, error)

    async def wait_for_successor(self) -> None:
        """Where a worker has died and the next is on its way, wait until it answers, a while."""
        deadline = anyio.current_time() + SUCCESSOR_SECONDS
        while (
            self.held is not None
            and self.held.state in ("starting", "waiting")
            and anyio.current_time() < deadline
        ):
            if self.worker_is_alive():
                with contextlib.suppress(WorkerFailed):
                    await self.control.call("status", deadline_s=1)
                    return
            await anyio.sleep(PAUSE_S)
            await self.ask_the_holder()

    def find_loops(self) -> list[LoopDevice]:
        """The loop devices over this volume's file. Blocks (reads sysfs and the mount table).

        The kernel lists those of all mount namespaces, each with the file's path in its own: a
        container that mounts volumes for itself has the same paths. So a device that was written
        down is the only one. Before that, as after a crash between the two, the path counts only
        where our file system is mounted here, as whoever attaches has it, wherever the worker
        stands; and never of a device that was there before we attached.
        """
        known = loop_from_json(self.state.loop) if self.state.boot_id == boot_id() else None
        if known is not None:
            return [each for each in self.host.loop_list() if each.same_attachment(known)]
        found = self.loops_of_that_path()
        if not found or not any(entry.fstype.startswith("fuse") for entry in self.fuse_mounts()):
            return []
        foreign = [loop_from_json(each) for each in self.state.facts.get(FOREIGN_LOOPS, ())]
        return [
            each
            for each in found
            if not any(other is not None and each.same_attachment(other) for other in foreign)
        ]

    def loops_of_that_path(self) -> list[LoopDevice]:
        """The loop devices over a file of this path, in whatever mount namespace. Blocks."""
        file = str(self.paths.file)
        return [each for each in self.host.loop_list() if each.backing_file == file]

    def find_mounts(self) -> list[MountEntry]:
        """The mounts of this volume's filesystem, in mount order. Blocks (reads the table)."""
        shows = self._shows()
        return [entry for entry in self.host.mounts() if shows(entry)]

    def is_mounted_at(self, directory: str) -> bool:
        """Whether what one would step into at ``directory`` is this volume. Blocks."""
        over = [entry for entry in self.host.mounts() if entry.mountpoint == directory]
        return bool(over) and self._shows()(over[-1])

    def _shows(self) -> Callable[[MountEntry], bool]:
        """What tells whether a mount is this volume: its filesystem, or the node of its device,
        which may have been bound onto a file and outlive the device."""
        devices = {device.path for device in self.find_loops()}
        nodes = {PurePath(path).name for path in devices}
        files = {bind.directory for bind in self.state.binds if bind.device}

        def shows(entry: MountEntry) -> bool:
            if entry.source in devices:
                return True
            node = _node_of(entry)
            return bool(node) and (node in nodes or entry.mountpoint in files)

        return shows

    def source_of(self, bind: Bind) -> str:
        """What is bound there. Blocks (reads sysfs)."""
        return self.find_loops()[0].path if bind.device else self.state.mountpoint

    def fuse_mounts(self) -> list[MountEntry]:
        """The mounts on the private directory: the FUSE file system, and the bind below it."""
        return [entry for entry in self.host.mounts() if entry.mountpoint == str(self.paths.fuse)]

    # -- removing -------------------------------------------------------------------------------

    def abort(self) -> None:
        """End every request that waits for the worker or the target. Blocks; never raises."""
        with contextlib.suppress(VolumeError):
            for entry in self.fuse_mounts():
                if entry.fstype.startswith("fuse"):
                    self.host.fuse_abort(entry.minor)

    async def unmount(self, directory: str, *, lazy: bool = False) -> None:
        """Unmount this volume's filesystem from ``directory``, should it be there."""
        if await self.call(self.is_mounted_at, directory):
            await self.call(self.host.umount, directory, lazy=lazy)

    async def detach_loop(self, *, lazy: bool = False) -> None:
        """Detach the loop devices over our file."""
        for device in await self.call(self.find_loops):
            await self.call(self.host.loop_detach, device, lazy=lazy)

    async def unmount_fuse(self, *, lazy: bool = False) -> None:
        """Unmount what lies on the private directory."""
        for _entry in await self.call(self.fuse_mounts):
            await self.call(self.host.umount, str(self.paths.fuse), lazy=lazy)

    async def remove_made(self, bind: Bind) -> None:
        """Remove what was made for a bind that is gone."""
        if bind.made:
            await self.call(_remove_place, bind)

    async def forget(self) -> None:
        """Let the holder let go of it: without its descriptors the kernel ends the connection."""
        try:
            await self.holder.forget(self.state.name)
        except WorkerFailed as error:
            log.warning("volume %s: %s", self.state.name, error)
        self.held = None

    async def remove_files(self) -> None:
        """Remove the volume's directory and record; a no-op where they are gone."""
        try:
            await self.call(elsewhere.remove_record, self.paths)
        except OSError as error:  # it says nothing of a volume that has ended
            log.warning("volume %s: its record stays: %s", self.state.name, in_words(error))
        await self.call(_remove_directory, self.paths)

    async def end_worker(self) -> None:
        """End the worker whatever it says, within a limit, for good. Never raises."""
        try:
            async with self.holder.ending(self.state.name):
                await self.ask_the_holder(start=False)
                await self._end_worker()
                await self.forget()
        except WorkerFailed as error:
            log.warning("volume %s: %s", self.state.name, error)

    async def _end_worker(self) -> None:
        worker = self.worker
        if worker is None or not is_alive(worker):
            return
        try:
            await self.control.call("stop", force=True)
        except (VolumeError, IscsiError) as error:
            log.info("volume %s: %s", self.state.name, error)
        if await wait_for_end(worker, STOP_SECONDS):
            return
        await self.call(self.abort)
        if not await signal_and_wait(worker, signal.SIGKILL, KILL_SECONDS):
            log.warning(
                "volume %s: worker %d does not end even when killed", self.state.name, worker.pid
            )

    # -- taking back what compose() did: the gentle way, else the other; never raises -------------

    async def undo(self, what: str, gentle: Callable[..., Any]) -> None:
        """Take one step back; where it is busy or stuck, lazily, with the connection aborted."""
        try:
            await gentle(lazy=False)
        except (DeviceBusy, HostError) as error:
            log.info("volume %s: %s: %s; doing it lazily", self.state.name, what, error)
        else:
            return
        await self.call(self.abort)
        try:
            await gentle(lazy=True)
        except VolumeError as error:
            log.warning("volume %s: %s: %s", self.state.name, what, error)


def is_of_a_loop_device(entry: MountEntry) -> bool:
    """Whether a mount is the filesystem on a loop device, or the node of one."""
    return bool(_node_of(entry) or _LOOP_NODE.fullmatch(entry.source.removeprefix("/dev/")))


def _node_of(entry: MountEntry) -> str:
    """The loop device whose node was bound there; empty where it is no such mount."""
    node = PurePath(entry.root).name
    is_node = entry.fstype in _FILESYSTEMS_OF_NODES and _LOOP_NODE.fullmatch(node)
    return node if is_node else ""


def make_place(bind: Bind) -> None:
    """The directory or file that a bind is to stand on; it may be there. Blocks.

    Raises:
        CallFailed: it cannot be made.
    """
    path = Path(bind.directory)
    try:
        if bind.device:
            path.touch(mode=0o600)
        else:
            path.mkdir(mode=0o750, exist_ok=True)
    except OSError as error:
        raise CallFailed("make", bind.directory, error.errno or 0) from error


def _remove_place(bind: Bind) -> None:
    path = Path(bind.directory)
    try:
        if bind.device:
            path.unlink(missing_ok=True)
        else:
            path.rmdir()
    except FileNotFoundError:
        pass
    except OSError as error:  # somebody has put something there: it is theirs
        log.info("%s stays: %s", path, error)


def _remove_directory(paths: VolumePaths) -> None:
    # By name, and never deeper: what lies under fuse/ might be a mount of the LUN's own file.
    for path in (paths.directory / "control.sock", paths.log, paths.state):
        path.unlink(missing_ok=True)
    if paths.directory.is_dir():
        for left in paths.directory.glob(".state.json.*.new"):
            left.unlink(missing_ok=True)
    for directory in (paths.fuse, paths.directory):
        with contextlib.suppress(FileNotFoundError):
            directory.rmdir()
