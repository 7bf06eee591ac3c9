# SPDX-License-Identifier: Apache-2.0
"""The volumes of this node, for every front door: attach, mount, publish, and the ways back.

A manager is a view, not an owner. It keeps nothing between two calls but the directories and the
host, so a command line that lives for a second and a service that lives for a year are the same,
and either may die between any two steps. Each volume is worked on under its lock; the check that
no LUN is had twice is made under one lock for all.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from fusefs.errors import (
    AlreadyAttached,
    InvalidSpec,
    MountBusy,
    NameInUse,
    NoSuchVolume,
    VolumeError,
    WorkerFailed,
)
from fusefs.host import Host
from fusefs.process.exchange import HeldFacts
from fusefs.process.holder_client import HolderClient
from fusefs.spec import VolumeSpec
from fusefs.volume import checks, isids, listing, status
from fusefs.volume.hostcalls import host_call, shielded
from fusefs.volume.locks import file_lock, is_locked
from fusefs.volume.paths import Directories
from fusefs.volume.pieces import Pieces
from fusefs.volume.replacement import UpgradeReport, replace_worker
from fusefs.volume.resize import ResizeReport, resize, with_present_size
from fusefs.volume.stack import Composition, ProgressCallback, compose
from fusefs.volume.state import (
    Bind,
    StateUnreadable,
    VolumeState,
    boot_id,
    load_state,
    placeholder_state,
)
from fusefs.volume.status import VolumeStatus
from fusefs.volume.teardown import DetachReport, take_down, take_down_by_force
from pyscsi_init.device import resolve_chap
from pyscsi_init.secret import Chap

log = logging.getLogger("fusefs.volume")

LOCK_SECONDS = 10.0
IDENTITY_LOCK_SECONDS = 60.0


class VolumeManager:
    """Use it from any task; calls for different volumes run at the same time."""

    def __init__(
        self,
        host: Host,
        run_dir: Path | str | None = None,
        state_dir: Path | str | None = None,
        *,
        lock_timeout_s: float = LOCK_SECONDS,
        holder: HolderClient | None = None,
    ) -> None:
        """Nothing is touched before the first call.

        ``lock_timeout_s`` is how long a call waits for another one on the same volume. ``holder``
        is whom to ask for the workers, if not the usual one of the run directory.
        """
        self._host = host
        self._directories = Directories(run_dir, state_dir)
        self._lock_timeout_s = lock_timeout_s
        self._holder = holder or HolderClient(self._directories.run, host)

    # -- from the wire up -------------------------------------------------------------------------

    async def attach(
        self,
        spec: VolumeSpec,
        credentials: Chap | None = None,
        progress: ProgressCallback | None = None,
    ) -> VolumeStatus:
        """Make the LUN a block device of this host, and return what came of it.

        Raises:
            NameInUse, AlreadyAttached, OperationInProgress: this node's own reasons.
            IscsiError: the target's reasons (connection, login, LUN).
            VolumeError: the host's reasons.

        Cancellation: everything is undone; nothing of the volume is left.
        """
        return await self._bring_up(spec, "", credentials, progress)

    async def mount(
        self,
        spec: VolumeSpec,
        mountpoint: str | Path,
        credentials: Chap | None = None,
        progress: ProgressCallback | None = None,
    ) -> VolumeStatus:
        """Attach, check or make the filesystem, and mount it on an empty directory.

        Raises:
            InvalidSpec: the directory is missing, not empty, or mounted on already.
            ContentError: what lies on the LUN, or does not, forbids it (BlankNotFormatted,
                FilesystemMismatch, NotBlank, HasFilesystemErrors).
            and whatever :meth:`attach` raises.

        Cancellation: everything is undone, except a filesystem that was made.
        """
        return await self._bring_up(spec, str(mountpoint), credentials, progress)

    async def _bring_up(
        self,
        spec: VolumeSpec,
        mountpoint: str,
        chap: Chap | None,
        progress: ProgressCallback | None,
    ) -> VolumeStatus:
        chap = resolve_chap(spec.address, chap)
        async with AsyncExitStack() as locks:
            await locks.enter_async_context(self._lock(spec.name))
            if mountpoint:
                # Of two mounts on one directory the second must find it mounted.
                await locks.enter_async_context(self._directory_lock(mountpoint))
            await self._refuse_taken_name(spec)
            state = VolumeState(spec=spec, phase="logging-in", boot_id=boot_id())
            await self._refuse_conflict(state, checks.same_address_of)
            if mountpoint:
                mountpoint = await host_call(
                    lambda: checks.check_directory("mount point", mountpoint, self._host.mounts())
                )
            isid_path = self._directories.isid(spec.name)
            isid = await host_call(functools.partial(isids.stored_isid, isid_path, spec.name))
            volume = Composition(
                self._pieces(state),
                state_directory=str(self._directories.state),
                chap=chap,
                isid=isid,
                progress=progress,
                admission=self._admission,
                mountpoint=mountpoint,
                brings_up=True,
            )
            await compose(volume)
            return await status.look(volume)

    async def publish(
        self, name: str, directory: str | Path, read_only: bool = False
    ) -> VolumeStatus:
        """Bind the mounted volume to an empty directory too; the same again does nothing.

        Raises:
            NoSuchVolume: there is none, or it is not mounted.
            InvalidSpec: the directory is missing, not empty, mounted on, or bound another way.
        """
        async with self._lock(name):
            volume = await self._existing(name)
            if not volume.state.mountpoint or not await volume.call(
                volume.is_mounted_at, volume.state.mountpoint
            ):
                raise InvalidSpec("volume", name, "is not mounted", remedy="mount it first")
            path = await host_call(functools.partial(checks.resolve_parent, str(directory)))
            bind = Bind(path, read_only)
            for known in volume.state.binds:
                if known.directory == path and await volume.call(volume.is_mounted_at, path):
                    if known != bind:
                        raise InvalidSpec(
                            "directory", path, f"has it with read_only={known.read_only}"
                        )
                    return await status.look(volume)
            await host_call(lambda: checks.check_directory("directory", path, self._host.mounts()))
            before = tuple(known for known in volume.state.binds if known.directory != path)
            composition = Composition(volume)
            async with AsyncExitStack() as undo:
                undo.push_async_callback(
                    shielded, functools.partial(composition.save, binds=before)
                )
                await composition.save(binds=before)
                await composition.bind(bind, undo)
                undo.pop_all()
            return await status.look(composition)

    async def resize(self, name: str, progress: ProgressCallback | None = None) -> ResizeReport:
        """Grow a volume to the size of its LUN; see :func:`fusefs.volume.resize.resize`.

        Raises:
            NoSuchVolume: there is none of this name.
            and what that function raises.
        """
        async with self._lock(name):
            try:
                volume = await self._existing(name)
            except StateUnreadable as error:
                raise VolumeError(f"the state file of volume {name!r} {error}") from error
            return await resize(volume, progress or (lambda _step: None))

    # -- back to nothing --------------------------------------------------------------------------

    async def unpublish(self, name: str, directory: str | Path) -> None:
        """Take a bind away; one that is gone is no error.

        Raises:
            NoSuchVolume: there is none of this name.
            MountBusy: it is in use; nothing was done.
        """
        async with self._lock(name):
            volume = await self._existing(name)
            path = await host_call(functools.partial(checks.resolve_parent, str(directory)))
            if path == volume.state.mountpoint:
                raise InvalidSpec(
                    "directory", path, "is where the volume itself is mounted", remedy="umount it"
                )
            await volume.unmount(path)
            await volume.save(binds=tuple(b for b in volume.state.binds if b.directory != path))

    async def umount(self, name_or_dir: str | Path, force: bool = False) -> DetachReport:
        """Unmount a volume, given its name or its mount point, and detach it.

        Raises:
            NoSuchVolume: neither a volume nor the mount point of one.
            MountBusy, DeviceBusy: somebody uses it (``pids``); nothing was done.
            CallFailed, WorkerFailed: its data could not be written out; nothing was done.

        With ``force`` it ends whatever its state; the report says what may be lost.
        Cancellation: between two steps; calling again goes on.
        """
        name = await host_call(
            functools.partial(listing.resolve, self._directories, str(name_or_dir))
        )
        async with self._lock(name):
            return await self._end(name, force, mounted=True)

    async def detach(self, name: str, force: bool = False) -> DetachReport:
        """Detach a volume that is not mounted, or has failed; otherwise as :meth:`umount`."""
        async with self._lock(name):
            return await self._end(name, force, mounted=False)

    async def _end(self, name: str, force: bool, *, mounted: bool) -> DetachReport:
        try:
            volume = await self._existing(name)
        except StateUnreadable as error:
            if not force:
                raise VolumeError(
                    f"the state file of volume {name!r} {error}", remedy="detach it by force"
                ) from error
            volume = self._pieces(placeholder_state(name))
        mountpoint = volume.state.mountpoint
        if (
            not (force or mounted)
            and mountpoint
            and volume.worker_is_alive()
            and await volume.call(volume.is_mounted_at, mountpoint)
        ):
            raise MountBusy(mountpoint, reason="umount it, then it is detached too")
        if force:
            report = await take_down_by_force(volume)
        else:
            report = await take_down(volume)
            await host_call(functools.partial(isids.forget_isid, self._directories.isid(name)))
        return report

    # -- looking ----------------------------------------------------------------------------------

    async def status(self) -> list[VolumeStatus]:
        """Every volume of this node, by name. Never waits for a target or a lock."""
        found: list[VolumeStatus] = []
        held = await self._held()
        for name in await host_call(functools.partial(listing.names, self._directories)):
            try:
                found.append(await self._look(name, held))
            except NoSuchVolume:
                continue
        return found

    async def get(self, name: str) -> VolumeStatus:
        """One volume.

        Raises:
            NoSuchVolume: there is none of this name.
        """
        return await self._look(name)

    async def _look(self, name: str, held: Mapping[str, HeldFacts] | None = None) -> VolumeStatus:
        try:
            volume = await self._existing(name, held)
        except StateUnreadable as error:
            return status.unreadable(name, str(error))
        locked = await host_call(functools.partial(is_locked, self._directories.lock(name)))
        return await status.look(volume, being_worked_on=locked)

    # -- newer code -------------------------------------------------------------------------------

    async def upgrade(self, name: str) -> UpgradeReport:
        """Replace the volume's worker by one of the present zygote, without an I/O error.

        Raises:
            NoSuchVolume: there is none of this name.
            NotAllowed: it is served by libfuse; nothing was done.
            WorkerFailed: it has no worker, its target is away (nothing was done then), or the
                successor does not serve.

        Cancellation: the worker is followed by a successor in any case.
        """
        async with self._lock(name):
            return await replace_worker(await self._existing(name))

    @property
    def holder(self) -> HolderClient:
        """The holder of this run directory: to ask, and to replace by newer code."""
        return self._holder

    # -- inside -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def _lock(self, name: str) -> AsyncIterator[None]:
        await host_call(self._directories.prepare)
        async with file_lock(self._directories.lock(name), name, self._lock_timeout_s):
            yield

    @asynccontextmanager
    async def _directory_lock(self, directory: str) -> AsyncIterator[None]:
        await host_call(self._directories.prepare)
        real = await host_call(functools.partial(os.path.realpath, directory))
        path = self._directories.directory_lock(real)
        async with file_lock(path, real, self._lock_timeout_s):
            yield

    async def _held(self) -> Mapping[str, HeldFacts]:
        try:
            return (await self._holder.status()).volumes
        except WorkerFailed as error:
            log.warning("%s", error)
            return {}

    def _pieces(self, state: VolumeState, held: HeldFacts | None = None) -> Pieces:
        paths = self._directories.volume(state.name)
        return Pieces(self._host, paths, state, self._holder, held)

    async def _existing(self, name: str, held: Mapping[str, HeldFacts] | None = None) -> Pieces:
        paths = self._directories.volume(name)
        state = await host_call(functools.partial(load_state, paths.state))
        if state is None:
            raise NoSuchVolume(name)
        volume = self._pieces(state, held.get(name) if held else None)
        if held is None:
            await volume.ask_the_holder()
        return volume

    async def _refuse_taken_name(self, spec: VolumeSpec) -> None:
        """Refuse a name that is in use; clear what an attempt that was cut off left behind it."""
        try:
            volume = await self._existing(spec.name)
        except NoSuchVolume:
            return
        except StateUnreadable as error:
            raise NameInUse(spec.name, difference=f"its state file {error}") from error
        now = await status.look(volume)
        at_rest = volume.state.phase in status.AT_REST and volume.state.boot_id == boot_id()
        if now.failed and not at_rest:
            await take_down_by_force(volume)
            return
        differs = checks.difference(volume.state.spec, spec)
        if now.failed:
            raise NameInUse(spec.name, difference=f"it has failed: {now.last_error}")
        if not differs:
            raise AlreadyAttached(spec.name, other=spec.name)
        raise NameInUse(spec.name, difference=differs)

    async def _refuse_conflict(
        self, state: VolumeState, same: Callable[[VolumeState, VolumeState], bool]
    ) -> None:
        states = await host_call(functools.partial(listing.states, self._directories))
        held = await self._held()
        for other in states:
            if other.name == state.name or (other.spec.read_only and state.spec.read_only):
                continue
            # Before its own admission a volume takes nothing: of two at once the first one wins.
            pieces = self._pieces(other, held.get(other.name))
            if other.phase == "logging-in" or not pieces.is_served():
                continue
            if checks.same_key(state, other):
                other = await host_call(functools.partial(with_present_size, pieces))
            if same(state, other):
                raise AlreadyAttached(state.name, other=other.name)

    @asynccontextmanager
    async def _admission(self, state: VolumeState) -> AsyncIterator[None]:
        path = self._directories.identity_lock
        async with file_lock(path, state.name, IDENTITY_LOCK_SECONDS):
            await self._refuse_conflict(state, checks.same_unit)
            yield
