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
from fusefs.host import Host
from fusefs.volume.checks import resolve_parent
from fusefs.volume.hostcalls import host_call

DIRECTORY_MODE = 0o750


async def resolve(path: str) -> str:
    """``path`` as the mount table and the state of a volume have it."""
    return await host_call(functools.partial(resolve_parent, path))


async def make_directory(path: str) -> None:
    """Make one directory, if it is not there.

    Raises:
        InvalidSpec: its parent is missing, or something else is there.
    """
    await host_call(functools.partial(_make, path))


async def remove(host: Host, path: str) -> None:
    """Unmount whatever is mounted at ``path`` and remove the empty directory or file that it is;
    where nothing is, nothing is done.

    Raises:
        MountBusy: it is in use.
        CallFailed: it holds something of its own.
    """
    await host_call(functools.partial(_remove, host, path))


def _make(path: str) -> None:
    try:
        Path(path).mkdir(mode=DIRECTORY_MODE, exist_ok=True)
    except FileNotFoundError:
        raise InvalidSpec(
            "directory", path, "has no parent directory", remedy="make that first"
        ) from None
    except OSError as error:
        raise InvalidSpec("directory", path, f"cannot be made ({error.strerror})") from error


def _remove(host: Host, path: str) -> None:
    place = resolve_parent(path)
    if place == "/":
        raise InvalidSpec("directory", path, "is the root of this host")
    while any(entry.mountpoint == place for entry in host.mounts()):
        if not host.umount(place):
            break
    try:
        found = Path(place).lstat()
        if stat.S_ISDIR(found.st_mode):
            Path(place).rmdir()
        elif found.st_size == 0:
            Path(place).unlink()
        else:
            raise CallFailed("remove", place, errno.ENOTEMPTY, remedy=_FOREIGN)
    except FileNotFoundError:
        return
    except OSError as error:
        number = error.errno or errno.EIO
        raise CallFailed("remove", place, number, remedy=_FOREIGN) from error


_FOREIGN = "what is in it is not the volume's: move it away"
