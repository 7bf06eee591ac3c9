# SPDX-License-Identifier: Apache-2.0
"""System calls that the standard library does not offer, each as one function.

libc is reached through ctypes, which gives up the interpreter lock during the call, so a mount
that waits for a FUSE request served by another thread of this process gets its answer. Failures
are OSError with the errno; which error of ours that becomes is decided by the caller. Constants
are those of the kernel's uapi headers, which never change.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Sequence

MS_RDONLY = 1 << 0
MS_NOSUID = 1 << 1
MS_NODEV = 1 << 2
MS_NOEXEC = 1 << 3
MS_SYNCHRONOUS = 1 << 4
MS_REMOUNT = 1 << 5
MS_DIRSYNC = 1 << 7
MS_NOSYMFOLLOW = 1 << 8
MS_NOATIME = 1 << 10
MS_NODIRATIME = 1 << 11
MS_BIND = 1 << 12
MS_MOVE = 1 << 13
MS_REC = 1 << 14
MS_SILENT = 1 << 15
MS_UNBINDABLE = 1 << 17
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24
MS_LAZYTIME = 1 << 25

MNT_FORCE = 1
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

PR_SET_IO_FLUSHER = 57
PR_GET_IO_FLUSHER = 58

FALLOC_FL_KEEP_SIZE = 1
FALLOC_FL_PUNCH_HOLE = 2

MCL_CURRENT = 1
MCL_FUTURE = 2
MCL_ONFAULT = 4

# System call numbers from 424 on are the same on every architecture but alpha.
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432
_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_char_p,
    ctypes.c_ulong,
    ctypes.c_char_p,
]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]
_libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
_libc.mlockall.argtypes = [ctypes.c_int]
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.syscall.restype = ctypes.c_long


def _check(result: int, path: str = "") -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path or None)
    return result


def mount(
    source: str, target: str, fstype: str | None, flags: int, options: Sequence[str] = ()
) -> None:
    """mount(2). ``options`` go to the filesystem, joined by commas."""
    data = ",".join(options)
    _check(
        _libc.mount(
            os.fsencode(source),
            os.fsencode(target),
            fstype.encode() if fstype else None,
            flags,
            data.encode() if data else None,
        ),
        target,
    )


def umount(target: str, flags: int = 0) -> None:
    """umount2(2); a symbolic link is never followed."""
    _check(_libc.umount2(os.fsencode(target), flags | UMOUNT_NOFOLLOW), target)


def prctl(option: int, argument: int = 0) -> int:
    """prctl(2) with one argument, the rest zero."""
    return _check(_libc.prctl(option, argument, 0, 0, 0))


def mlockall(flags: int) -> None:
    """mlockall(2)."""
    _check(_libc.mlockall(flags))


def punch_hole(fd: int, offset: int, length: int) -> None:
    """fallocate(2): give back the pages of a range of a file, also where they are locked."""
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    _check(_libc.fallocate(fd, mode, offset, length))


def malloc_trim() -> None:
    """malloc_trim(3): give free memory back to the system; a no-op in a C library without it."""
    with contextlib.suppress(AttributeError):
        _libc.malloc_trim(0)


def syncfs(fd: int) -> None:
    """syncfs(2): write out the filesystem that ``fd`` lies in."""
    _check(_libc.syncfs(fd))


def refused_option(fstype: str, options: Sequence[str]) -> tuple[str, str] | None:
    """The first of the options that the filesystem itself does not take, and what it says of it.

    Without a device, so only what can be told without one is found out. None: it takes them all, or
    does not look at them before it has a device (older kernels).
    """
    context = _check(_libc.syscall(_SYS_FSOPEN, fstype.encode(), _FSOPEN_CLOEXEC))
    try:
        for option in options:
            key, equals, value = option.partition("=")
            command = _FSCONFIG_SET_STRING if equals else _FSCONFIG_SET_FLAG
            text = value.encode() if equals else None
            try:
                _check(_libc.syscall(_SYS_FSCONFIG, context, command, key.encode(), text, 0))
            except OSError as fault:
                try:
                    said = os.read(context, 1024).decode("utf-8", "replace")
                except OSError:
                    said = ""
                # A letter for the kind of message stands before it.
                return option, said.partition(" ")[2].strip() or str(fault.strerror)
        return None
    finally:
        os.close(context)


def open_detached_filesystem(fstype: str) -> int:
    """A descriptor of the root of a filesystem without a device that is mounted nowhere.

    It is gone with the descriptor, so nothing is left behind even by SIGKILL (Linux 5.2).
    """
    context = _check(_libc.syscall(_SYS_FSOPEN, fstype.encode(), _FSOPEN_CLOEXEC))
    try:
        _check(_libc.syscall(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0))
        root = _check(_libc.syscall(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, 0))
    finally:
        os.close(context)
    try:
        # fsmount gives a descriptor that names the place only (O_PATH); reading needs another.
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    finally:
        os.close(root)
