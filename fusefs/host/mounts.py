# SPDX-License-Identifier: Apache-2.0
"""Mounting, binding and unmounting through the system calls themselves.

Not through the programs mount and umount: they canonicalise paths (which asks a filesystem that
may be dead), run helpers, keep state of their own under /run/mount, and turn errno into prose.
Here an errno stays an errno, nothing is written anywhere, and what the kernel logged about a
failed mount is put into the error, because EINVAL alone explains nothing.

A volume that is read-only all the way down is mounted so that not even a journal is replayed: a
replay would have to write to a device that refuses it, or worse, to one that other nodes read.
"""

from __future__ import annotations

import errno
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from fusefs.errors import CallFailed, InvalidSpec, MountBusy, MountFailed, NotAllowed
from fusefs.host import busy, mountinfo, syscalls
from fusefs.host.blocking import bounded

READ_ONLY_OPTIONS: dict[str, tuple[str, ...]] = {
    "ext4": ("noload",),
    "ext3": ("noload",),
    "xfs": ("norecovery",),
    # The older name `nologreplay` is gone from newer kernels; rescue= came with Linux 5.9.
    "btrfs": ("rescue=nologreplay",),
}
"""What keeps a filesystem from writing even its log."""

ON_ERRORS = "errors="
EXT = ("ext2", "ext3", "ext4")

_SET: dict[str, int] = {
    "ro": syscalls.MS_RDONLY,
    "nosuid": syscalls.MS_NOSUID,
    "nodev": syscalls.MS_NODEV,
    "noexec": syscalls.MS_NOEXEC,
    "sync": syscalls.MS_SYNCHRONOUS,
    "dirsync": syscalls.MS_DIRSYNC,
    "noatime": syscalls.MS_NOATIME,
    "nodiratime": syscalls.MS_NODIRATIME,
    "relatime": syscalls.MS_RELATIME,
    "strictatime": syscalls.MS_STRICTATIME,
    "lazytime": syscalls.MS_LAZYTIME,
    "nosymfollow": syscalls.MS_NOSYMFOLLOW,
    "silent": syscalls.MS_SILENT,
}
_CLEAR: dict[str, int] = {
    "rw": syscalls.MS_RDONLY,
    "suid": syscalls.MS_NOSUID,
    "dev": syscalls.MS_NODEV,
    "exec": syscalls.MS_NOEXEC,
    "async": syscalls.MS_SYNCHRONOUS,
    "atime": syscalls.MS_NOATIME,
    "diratime": syscalls.MS_NODIRATIME,
    "norelatime": syscalls.MS_RELATIME,
    "nostrictatime": syscalls.MS_STRICTATIME,
    "nolazytime": syscalls.MS_LAZYTIME,
    "symfollow": syscalls.MS_NOSYMFOLLOW,
    "loud": syscalls.MS_SILENT,
}
_FOR_FSTAB = frozenset(("defaults", "auto", "noauto", "nofail", "_netdev", "nouser"))
_REFUSED = frozenset(
    ("bind", "rbind", "move", "remount", "loop", "user", "users", "owner", "group")
)

_BUSY_ATTEMPTS = 4
_BUSY_PAUSE_S = 0.05
"""udev and desktop services look at a new mount and are gone again in a moment."""


def split_options(options: Sequence[str]) -> tuple[int, tuple[str, ...]]:
    """Options as mount(8) knows them -> flags of mount(2), and what the filesystem gets to see.

    Raises:
        InvalidSpec: an option that means another operation than mounting a device here.
    """
    flags = 0
    data: list[str] = []
    for option in options:
        name = option.partition("=")[0]
        if option in _SET:
            flags |= _SET[option]
        elif option in _CLEAR:
            flags &= ~_CLEAR[option]
        elif name in _REFUSED:
            raise InvalidSpec("mount option", option, "is another operation", remedy="leave it out")
        elif option and option not in _FOR_FSTAB and not name.startswith(("x-", "X-")):
            data.append(option)
    return flags, tuple(data)


def mount_options(
    fstype: str, options: Sequence[str], read_only: bool
) -> tuple[int, tuple[str, ...]]:
    """As :func:`split_options`, with what read-only all the way down adds, and what an ext
    filesystem does at an error: unless it is told, its superblock decides, and that may say to stop
    the whole host (``tune2fs -e panic``)."""
    flags, data = split_options(options)
    if fstype in EXT and not any(option.startswith(ON_ERRORS) for option in data):
        data += (f"{ON_ERRORS}remount-ro",)
    if read_only:
        flags |= syscalls.MS_RDONLY
        data += tuple(one for one in READ_ONLY_OPTIONS.get(fstype, ()) if one not in data)
    return flags, data


def mount(
    device: str,
    directory: str,
    fstype: str,
    *,
    options: Sequence[str],
    read_only: bool,
    timeout_s: float,
) -> None:
    """Mount a block device; see ``Host.mount``."""
    flags, data = mount_options(fstype, options, read_only)
    log = KernelLog()
    try:
        bounded(
            f"mounting {device} on {directory}",
            timeout_s,
            lambda: syscalls.mount(device, directory, fstype, flags, data),
            undo=lambda _: syscalls.umount(directory, syscalls.MNT_DETACH),
        )
    except OSError as fault:
        if fault.errno == errno.EINVAL:
            _blame_an_option(fstype, data, options)
        raise MountFailed(
            device,
            directory,
            fault.errno or 0,
            fstype=fstype,
            detail=log.about(Path(device).name),
            remedy=_REMEDIES.get(fault.errno or 0, ""),
        ) from fault
    finally:
        log.close()


def _blame_an_option(fstype: str, data: Sequence[str], asked_for: Sequence[str]) -> None:
    """EINVAL may mean what lies on the device, or an option: which of the two, only asking tells.

    Raises:
        InvalidSpec: it was one of the options that were asked for.
    """
    try:
        refused = syscalls.refused_option(fstype, data)
    except OSError:
        return
    if refused is not None and refused[0] in asked_for:
        raise InvalidSpec(
            "mount option",
            refused[0],
            f"{fstype} does not take it ({refused[1]})",
            remedy="leave it out, or see the manual of the file system",
        )


_REMEDIES = {
    errno.EPERM: "run as root with CAP_SYS_ADMIN, in a privileged container",
    errno.ENODEV: "this kernel does not know the filesystem: load its module",
    errno.EACCES: "the device is read-only: attach the volume read-only",
    errno.EROFS: "the device is read-only: attach the volume read-only",
    errno.EUCLEAN: "the filesystem is damaged: check it by hand",
    errno.EBUSY: "it is mounted already, or another program holds the device",
}


def bind(source: str, target: str, *, read_only: bool, timeout_s: float) -> None:
    """Bind mount; see ``Host.bind``."""

    def call() -> None:
        syscalls.mount(source, target, None, syscalls.MS_BIND)
        if not read_only:
            return
        # mount(2) ignores every other flag beside MS_BIND: read-only takes a second call, which
        # replaces all flags of the mount, so those it has are given again.
        entry = mountinfo.find(os.path.realpath(target))
        kept = split_options(entry.options)[0] if entry else 0
        flags = syscalls.MS_BIND | syscalls.MS_REMOUNT | syscalls.MS_RDONLY | kept
        try:
            syscalls.mount("none", target, None, flags)
        except OSError:
            # Never leave a writable mount where a read-only one was asked for.
            syscalls.umount(target, syscalls.MNT_DETACH)
            raise

    try:
        bounded(
            f"binding {source} to {target}",
            timeout_s,
            call,
            undo=lambda _: syscalls.umount(target, syscalls.MNT_DETACH),
        )
    except OSError as fault:
        raise MountFailed(
            source, target, fault.errno or 0, remedy=_BIND_REMEDIES.get(fault.errno or 0, "")
        ) from fault


_BIND_REMEDIES = {
    errno.EINVAL: "the source lies in an unbindable mount, or in another namespace",
    errno.ENOENT: "make the target first: a directory for a directory, a file for a file",
    errno.ENOTDIR: "source and target must both be directories, or both be files",
    errno.EPERM: "run as root with CAP_SYS_ADMIN, in a privileged container",
}


def umount(path: str, *, lazy: bool, force: bool, timeout_s: float) -> bool:
    """Unmount; see ``Host.umount``."""
    flags = (syscalls.MNT_DETACH if lazy else 0) | (syscalls.MNT_FORCE if force else 0)
    for attempt in range(1, _BUSY_ATTEMPTS + 1):
        if mountinfo.find(path) is None:
            return False
        try:
            bounded(f"unmounting {path}", timeout_s, lambda: syscalls.umount(path, flags))
        except OSError as fault:
            number = fault.errno or 0
            if number in (errno.EINVAL, errno.ENOENT) and mountinfo.find(path) is None:
                return False
            if number != errno.EBUSY:
                raise CallFailed(
                    "umount", path, number, remedy=_REMEDIES.get(number, "")
                ) from fault
            below = busy.mounts_below(path)
            if below or attempt == _BUSY_ATTEMPTS:
                raise MountBusy(path, users=busy.mount_users(path), mounts=below) from fault
            time.sleep(_BUSY_PAUSE_S)
        else:
            return True
    raise AssertionError("unreachable")


def prepare_directory(path: str, mode: int = 0o700) -> None:
    """A directory of ours; see ``Host.prepare_directory``."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).mkdir(mode, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_uid != os.geteuid():
                raise NotAllowed(
                    f"use directory {path}",
                    f"it belongs to user {os.fstat(fd).st_uid}",
                    remedy="remove it, or choose another directory",
                )
            os.fchmod(fd, mode)  # mkdir honours the umask, and an old one may be too open
        finally:
            os.close(fd)
    except OSError as fault:
        raise CallFailed("mkdir", path, fault.errno or 0) from fault


def make_private_unbindable(directory: str) -> None:
    """A mount point nobody else receives copies of; see ``Host.make_private_unbindable``."""
    path = os.path.realpath(directory)
    try:
        if mountinfo.find(path) is None:
            syscalls.mount(path, path, None, syscalls.MS_BIND)
        syscalls.mount("none", path, None, syscalls.MS_UNBINDABLE)
    except OSError as fault:
        raise MountFailed(
            path, path, fault.errno or 0, remedy=_REMEDIES.get(fault.errno or 0, "")
        ) from fault


class KernelLog:
    """What the kernel says from now on: opened before a call that may fail, asked after it did."""

    def __init__(self) -> None:
        self._fd: int | None = None
        try:
            self._fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.lseek(self._fd, 0, os.SEEK_END)
        except OSError:
            self.close()  # an explanation is a courtesy: without it the errno has to do

    def about(self, device: str, limit: int = 4) -> str:
        """The last lines that speak of ``device`` (``loop0``)."""
        lines: list[str] = []
        word = re.compile(rf"\b{re.escape(device)}\b")
        while self._fd is not None:
            try:
                record = os.read(self._fd, 8192)
            except BrokenPipeError:
                continue  # records were overwritten; the next read goes on behind them
            except OSError:
                break
            text = record.decode("utf-8", "replace").partition(";")[2].split("\n")[0]
            if word.search(text):
                lines.append(text)
        return "\n".join(lines[-limit:])

    def close(self) -> None:
        """Close the descriptor; more than once does nothing."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
