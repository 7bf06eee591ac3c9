# SPDX-License-Identifier: Apache-2.0
"""A volume takes over the size that its LUN has by now: file, loop device, filesystem.

From the wire up, as everything that grows: the worker asks the unit, because there are targets that
never tell; the loop device takes over the size of the file; a filesystem that is mounted is grown
by the program of its makers. Every step looks for itself whether there is something to do, so what
was cut off or failed half way is finished by asking again, and what grew by itself up to the loop
device gets its filesystem grown.

Nothing is ever made smaller: what uses a device cannot be told that its end is gone.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass

from fusefs.errors import LoopFailed, WorkerFailed
from fusefs.host import LoopDevice
from fusefs.volume import status
from fusefs.volume.pieces import Pieces, loop_to_json
from fusefs.volume.state import VolumeState
from pyscsi_init.errors import CapacityShrunk

ASK_SECONDS = 30.0
"""A unit that is becoming ready again, as after it was grown, takes a few seconds to answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResizeReport:
    """What :func:`resize` found and did. Sizes are bytes."""

    name: str
    loop: str
    old_size_bytes: int
    """Of the loop device, before."""
    size_bytes: int
    """Of the LUN, the block file and the loop device, now."""
    mountpoint: str = ""
    fstype: str = ""
    """Empty where the volume is not mounted."""
    old_filesystem_bytes: int = 0
    """What ``df`` shows as the size, before."""
    filesystem_bytes: int = 0
    note: str = ""
    """Why the filesystem was left alone."""

    @property
    def grown(self) -> bool:
        """Whether anything became larger."""
        return (self.size_bytes, self.filesystem_bytes) != (
            self.old_size_bytes,
            self.old_filesystem_bytes,
        )


async def resize(volume: Pieces, progress: Callable[[str], None]) -> ResizeReport:
    """Grow what there is of a volume to the size of its LUN.

    Raises:
        WorkerFailed: the volume has failed, or its target is away; nothing was done.
        CapacityShrunk: the LUN is smaller than the device; nothing was done.
        IscsiError: the unit did not say how large it is; nothing was done.
        LoopFailed, CallFailed, Timeout: the loop device did not follow.
        CommandFailed, NotAllowed, InvalidSpec: the filesystem did not; the loop device has.

    Cancellation: the step under way is finished; calling again goes on.
    """
    name = volume.state.name
    device = await _healthy(volume)
    progress("ask the LUN for its size")
    answer = await volume.control.call("refresh-capacity", deadline_s=ASK_SECONDS)
    size = int(answer["size_bytes"])
    if size < device.size_bytes:
        raise CapacityShrunk(
            f"the LUN of volume {name!r} has {size} bytes, and {device.path} over it has "
            f"{device.size_bytes}: it shrank while it was in use, and a device in use is never "
            f"made smaller; give it back its size at the target, or detach the volume"
        )
    before, device = device, await _grow_the_loop(volume, device, size, progress)
    mountpoint = volume.state.mountpoint
    report = functools.partial(
        ResizeReport,
        name=name,
        loop=device.path,
        old_size_bytes=before.size_bytes,
        size_bytes=device.size_bytes,
    )
    mounted = [e for e in await volume.call(volume.find_mounts) if e.mountpoint == mountpoint]
    if not mounted:
        return report()
    fstype = mounted[-1].fstype
    old = new = await volume.call(_filesystem_size, mountpoint)
    note = ""
    if volume.state.spec.read_only:
        note = "the volume is read-only, so its filesystem is for others to grow"
    else:
        progress(f"grow the {fstype} filesystem")
        await volume.call(volume.host.grow_filesystem, device.path, mountpoint, fstype)
        new = await volume.call(_filesystem_size, mountpoint)
    return report(
        mountpoint=mountpoint,
        fstype=fstype,
        old_filesystem_bytes=old,
        filesystem_bytes=new,
        note=note,
    )


async def _healthy(volume: Pieces) -> LoopDevice:
    """The loop device of a volume that works."""
    now = await status.look(volume)
    pid = volume.worker.pid if volume.worker else None
    if now.failed:
        raise WorkerFailed(volume.state.name, now.last_error, pid=pid)
    if now.state == "recovering":
        raise WorkerFailed(
            volume.state.name,
            "its target is away, so nobody can say how large the LUN is; a LUN that grows while it "
            "is away is taken over when it is back, then ask again for the filesystem",
            pid=pid,
        )
    return (await volume.call(volume.find_loops))[0]


async def _grow_the_loop(
    volume: Pieces, device: LoopDevice, size: int, progress: Callable[[str], None]
) -> LoopDevice:
    """The loop device at the size of its LUN. The worker may have been faster; that is no harm."""
    if size > device.size_bytes:
        progress(f"grow {device.path}")
        device = await volume.call(volume.host.loop_set_capacity, device)
        if device.size_bytes < size:
            raise LoopFailed(
                device.backing_file,
                f"it has {device.size_bytes} bytes and the LUN {size}",
                device=device.path,
                remedy="try again",
            )
        facts = (await volume.call(with_present_size, volume)).facts
        await volume.save(loop=loop_to_json(device), facts=facts)
    return device


def with_present_size(volume: Pieces) -> VolumeState:
    """The state of a volume with the size of its LUN at this moment: what the file says may be
    older, where the loop device grew by itself. Blocks (reads sysfs)."""
    state = volume.state
    loops = volume.find_loops()
    if not loops:
        return state
    facts = {**state.facts, "size_bytes": loops[0].size_bytes}
    if "identity" in facts:
        facts["identity"] = {**facts["identity"], "size_bytes": loops[0].size_bytes}
    return state.with_(facts=facts)


def _filesystem_size(mountpoint: str) -> int:
    found = os.statvfs(mountpoint)
    return found.f_blocks * found.f_frsize
