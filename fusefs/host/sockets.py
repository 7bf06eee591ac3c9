# SPDX-License-Identifier: Apache-2.0
"""The place of a listening Unix socket in the file system.

A socket file stays behind when its owner is killed. So one on which nobody listens is removed; one
on which somebody does is not, and neither is a file that is no socket. Looking, removing and making
the next one happen under a lock of the directory, so that of two who start at once the second one
sees the first. A file is only taken away again by who made it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from fusefs.errors import InvalidSpec
from fusefs.volume_errors import AlreadyServed

LONGEST_PATH = 107
"""unix(7)"""
PROBE_S = 5.0


@contextlib.contextmanager
def room_for(path: Path) -> Iterator[None]:
    """Make room for a socket at ``path``, and let nobody else do so until it is made: the block
    binds and listens. What it makes is for root alone, from the first moment on.

    Raises:
        AlreadyServed: somebody listens there.
        InvalidSpec: it cannot be a socket.
    """
    if not path.is_absolute() or len(os.fsencode(path)) > LONGEST_PATH:
        raise InvalidSpec(
            "socket",
            str(path),
            f"is not an absolute path of at most {LONGEST_PATH} bytes",
            remedy="name another one",
        )
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with _locked(path.parent):
            _make_room(path)
            mask = os.umask(0o177)
            try:
                yield
            finally:
                os.umask(mask)
    except OSError as error:
        raise InvalidSpec(
            "socket", str(path), f"cannot be made ({error.strerror})", remedy="name another one"
        ) from error


def remove_socket(path: Path, made: os.stat_result) -> None:
    """Remove the socket file that ``made`` describes, unless it is another's by now."""
    with contextlib.suppress(OSError):
        if os.path.samestat(path.lstat(), made):
            path.unlink()


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _make_room(path: Path) -> None:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise InvalidSpec(
            "socket",
            str(path),
            "is there already and is no socket",
            remedy="remove it, or name another one",
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(PROBE_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError:
            pass  # its queue is full, or it is none of ours: somebody has it
    raise AlreadyServed(
        f"somebody serves on {path} already",
        remedy="end that one (`fuser` names it), or name another socket",
    )
