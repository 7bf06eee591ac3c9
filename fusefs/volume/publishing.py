# SPDX-License-Identifier: Apache-2.0
"""A volume at further places: its directory bound to another one, or its device bound onto a file.

A bind is written down before it is made, as pending, and once more when it is there: so a crash in
between leaves something that everybody knows to be unfinished, and the next call finishes or clears
it. What the bind stands on, if we made it, goes with it.
"""

from __future__ import annotations

import functools
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from fusefs.errors import InvalidSpec, NameInUse, NoSuchVolume
from fusefs.volume import checks, status
from fusefs.volume.access import VolumeAccess
from fusefs.volume.hostcalls import host_call, shielded
from fusefs.volume.pieces import Pieces
from fusefs.volume.stack import Composition
from fusefs.volume.state import Bind
from fusefs.volume.status import VolumeStatus


class Publishing(VolumeAccess):
    """The verbs that add places to a volume and take them away."""

    async def publish(
        self, name: str, directory: str | Path, read_only: bool = False
    ) -> VolumeStatus:
        """Bind the mounted volume to an empty directory too; the same again does nothing.

        Raises:
            NoSuchVolume: there is none of this name.
            InvalidSpec: it is not mounted, or the directory is missing, not empty, or mounted on.
            NameInUse: the volume is there already, with other rights.
        """
        return await self._publish(name, str(directory), read_only, device=False, make=False)

    async def ensure_published(
        self, name: str, directory: str | Path, read_only: bool = False
    ) -> VolumeStatus:
        """As :meth:`publish`; a directory that is missing is made, and goes with the bind."""
        return await self._publish(name, str(directory), read_only, device=False, make=True)

    async def publish_device(
        self, name: str, file: str | Path, read_only: bool = False
    ) -> VolumeStatus:
        """Bind the node of the volume's loop device onto an empty file, which is made if missing.

        Raises:
            NoSuchVolume: there is none of this name.
            InvalidSpec: the file cannot be mounted on; or ``read_only`` of a volume that is not: a
                bind of a device node keeps nobody from writing to the device.
            NameInUse: the volume is there already, with other rights.
        """
        return await self._publish(name, str(file), read_only, device=True, make=True)

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
            await self._take_away(volume, path)

    async def ensure_unpublished(self, name: str, path: str | Path) -> None:
        """As :meth:`unpublish`; no volume of this name is no error."""
        try:
            await self.unpublish(name, path)
        except NoSuchVolume:
            return

    async def _take_away(self, volume: Pieces, path: str) -> None:
        await volume.unmount(path)
        for bind in volume.state.binds:
            if bind.directory == path:
                await volume.remove_made(bind)
        await volume.save(binds=tuple(b for b in volume.state.binds if b.directory != path))

    async def _publish(
        self, name: str, place: str, read_only: bool, *, device: bool, make: bool
    ) -> VolumeStatus:
        async with self._lock(name):
            volume = await self._existing(name)
            await self._refuse_unfit(volume, read_only, device=device)
            path = await host_call(functools.partial(checks.resolve_parent, place))
            bind = Bind(path, read_only, device)
            for known in volume.state.binds:
                if known.directory != path or known.pending:
                    continue
                if await volume.call(volume.is_mounted_at, path):
                    if (known.read_only, known.device) != (read_only, device):
                        rights = f"{path} has it with read_only={known.read_only}"
                        raise NameInUse(name, difference=rights)
                    return await status.look(volume)
            # What an attempt that was cut off has left there, or what somebody unmounted.
            await self._take_away(volume, path)
            made = make and await host_call(functools.partial(checks.is_missing, path))
            if not made:
                check = checks.check_file if device else checks.check_directory
                await host_call(lambda: check("target", path, self._host.mounts()))
            composition = Composition(volume)
            async with AsyncExitStack() as undo:
                before = volume.state.binds
                undo.push_async_callback(
                    shielded, functools.partial(composition.save, binds=before)
                )
                await composition.bind(replace(bind, made=made), undo)
                undo.pop_all()
            return await status.look(composition)

    async def _refuse_unfit(self, volume: Pieces, read_only: bool, *, device: bool) -> None:
        name, mountpoint = volume.state.name, volume.state.mountpoint
        if device:
            if read_only and not volume.state.spec.read_only:
                raise InvalidSpec(
                    "read_only",
                    True,
                    "a bind of a device node keeps nobody from writing to the device",
                    remedy="attach the volume read-only",
                )
            if not await volume.call(volume.find_loops):
                raise InvalidSpec("volume", name, "has no loop device", remedy="attach it again")
        elif not mountpoint or not await volume.call(volume.is_mounted_at, mountpoint):
            raise InvalidSpec("volume", name, "is not mounted", remedy="mount it first")
