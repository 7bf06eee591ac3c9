# SPDX-License-Identifier: Apache-2.0
"""FUSE from the host's side: /dev/fuse, the mount over it, and the kernel's control files.

A connection is known by the minor device number of its filesystem, which the mount table tells
without asking the server. Aborting a connection is the last resort that always works: every request
in it ends with an error, so whatever waits uninterruptibly for a dead server goes on.

The control filesystem need not be mounted: where it is not, a detached instance is opened and is
gone with its descriptor. Nothing here knows what the requests say; that is `fusefs.fuse`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from fusefs.errors import CallFailed, MountFailed, NotAllowed
from fusefs.host import mountinfo, syscalls
from fusefs.host.records import FuseConnection

DEVICE = "/dev/fuse"
CONTROL = "/sys/fs/fuse/connections"


def open_fuse() -> int:
    """A fresh /dev/fuse; see ``Host.open_fuse``."""
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError as fault:
        raise NotAllowed(
            f"open {DEVICE}",
            fault.strerror or "",
            remedy="run as root; in a container allow device c 10:229",
        ) from fault
    except OSError as fault:
        raise NotAllowed(
            f"open {DEVICE}",
            fault.strerror or "",
            remedy="load the module `fuse`; in a container pass --device /dev/fuse",
        ) from fault


def fuse_mount(
    fd: int, mountpoint: str, *, source: str, subtype: str, rootmode: int, options: Sequence[str]
) -> int:
    """Mount what ``fd`` serves; see ``Host.fuse_mount``."""
    path = os.path.realpath(mountpoint)
    data = (
        f"fd={fd}",
        f"rootmode={rootmode:o}",
        f"user_id={os.geteuid()}",
        f"group_id={os.getegid()}",
        *options,
    )
    # nosuid and nodev, as fusermount has it: what a server makes up must not make anyone root.
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOATIME
    try:
        # mount(2) only queues FUSE_INIT and does not wait for the answer, so this cannot block on
        # a server that is us.
        syscalls.mount(source, path, f"fuse.{subtype}" if subtype else "fuse", flags, data)
    except OSError as fault:
        raise MountFailed(
            source,
            path,
            fault.errno or 0,
            fstype="fuse",
            remedy="run as root with CAP_SYS_ADMIN; elsewhere use the pyfuse3 channel"
            if fault.errno == errno.EPERM
            else "",
        ) from fault
    number = connection_of(path)
    if number is None:
        syscalls.umount(path, syscalls.MNT_DETACH)
        raise MountFailed(
            source, path, errno.ENOENT, fstype="fuse", detail="no such mount after it"
        )
    return number


def connection_of(mountpoint: str) -> int | None:
    """The connection that serves the mount there, or None where there is no FUSE mount."""
    entry = mountinfo.find(mountpoint)
    if entry is None or entry.fstype.partition(".")[0] not in ("fuse", "fuseblk"):
        return None
    return entry.minor


@contextlib.contextmanager
def control_directory() -> Iterator[int]:
    """A descriptor of the control filesystem's root."""
    try:
        entry = mountinfo.find(CONTROL)
        if entry is not None and entry.fstype == "fusectl":
            fd = os.open(CONTROL, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        else:
            fd = syscalls.open_detached_filesystem("fusectl")
    except OSError as fault:
        raise NotAllowed(
            "reach the FUSE control filesystem",
            fault.strerror or "",
            remedy=f"run as root, or `mount -t fusectl fusectl {CONTROL}`",
        ) from fault
    try:
        yield fd
    finally:
        os.close(fd)


def connections() -> list[FuseConnection]:
    """Every FUSE connection of the host; see ``Host.fuse_connections``."""
    found: list[FuseConnection] = []
    with control_directory() as root:
        names = filter(str.isdigit, os.listdir(root))  # noqa: PTH208 - a descriptor has no path
        for name in sorted(names, key=int):
            with contextlib.suppress(OSError, ValueError):  # it may end while we look
                waiting = _read(root, f"{name}/waiting")
                limit = None
                with contextlib.suppress(OSError, ValueError):  # there is none before FUSE_INIT
                    limit = _read(root, f"{name}/max_background")
                found.append(FuseConnection(int(name), waiting, limit))
    return found


def abort(number: int) -> bool:
    """End a connection; see ``Host.fuse_abort``."""
    with control_directory() as root:
        try:
            fd = os.open(f"{number}/abort", os.O_WRONLY | os.O_CLOEXEC, dir_fd=root)
        except FileNotFoundError:
            return False
        except OSError as fault:
            raise CallFailed("abort FUSE connection", str(number), fault.errno or 0) from fault
        try:
            os.write(fd, b"1")
        finally:
            os.close(fd)
    return True


def has_fuse() -> bool:
    """Whether /dev/fuse is there and is the device."""
    try:
        return stat.S_ISCHR(Path(DEVICE).stat().st_mode)
    except OSError:
        return False


def _read(root: int, path: str) -> int:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=root)
    try:
        return int(os.read(fd, 64))
    finally:
        os.close(fd)
