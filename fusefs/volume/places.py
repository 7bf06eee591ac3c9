# SPDX-License-Identifier: Apache-2.0
"""The files and directories that a front door makes for a volume to be seen at, and removes.

None of this looks into what is mounted there: that would ask a filesystem that may not answer.
"""

from __future__ import annotations

import errno
import functools
import stat
from pathlib import Path

from fusefs.errors import CallFailed, InvalidSpec
from fusefs.host import Host, MountEntry
from fusefs.volume import listing
from fusefs.volume.checks import resolve_parent
from fusefs.volume.hostcalls import host_call
from fusefs.volume.paths import Directories
from fusefs.volume.pieces import is_of_a_loop_device
from fusefs.volume_errors import PlaceTaken

DIRECTORY_MODE = 0o750


async def resolve(path: str) -> str:
    """``path`` as the mount table and the state of a volume have it."""
    return await host_call(functools.partial(resolve_parent, path))


async def refuse_link(host: Host, what: str, path: str) -> None:
    """Refuse a symbolic link as a place: what is mounted there would stand elsewhere.

    Raises:
        InvalidSpec: it is one.
    """
    await host_call(functools.partial(_refuse_link, host, what, path))


async def make_directory(path: str) -> bool:
    """Make one directory, if it is not there; whether it was made.

    Raises:
        InvalidSpec: its parent is missing, or something else is there.
    """
    return await host_call(functools.partial(_make, path))


async def remove(host: Host, directories: Directories, path: str) -> None:
    """Remove the empty directory or file at ``path``, and what a volume that nobody knows any more
    left mounted on it; where nothing is, nothing is done.

    Raises:
        PlaceTaken: something of its own is in it or mounted on it, or another volume is.
        MountBusy: what is left there is in use.
        CallFailed: it cannot be removed.
    """
    await host_call(functools.partial(_remove, host, directories, path))


def _refuse_link(host: Host, what: str, path: str) -> None:
    place = resolve_parent(path)
    # The table first: to look at a mount asks its filesystem.
    if not any(entry.mountpoint == place for entry in host.mounts()) and Path(place).is_symlink():
        raise InvalidSpec(what, path, "is a symbolic link", remedy="name what it points to")


def _make(path: str) -> bool:
    try:
        Path(path).mkdir(mode=DIRECTORY_MODE)
    except FileExistsError:
        return False
    except FileNotFoundError:
        raise InvalidSpec(
            "directory", path, "has no parent directory", remedy="make that first"
        ) from None
    except OSError as error:
        raise InvalidSpec("directory", path, f"cannot be made ({error.strerror})") from error
    return True


def _remove(host: Host, directories: Directories, path: str) -> None:
    place = resolve_parent(path)
    while over := [entry for entry in host.mounts() if entry.mountpoint == place]:
        _refuse_foreign(over[-1], directories)
        if not host.umount(place):
            break
    try:
        found = Path(place).lstat()
        if stat.S_ISDIR(found.st_mode):
            Path(place).rmdir()
        elif found.st_size == 0:
            Path(place).unlink()
        else:
            raise PlaceTaken(place, "lies a file with something in it")
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise PlaceTaken(place, "lies a directory with something in it") from error
        raise CallFailed("remove", place, error.errno or errno.EIO) from error


def _refuse_foreign(entry: MountEntry, directories: Directories) -> None:
    if not is_of_a_loop_device(entry):
        raise PlaceTaken(entry.mountpoint, f"{entry.source} ({entry.fstype}) is mounted")
    for state in listing.states(directories):
        if entry.mountpoint in (state.mountpoint, *(bind.directory for bind in state.binds)):
            raise PlaceTaken(entry.mountpoint, f"volume {state.name!r} is mounted")
