# SPDX-License-Identifier: Apache-2.0
"""What every verb of a manager begins with: the lock of a volume, what there is of it, what forbids
another one.

It is apart from the verbs so that each of them reads as what it does. Nothing here changes a volume
but one thing: what an attempt that was cut off has left is cleared away when its name is asked for
again.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from fusefs.errors import AlreadyAttached, NameInUse, NoSuchVolume, WorkerFailed
from fusefs.host import Host
from fusefs.process.exchange import HeldFacts
from fusefs.process.holder_client import HolderClient
from fusefs.spec import VolumeSpec
from fusefs.volume import checks, elsewhere, listing, pins, status
from fusefs.volume.hostcalls import host_call
from fusefs.volume.locks import file_lock
from fusefs.volume.paths import Directories
from fusefs.volume.pieces import Pieces
from fusefs.volume.resize import with_present_size
from fusefs.volume.state import (
    StateUnreadable,
    VolumeState,
    boot_id,
    load_state,
    placeholder_state,
)
from fusefs.volume.status import VolumeStatus
from fusefs.volume.teardown import take_down, take_down_by_force
from fusefs.volume_errors import AttachedElsewhere, FailedAndThere, StateNotUnderstood

log = logging.getLogger("fusefs.volume")

LOCK_SECONDS = 10.0
IDENTITY_LOCK_SECONDS = 60.0


class VolumeAccess:
    """The directories of a node, and the volumes in them."""

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
        self._holder = holder or HolderClient(
            self._directories.run, host, state=self._directories.state
        )

    @property
    def host(self) -> Host:
        """The host that is worked on."""
        return self._host

    @property
    def directories(self) -> Directories:
        """Where everything lies."""
        return self._directories

    @property
    def holder(self) -> HolderClient:
        """The holder of this run directory: to ask, and to replace by newer code."""
        return self._holder

    async def spec_of(self, name: str) -> VolumeSpec:
        """What a volume of this node was asked for as.

        Raises:
            NoSuchVolume: there is none of this name.
            StateNotUnderstood: there is one, and its state file cannot be read.
        """
        try:
            return (await self._existing(name)).state.spec
        except StateUnreadable as error:
            raise StateNotUnderstood(name, str(error)) from error

    @asynccontextmanager
    async def _lock(self, name: str, timeout_s: float | None = None) -> AsyncIterator[None]:
        await host_call(self._directories.prepare)
        patience = self._lock_timeout_s if timeout_s is None else timeout_s
        async with file_lock(self._directories.lock(name), name, patience):
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
        """Refuse a name that is in use; clear what an attempt that was cut off left behind it, and
        what is written of a volume that went with its container."""
        try:
            volume = await self._existing(spec.name)
        except NoSuchVolume:
            return
        except StateUnreadable as error:
            raise StateNotUnderstood(spec.name, str(error)) from error
        now = await status.look(volume)
        if now.failed and not is_at_rest(volume.state):
            await take_down_by_force(volume)
            return
        if now.failed and await host_call(functools.partial(_is_gone, volume)):
            report = await take_down_by_force(volume)
            log.info("volume %s was gone and is brought up anew: %s", spec.name, report)
            return
        differs = checks.difference(volume.state.spec, spec)
        if now.failed:
            raise FailedAndThere(spec.name, failure=now.last_error)
        if not differs:
            raise AlreadyAttached(spec.name, other=spec.name)
        raise NameInUse(spec.name, difference=differs)

    async def _already_up(self, spec: VolumeSpec, mountpoint: str) -> VolumeStatus | None:
        """The status of a volume that is as it is asked for; None where it has to be brought up.

        What is dead, or has lost a piece, is taken down first: nothing of it can be saved, or all
        of it is.

        Raises:
            NameInUse: it is another volume, or elsewhere.
            WorkerFailed: it is that volume, its worker lives, and says that it has failed for good.
        """
        try:
            volume = await self._existing(spec.name)
        except NoSuchVolume:
            return None
        except StateUnreadable as error:
            raise StateNotUnderstood(spec.name, str(error)) from error
        now = await status.look(volume)
        if now.failed and not is_at_rest(volume.state):
            await take_down_by_force(volume)
            return None
        if differs := checks.difference(volume.state.spec, spec):
            raise NameInUse(spec.name, difference=differs)
        path = await host_call(functools.partial(checks.resolve_parent, mountpoint or "/"))
        if (path if mountpoint else "") != volume.state.mountpoint:
            places = (volume.state.mountpoint or "no directory", mountpoint or "no directory")
            raise NameInUse(spec.name, difference="mounted on {}, not {}".format(*places))
        if not now.failed:
            return now
        _, _, missing = await host_call(functools.partial(status.compare, volume))
        if not volume.is_served():
            report = await take_down_by_force(volume)
            log.info("volume %s was dead and is brought up anew: %s", spec.name, report)
        elif missing:
            await take_down(volume)
        else:
            pid = volume.worker.pid if volume.worker else None
            raise WorkerFailed(spec.name, now.last_error, pid=pid)
        return None

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
        for name, problem in (
            await host_call(functools.partial(listing.not_understood, self._directories))
        ).items():
            lives = self._pieces(placeholder_state(name), held.get(name)).is_served()
            if lives and name != state.name:
                raise StateNotUnderstood(name, problem, beside=state.name)

    @asynccontextmanager
    async def _admission(self, mountpoint: str, state: VolumeState) -> AsyncIterator[None]:
        """When the identity is known: is it the volume's own unit, and does nobody here have it?"""
        pin = await host_call(
            functools.partial(pins.load_pin, self._directories.identity(state.name), state.name)
        )
        pins.check_pin(pin, state, with_content=bool(mountpoint))
        path = self._directories.identity_lock
        async with (
            file_lock(path, state.name, IDENTITY_LOCK_SECONDS),
            file_lock(self._directories.attached_lock, state.name, IDENTITY_LOCK_SECONDS),
        ):
            await self._refuse_conflict(state, checks.same_unit)
            await host_call(functools.partial(self._refuse_elsewhere, state, checks.same_unit))
            paths = self._directories.volume(state.name)
            await host_call(functools.partial(elsewhere.write_record, paths, state))
            yield

    @asynccontextmanager
    async def _login(self, state: VolumeState) -> AsyncIterator[None]:
        """Before the wire is touched, and until the volume is there: does anybody else of this
        state directory have the name, whose session a login would reinstate, or the address?"""
        path = self._directories.login_lock(state.name)
        async with file_lock(path, state.name, self._lock_timeout_s):
            lock = self._directories.attached_lock
            async with file_lock(lock, state.name, IDENTITY_LOCK_SECONDS):
                same = checks.same_address_of
                await host_call(functools.partial(self._refuse_elsewhere, state, same))
            yield

    def _refuse_elsewhere(
        self, state: VolumeState, same: Callable[[VolumeState, VolumeState], bool]
    ) -> None:
        """Refuse what lives under another run directory. Blocks; the records are locked."""
        loops = self._host.loop_list()
        for other in elsewhere.others(self._directories.attached, self._directories.run, loops):
            both_read = other.state.spec.read_only and state.spec.read_only
            is_same = not both_read and same(state, other.with_present_size(loops))
            if is_same or other.state.name == state.name:
                device = other.loop_among(loops)
                raise AttachedElsewhere(
                    state.name,
                    other=other.state.name,
                    run=other.run,
                    device=device.path if device else "",
                    same_unit=is_same,
                )


def is_at_rest(state: VolumeState) -> bool:
    """Whether a command has finished with the volume, in this boot."""
    return state.phase in status.AT_REST and state.boot_id == boot_id()


def _is_gone(volume: Pieces) -> bool:
    """Whether nothing of a volume is there but its files: the processes and the mounts of a
    container end together, and its run directory may outlive them. Blocks."""
    return not (
        volume.is_served() or volume.find_loops() or volume.find_mounts() or volume.fuse_mounts()
    )
