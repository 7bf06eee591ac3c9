# SPDX-License-Identifier: Apache-2.0
"""How full a volume is, asked of its filesystem without ever waiting for long."""

from __future__ import annotations

import errno
import functools
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from fusefs.errors import CallFailed, NoSuchVolume, Timeout
from fusefs.host import Host
from fusefs.host.blocking import bounded
from fusefs.volume.checks import resolve_parent
from fusefs.volume.hostcalls import host_call
from fusefs.volume.status import GIVEN_UP, VolumeStatus

ASK_SECONDS = 3.0
"""A filesystem answers from memory; one that does not waits for its target."""

_unanswered: dict[str, threading.Event] = {}
"""Places that a thread waits for, set when it does no more: one thread is enough, however often and
however long somebody asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Bytes, and numbers of inodes. A raw device has a size and nothing else."""

    size_bytes: int
    used_bytes: int = 0
    available_bytes: int = 0
    """To those who are not root."""
    inodes: int = 0
    """0 where the filesystem makes them as it needs them."""
    inodes_free: int = 0
    device: bool = False
    read_only: bool = False
    """Nobody can write to the filesystem, whatever this place of it allows."""
    unknown: str = ""
    """Why only the size is known."""


async def places_of(volume: VolumeStatus, path: str) -> str:
    """``path`` as the volume has it, if that is one of its places.

    Raises:
        NoSuchVolume: the volume is neither mounted nor published there.
    """
    place = await host_call(functools.partial(resolve_parent, path))
    if place != volume.mountpoint and place not in {bind.directory for bind in volume.binds}:
        raise NoSuchVolume(f"{volume.name} at {path}")
    return place


async def usage(host: Host, volume: VolumeStatus, path: str) -> Usage:
    """How full ``volume`` is, seen at ``path``, a directory or device of it.

    Raises:
        NoSuchVolume: the volume is not there.
    """
    place = await places_of(volume, path)
    if not volume.mountpoint:
        return Usage(size_bytes=volume.size_bytes, device=True)
    mounted = [entry for entry in host.mounts() if entry.mountpoint == place]
    if not mounted:
        return Usage(size_bytes=volume.size_bytes, unknown=f"it is not mounted on {place} any more")
    if (earlier := _unanswered.pop(place, None)) is not None and not earlier.is_set():
        _unanswered[place] = earlier
        return Usage(size_bytes=volume.size_bytes, unknown=f"statvfs {place} has no answer yet")
    over = threading.Event()

    def ask() -> os.statvfs_result:
        try:
            Path(place).stat()  # xfs that was shut down answers statvfs, and nothing else
            return os.statvfs(place)
        finally:
            over.set()

    try:
        found = await host_call(lambda: bounded(f"statvfs {place}", ASK_SECONDS, ask))
    except Timeout as error:
        _unanswered[place] = over
        return Usage(size_bytes=volume.size_bytes, unknown=str(error))
    except (OSError, CallFailed) as error:
        return Usage(size_bytes=volume.size_bytes, unknown=str(error))
    return Usage(
        size_bytes=found.f_blocks * found.f_frsize,
        used_bytes=(found.f_blocks - found.f_bfree) * found.f_frsize,
        available_bytes=found.f_bavail * found.f_frsize,
        inodes=found.f_files,
        inodes_free=found.f_ffree,
        read_only=not {"ro", *GIVEN_UP}.isdisjoint(mounted[-1].super_options),
    )


def has_given_up(host: Host, mountpoint: str) -> bool:
    """Whether the filesystem at ``mountpoint`` met an error after which it writes nothing any more,
    so that waiting for it saves nothing. Blocks."""
    over = [entry for entry in host.mounts() if entry.mountpoint == mountpoint]
    if not over or not GIVEN_UP.isdisjoint(over[-1].super_options):
        return bool(over)
    try:
        bounded(f"stat {mountpoint}", ASK_SECONDS, Path(mountpoint).stat)
    except OSError as error:
        return error.errno == errno.EIO  # all that xfs says of its shutdown
    except Timeout:
        return False
    return False
