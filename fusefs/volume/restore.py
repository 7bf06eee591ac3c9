# SPDX-License-Identifier: Apache-2.0
"""After a crash or a reboot: what was left half is cleared, what is at rest stays.

The states say what was intended, the kernel's tables (mounts, loop devices, FUSE connections) what
there is. A volume that a command had not finished with is cleared, whoever asked for it: nobody was
told that it is there. One that is at rest is kept, alive or dead: somebody was told, and may use
it. What has no state at all, in the places that are ours, is a piece of one that was cleared by
half.

A volume that is being worked on at this moment is left alone: its lock says so.
"""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from fusefs.errors import OperationInProgress, VolumeError
from fusefs.volume import checks, elsewhere, status
from fusefs.volume.access import VolumeAccess, is_at_rest
from fusefs.volume.hostcalls import host_call
from fusefs.volume.locks import file_lock
from fusefs.volume.paths import VolumePaths
from fusefs.volume.pieces import Pieces
from fusefs.volume.state import (
    StateUnreadable,
    clear_unfinished,
    load_state,
    placeholder_state,
)
from fusefs.volume.teardown import take_down_by_force
from pyscsi_init.errors import IscsiError

log = logging.getLogger("fusefs.volume")


@dataclass(slots=True)
class RestoreReport:
    """What a restore found and did."""

    kept: list[str] = field(default_factory=list)
    """At rest and alive."""
    failed: dict[str, str] = field(default_factory=dict)
    """At rest and dead, or not to be read: name and reason. The next use attaches it anew."""
    cleared: list[str] = field(default_factory=list)
    """Were on the way, or without a user: nothing of them is left."""
    busy: list[str] = field(default_factory=list)
    """Are being worked on by somebody else; nothing was done."""
    problems: list[str] = field(default_factory=list)
    """What could not be cleared, in words."""


class Restoring(VolumeAccess):
    """The verb of a start."""

    async def restore(self) -> RestoreReport:
        """Clear what a crash or a reboot has cut off; keep what is at rest.

        Never waits for a target. Cancellation: between two volumes.
        """
        await host_call(self._directories.prepare)
        report = RestoreReport()
        for paths in await host_call(self._volume_paths):
            name = await host_call(functools.partial(checks.name_of_directory, paths.directory))
            lock = self._directories.locks / f"{paths.directory.name}.lock"
            try:
                async with file_lock(lock, name, 0.0):
                    await self._restore_one(name, paths, report)
            except OperationInProgress:
                report.busy.append(name)
            except (VolumeError, IscsiError, OSError) as error:
                report.problems.append(f"{name}: {error}")
        await host_call(functools.partial(self._clear_orphans, report))
        await host_call(self._clear_temporaries)
        for problem in report.problems:
            log.warning("restore: %s", problem)
        return report

    def _volume_paths(self) -> list[VolumePaths]:
        entries = sorted(self._directories.volumes.iterdir())
        return [self._directories.volume_in(entry) for entry in entries if entry.is_dir()]

    async def _restore_one(self, name: str, paths: VolumePaths, report: RestoreReport) -> None:
        try:
            state = await host_call(functools.partial(load_state, paths.state))
        except StateUnreadable as error:
            # Perhaps newer code wrote it, and the volume is alive.
            report.failed[name] = f"its state file {error}"
            return
        if state is None and not await host_call(paths.directory.is_dir):
            return  # it has ended since we looked
        left = state or placeholder_state(name)
        volume = Pieces(self._host, paths, left, self._holder)
        await volume.ask_the_holder()
        if state is None or not is_at_rest(state):
            ended = await take_down_by_force(volume)
            report.problems += [f"{name}: {problem}" for problem in ended.problems]
            report.cleared.append(name)
            return
        for bind in state.binds:
            if bind.pending:
                await volume.unmount(bind.directory)
                await volume.remove_made(bind)
        rest = tuple(bind for bind in state.binds if not bind.pending)
        if rest != state.binds:
            await volume.save(binds=rest)
        now = await status.look(volume)
        if state.loop:
            await host_call(functools.partial(elsewhere.write_missing_record, paths, volume.state))
        if now.failed:
            report.failed[name] = now.last_error
        else:
            report.kept.append(name)

    def _clear_orphans(self, report: RestoreReport) -> None:
        """Mounts and loop devices in our places of which no volume is left. Blocks."""
        ours = f"{self._directories.volumes}{os.sep}"

        def is_orphan(path: str) -> bool:
            if not path.startswith(ours):
                return False
            directory = self._directories.volumes / Path(path[len(ours) :]).parts[0]
            return not directory.is_dir()

        mounts = self._host.mounts()
        # The kernel lists loop devices of all mount namespaces, each with the file's path in its
        # own: a container that mounts volumes for itself has the same paths.
        here = {entry.mountpoint for entry in mounts}

        def is_mounted_here(file: str) -> bool:
            return str(Path(file).parent) in here

        loops = {
            device.path: device
            for device in self._host.loop_list()
            if is_orphan(device.backing_file) and is_mounted_here(device.backing_file)
        }
        for entry in reversed(mounts):
            if entry.source in loops or is_orphan(entry.mountpoint):
                self._attempt(report, entry.mountpoint, self._host.umount, lazy=True)
        for device in loops.values():
            self._attempt(report, device, self._host.loop_detach, lazy=True)

    @staticmethod
    def _attempt(report: RestoreReport, what: object, step: object, **options: object) -> None:
        try:
            step(what, **options)  # type: ignore[operator]
        except VolumeError as error:
            report.problems.append(f"{what}: {error}")

    def _clear_temporaries(self) -> None:
        """Files that were being written when their writer died. Blocks."""
        for directory in self._directories.documents:
            clear_unfinished(directory)
