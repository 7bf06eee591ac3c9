# SPDX-License-Identifier: Apache-2.0
"""The volumes of this node, for every front door: attach, mount, publish, and the ways back.

A manager is a view, not an owner. It keeps nothing between two calls but the directories and the
host, so a command line that lives for a second and a service that lives for a year are the same,
and either may die between any two steps. Each volume is worked on under its lock; the check that
no LUN is had twice is made under one lock for all.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from fusefs.errors import InvalidSpec, MountBusy, NoSuchVolume
from fusefs.process.exchange import HeldFacts
from fusefs.process.holder_client import is_external
from fusefs.spec import VolumeSpec
from fusefs.volume import checks, isids, listing, pins, status
from fusefs.volume.credentials import credentials_for
from fusefs.volume.hostcalls import host_call
from fusefs.volume.locks import is_locked
from fusefs.volume.pieces import Pieces
from fusefs.volume.publishing import Publishing
from fusefs.volume.replacement import UpgradeReport, replace_worker
from fusefs.volume.resize import ResizeReport, resize
from fusefs.volume.restore import Restoring
from fusefs.volume.stack import Composition, ProgressCallback, compose
from fusefs.volume.state import (
    StateUnreadable,
    VolumeState,
    boot_id,
    placeholder_state,
    remove_file,
)
from fusefs.volume.status import VolumeStatus
from fusefs.volume.teardown import DetachReport, take_down, take_down_by_force
from fusefs.volume_errors import StateNotUnderstood, VolumeInUse
from pyscsi_init.secret import Chap

Spare = Callable[[VolumeState], Awaitable[bool]]


class VolumeManager(Publishing, Restoring):
    """Use it from any task; calls for different volumes run at the same time."""

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

    async def ensure_attached(
        self,
        spec: VolumeSpec,
        credentials: Chap | None = None,
        progress: ProgressCallback | None = None,
    ) -> VolumeStatus:
        """As :meth:`attach`, but a volume that is so already is left as it is, and one that is dead
        is taken down and attached anew.

        Raises:
            NameInUse: the name belongs to another specification, or the volume is mounted.
            WorkerFailed: it has failed for good, and its worker lives to say so.
            and whatever :meth:`attach` raises.
        """
        return await self._bring_up(spec, "", credentials, progress, again=True)

    async def ensure_mounted(
        self,
        spec: VolumeSpec,
        mountpoint: str | Path,
        credentials: Chap | None = None,
        progress: ProgressCallback | None = None,
        *,
        once: bool = False,
    ) -> VolumeStatus:
        """As :meth:`mount`, in the way of :meth:`ensure_attached`.

        ``once`` is kept with the volume: it lives and dies where it is mounted now.

        Raises:
            NameInUse: the name belongs to another specification, or is mounted elsewhere.
            and whatever :meth:`ensure_attached` and :meth:`mount` raise.
        """
        return await self._bring_up(
            spec, str(mountpoint), credentials, progress, again=True, once=once
        )

    async def _bring_up(
        self,
        spec: VolumeSpec,
        mountpoint: str,
        given: Chap | None,
        progress: ProgressCallback | None,
        *,
        again: bool = False,
        once: bool = False,
    ) -> VolumeStatus:
        if spec.block and mountpoint:
            raise InvalidSpec(
                "block", True, "is a volume without a filesystem", remedy="attach it instead"
            )
        if spec.fuse_channel != "native" and is_external():
            raise InvalidSpec(
                "fuse channel",
                spec.fuse_channel,
                "keeps its state in its process, so the volume would end with this data plane when "
                "the next one takes over",
                remedy="take native",
            )
        async with AsyncExitStack() as locks:
            await locks.enter_async_context(self._lock(spec.name))
            if mountpoint:
                # Of two mounts on one directory the second must find it mounted.
                await locks.enter_async_context(self._directory_lock(mountpoint))
            if not again:
                await self._refuse_taken_name(spec)
            elif (present := await self._already_up(spec, mountpoint)) is not None:
                return present
            chap = await host_call(functools.partial(credentials_for, spec, given))
            state = VolumeState(spec=spec, phase="logging-in", boot_id=boot_id(), once=once)
            await self._refuse_conflict(state, checks.same_address_of)
            await locks.enter_async_context(self._login(state))
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
                admission=functools.partial(self._admission, mountpoint),
                notes=self._directories.formatting,
                pin=functools.partial(pins.write_pin, self._directories.identity(spec.name)),
                mountpoint=mountpoint,
                brings_up=True,
            )
            await compose(volume)
            return await status.look(volume)

    async def resize(self, name: str, progress: ProgressCallback | None = None) -> ResizeReport:
        """Grow a volume to the size of its LUN; see :func:`fusefs.volume.resize.resize`.

        Raises:
            NoSuchVolume: there is none of this name.
            and what that function raises.
        """
        async with self._lock(name):
            volume = await self._readable(name)
            return await resize(volume, progress or (lambda _step: None))

    async def _readable(self, name: str) -> Pieces:
        try:
            return await self._existing(name)
        except StateUnreadable as error:
            raise StateNotUnderstood(name, str(error)) from error

    # -- back to nothing --------------------------------------------------------------------------

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
                raise StateNotUnderstood(name, str(error)) from error
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
        return report

    async def ensure_gone(
        self, name: str, force: bool = False, *, spare: Spare | None = None
    ) -> DetachReport | None:
        """Unmount and detach a volume, whichever of the two it needs; None where there is none, or
        where ``spare`` says of it that it is to stay: asked when nobody else works on it any more.

        Raises: as :meth:`umount`, but never NoSuchVolume.
        """
        async with self._lock(name):
            try:
                if spare is not None and await spare((await self._readable(name)).state):
                    return None
                return await self._end(name, force, mounted=True)
            except NoSuchVolume:
                # The directory goes last, and who removed it may have been killed before that.
                await self._pieces(placeholder_state(name)).remove_files()
                return None

    async def forget(self, name: str, *, isid: bool = True) -> bool:
        """Forget which logical unit a volume was, and with ``isid`` its session's ISID, by which a
        target knows a session again; whether anything was known.

        Raises:
            VolumeInUse: it is attached.
        """
        async with self._lock(name):
            if await host_call(self._directories.volume(name).state.exists):
                raise VolumeInUse(name, (), reason="it is attached")
            known = await host_call(
                functools.partial(remove_file, self._directories.identity(name))
            )
            if isid:
                path = self._directories.isid(name)
                known = await host_call(functools.partial(remove_file, path)) or known
            return known

    # -- looking ----------------------------------------------------------------------------------

    async def status(self) -> list[VolumeStatus]:
        """Every volume of this node, by name. Never waits for a target or a lock."""
        found: list[VolumeStatus] = []
        names = await host_call(functools.partial(listing.names, self._directories))
        held = await self._held()
        for name in names:
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

    async def upgrade(self, name: str, credentials: Chap | None = None) -> UpgradeReport:
        """Replace the volume's worker by one of the present zygote, without an I/O error. It logs
        in with ``credentials``, else with what the volume's secret files say now, else as before.

        Raises:
            NoSuchVolume: there is none of this name.
            StateNotUnderstood: its state file cannot be read.
            NotAllowed: it is served by libfuse; nothing was done.
            WorkerFailed: it has no worker, its target is away and does not just refuse the secret
                (nothing was done then), or the successor does not serve.
            SecretError: its target refuses the secret, and there is no other.

        Cancellation: the worker is followed by a successor in any case.
        """
        async with self._lock(name):
            return await replace_worker(await self._readable(name), credentials)
