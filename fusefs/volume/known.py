# SPDX-License-Identifier: Apache-2.0
"""Volumes that are known by name, and brought up for as long as somebody uses them.

What a front door with named volumes and users calls, as Docker's does; all of the logic is here.
The first use of a volume attaches and mounts it, at a place that follows from its name; the last
release takes it down. Users are counted on disk, so a front door may be killed between any two
steps:

- a use is counted when the volume is there, so what was cut off before has no user, and ``restore``
  takes it down;
- a release is counted before the volume is taken down, because whoever released it does not come
  again; what could not be taken down, or was cut off, stays without a user until the next use, the
  next release, ``remove`` or ``restore``.

It keeps nothing in memory and knows neither Docker nor any other front door.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import logging
from collections.abc import AsyncIterator, Mapping, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio

from fusefs.errors import InvalidSpec, NameInUse, NoSuchVolume, OperationInProgress, VolumeError
from fusefs.spec import VolumeSpec, volume_dir_name
from fusefs.volume import checks
from fusefs.volume.catalog import Catalog, Definition, now_text
from fusefs.volume.hostcalls import host_call
from fusefs.volume.locks import file_lock
from fusefs.volume.manager import VolumeManager
from fusefs.volume.paths import make_private_directory
from fusefs.volume.restore import RestoreReport
from fusefs.volume.state import StateUnreadable, VolumeState, load_state, remove_file
from fusefs.volume.status import VolumeStatus
from fusefs.volume.uses import load_users, save_users
from fusefs.volume_errors import NotReleased, StateNotUnderstood, VolumeInUse
from pyscsi_init.errors import IscsiError

log = logging.getLogger("fusefs.volume")

PATIENCE_S = 100.0
"""How long a user waits for another one of the same volume, whose use may include a check of its
filesystem; below the two minutes that container engines grant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownVolume:
    """A definition, and what there is of it now."""

    definition: Definition
    status: VolumeStatus | None
    """None where it is not attached."""
    users: Mapping[str, int] = field(default_factory=dict)
    """User -> how many times."""
    mountpoint: str = ""
    """Where it is mounted for its users; empty where it is not."""
    problem: str = ""
    """Why it is not known who uses it: then ``users`` is empty although there may be some."""

    @property
    def name(self) -> str:
        return self.definition.name


class KnownVolumes:
    """Use it from any task and any process; calls for different volumes run at the same time."""

    def __init__(
        self,
        manager: VolumeManager,
        mounts: Path | None = None,
        *,
        patience_s: float = PATIENCE_S,
    ) -> None:
        """``mounts`` is where volumes are mounted for their users, if not below the state
        directory; ``patience_s`` how long a call waits for another one on the same volume."""
        self._manager = manager
        self._directories = manager.directories
        self._mounts = mounts or self._directories.mounts
        self._catalog = Catalog(self._directories.definitions)
        self._patience_s = patience_s

    # -- what volumes there are -------------------------------------------------------------------

    async def define(
        self, spec: VolumeSpec, *, owner: str, labels: Mapping[str, str] | None = None
    ) -> Definition:
        """Make a volume known; the same again changes nothing but ``take_over``, which is said of
        one attach and not of the volume: the last word holds.

        Raises:
            NameInUse: the name is known with another specification.
            InvalidSpec: it is a raw block device, which has no directory that could be used.
        """
        if spec.block:
            raise InvalidSpec(
                "block", True, "has no directory that could be used", remedy="drop block"
            )
        async with self._lock(spec.name):
            known = await host_call(functools.partial(self._catalog.load, spec.name))
            if known is not None:
                if differs := checks.difference(known.spec, spec):
                    raise NameInUse(spec.name, difference=differs)
                if known.spec.take_over == spec.take_over:
                    return known
                changed = replace(known, spec=spec)
                await host_call(functools.partial(self._catalog.save, changed))
                return changed
            definition = Definition(
                spec=spec, created_at=now_text(), owner=owner, labels=labels or {}
            )
            await host_call(functools.partial(self._catalog.save, definition))
            return definition

    async def remove(self, name: str) -> None:
        """Forget a volume: its definition, which unit it was, its ISID. Unknown: fine. The LUN and
        what is on it stay.

        Raises:
            VolumeInUse: somebody uses it (``users``), or it is attached by other means.
            and what an orderly end raises, where it was still attached without a user.
        """
        async with self._lock(name):
            users = await self._users(name)
            if users:
                raise VolumeInUse(name, sorted(users))
            if await host_call(functools.partial(self._catalog.load, name)) is None:
                return
            state = await self._state(name)
            if state is not None and (place := await self._other_place(state)):
                raise VolumeInUse(name, (), reason=f"a command has it {place}")
            await self._take_down(name)
            await self._manager.forget(name)
            await host_call(functools.partial(self._catalog.remove, name))

    async def get(self, name: str) -> KnownVolume:
        """One volume. Never waits for a target or a lock.

        Raises:
            NoSuchVolume: it is not known.
        """
        definition = await self._definition(name)
        try:
            status: VolumeStatus | None = await self._manager.get(name)
        except NoSuchVolume:
            status = None
        return await self._known(definition, status)

    async def list(self) -> builtins.list[KnownVolume]:
        """Every volume, by name. Never waits for a target or a lock."""
        present = {status.name: status for status in await self._manager.status()}
        definitions = await host_call(self._catalog.all)
        return [await self._known(each, present.get(each.name)) for each in definitions]

    async def unusable(self) -> dict[str, str]:
        """Every volume that is known by name and whose definition cannot be used, with why."""
        return await host_call(self._catalog.unusable)

    # -- who uses them ----------------------------------------------------------------------------

    async def use(self, name: str, user: str) -> Path:
        """Count ``user`` once more, and return where the volume is mounted. The first one has it
        attached and mounted; where it is dead, the next one has it attached anew.

        Raises:
            NoSuchVolume: it is not known.
            and what ``VolumeManager.ensure_mounted`` raises; then nothing is counted.

        Cancellation: nothing is counted, and what was brought up for it is taken back; when it is
        there already, the caller is counted and returned to.
        """
        async with self._lock(name):
            definition = await self._definition(name)
            users = await self._users(name)
            if not users:
                await self._end_failed(name)
            path = self.mountpoint(name)
            await host_call(functools.partial(self._make_mountpoint, path))
            try:
                await self._manager.ensure_mounted(definition.spec, path)
            except BaseException:
                if not users:
                    await self._remove_mountpoint(path)
                raise
            users[user] = users.get(user, 0) + 1
            with anyio.CancelScope(shield=True):  # whoever is cancelled from here on is counted
                await self._save_users(name, users)
            return path

    async def release(self, name: str, user: str) -> None:
        """Count ``user`` once less; the last one has the volume unmounted and detached. Unknown
        volume or user: fine.

        Raises:
            NotReleased: the user is counted as before.
            and what an orderly end raises: the user is gone all the same, and the volume stays
                until the next use, release, ``remove`` or ``restore``.
        """
        is_counted = True
        try:
            async with self._lock(name):
                users = await self._users(name)
                if user in users:
                    users[user] -= 1
                    if not users[user]:
                        del users[user]
                    await self._save_users(name, users)
                is_counted = False
                if not users:
                    await self._take_down(name)
        except (VolumeError, OSError) as error:
            if not is_counted:
                raise
            raise NotReleased(name, user, error) from error

    async def forget_users(self, name: str, keep: Set[str]) -> tuple[str, ...]:
        """Drop every user that is not in ``keep``, however often it came, and return them; where
        none is left the volume is taken down. For a front door that knows who lives.

        Raises: as :meth:`release`.
        """
        async with self._lock(name):
            users = await self._users(name)
            gone = tuple(sorted(user for user in users if user not in keep))
            if gone:
                await self._save_users(name, {u: n for u, n in users.items() if u in keep})
                if not keep & set(users):
                    await self._take_down(name)
            return gone

    async def forget(self, name: str, *, definition: bool = False) -> bool:
        """Drop which unit a volume was, and its ``definition`` too, whose loss the front door that
        made it may not see; whether anything was known.

        Raises:
            VolumeInUse: somebody uses it, or it is attached.
        """
        async with self._lock(name):
            users = await self._users(name)
            if users:
                raise VolumeInUse(name, sorted(users))
            known = await self._manager.forget(name)
            drop = self._catalog.remove if definition else self._catalog.is_there
            return await host_call(functools.partial(drop, name)) or known

    async def restore(self) -> RestoreReport:
        """At a start: clear what was cut off, take down what nobody uses, keep the rest.

        What cannot be written out, because its target is away, stays and is told as a problem; a
        target that is only silent is waited for as long as a flush may take.
        """
        report = await self._manager.restore()
        definitions = await host_call(self._catalog.all)
        for name in [definition.name for definition in definitions]:
            try:
                async with self._lock(name, 0.0):
                    await self._restore_one(name, report)
            except OperationInProgress:
                report.busy.append(name)
            except (VolumeError, IscsiError, OSError) as error:
                report.problems.append(f"{name}: {error}")
                log.warning("restore: volume %s: %s", name, error)
        for name in [definition.name for definition in definitions]:
            with contextlib.suppress(OperationInProgress):
                async with self._lock(name, 0.0):  # or the count of one who comes now would go
                    await host_call(functools.partial(self._clear_places, name))
        return report

    async def _restore_one(self, name: str, report: RestoreReport) -> None:
        if await self._users(name) or await self._state(name) is None:
            return
        if await self._take_down(name):
            for found in (report.kept, report.cleared):
                with contextlib.suppress(ValueError):
                    found.remove(name)
            report.failed.pop(name, None)
            report.cleared.append(name)

    def mountpoint(self, name: str) -> Path:
        """Where the volume is mounted for its users, when it is."""
        return self._mounts / volume_dir_name(name)

    # -- inside -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def _lock(self, name: str, patience_s: float | None = None) -> AsyncIterator[None]:
        await host_call(self._directories.prepare)
        patience = self._patience_s if patience_s is None else patience_s
        async with file_lock(self._directories.uses_lock(name), name, patience):
            yield

    async def _definition(self, name: str) -> Definition:
        definition = await host_call(functools.partial(self._catalog.load, name))
        if definition is None:
            raise NoSuchVolume(name)
        return definition

    async def _users(self, name: str) -> dict[str, int]:
        return await host_call(functools.partial(load_users, self._directories.uses_of(name), name))

    async def _save_users(self, name: str, users: Mapping[str, int]) -> None:
        path = self._directories.uses_of(name)
        await host_call(functools.partial(save_users, path, name, users))

    async def _state(self, name: str) -> VolumeState | None:
        path = self._directories.volume(name).state
        try:
            return await host_call(functools.partial(load_state, path))
        except StateUnreadable as error:
            raise StateNotUnderstood(name, str(error)) from error

    async def _known(self, definition: Definition, status: VolumeStatus | None) -> KnownVolume:
        users: dict[str, int] = {}
        problem = ""
        try:
            users = await self._users(definition.name)
        except VolumeError as error:
            problem = str(error)
        path = str(self.mountpoint(definition.name))
        real = await host_call(functools.partial(checks.resolve_parent, path))
        here = status is not None and status.mountpoint == real
        return KnownVolume(
            definition=definition,
            status=status,
            users=users,
            mountpoint=path if here and (users or problem) else "",
            problem=problem,
        )

    async def _end_failed(self, name: str) -> None:
        """Before a first use: what has failed, and is used by nobody, is no reason to refuse."""
        try:
            failed = (await self._manager.get(name)).failed
        except NoSuchVolume:
            return
        if failed:
            await self._take_down(name)

    async def _take_down(self, name: str) -> bool:
        """End the volume, where it is mounted for its users; whether there was something.

        Raises: what an orderly end raises.
        """

        async def is_elsewhere(state: VolumeState) -> bool:
            return bool(await self._other_place(state))

        state = await self._state(name)
        if state is not None and await is_elsewhere(state):
            return False
        report = None
        if state is not None:
            # A command may be working on it: where it wants it is known when it is done.
            report = await self._manager.ensure_gone(name, spare=is_elsewhere)
        await self._remove_mountpoint(self.mountpoint(name))
        return report is not None

    async def _other_place(self, state: VolumeState) -> str:
        """Where else than for its users a volume of this name is; empty for nowhere. One that is
        not mounted and on its way may have been on the way to its users."""
        if not state.mountpoint:
            return "attached, not mounted" if state.phase == "attached" else ""
        path = str(self.mountpoint(state.name))
        ours = await host_call(functools.partial(checks.resolve_parent, path))
        return "" if state.mountpoint == ours else f"mounted on {state.mountpoint}"

    def _make_mountpoint(self, path: Path) -> None:
        make_private_directory(self._directories.state)
        self._mounts.mkdir(mode=0o711, parents=True, exist_ok=True)
        # The table first: to look into a mount asks its filesystem, which may be dead.
        real = checks.resolve_parent(str(path))
        if not any(entry.mountpoint == real for entry in self._manager.host.mounts()):
            path.mkdir(mode=0o700, exist_ok=True)

    async def _remove_mountpoint(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            await host_call(path.rmdir)

    def _clear_places(self, name: str) -> None:
        """Mount point and count that are worth nothing any more. Blocks."""
        uses = self._directories.uses_of(name)
        with contextlib.suppress(VolumeError):  # restore has told of it, and it stays
            if not load_users(uses, name):
                remove_file(uses)
        path = self.mountpoint(name)
        real = checks.resolve_parent(str(path))
        if not any(entry.mountpoint == real for entry in self._manager.host.mounts()):
            with contextlib.suppress(OSError):
                path.rmdir()
