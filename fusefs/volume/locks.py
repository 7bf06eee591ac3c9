# SPDX-License-Identifier: Apache-2.0
"""One command at a time: a file lock for each volume, and one for the identity check.

The locks are flock(2) on files in the run directory, so they hold between processes, between the
front doors of one process, and end with the process that held them, however it ended. The files
stay, unless who holds one knows that nobody will ask for it again; whoever got it meanwhile sees
that it is gone and takes the next one.

Two more lie in the state directory, for all run directories over it: one for each name while its
volume is brought up, and one for the records of what is attached.

INVARIANT: a volume's lock is taken before its login lock, that before the identity lock, and the
lock of the records last.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio

from fusefs.errors import OperationInProgress

_POLL_SECONDS = 0.05


def lock_file(path: Path, *, wait: bool = True) -> int:
    """A descriptor that holds the lock of ``path``, whose file is made if it is not there; closing
    it lets go. Blocks while somebody else holds it, unless told not to ``wait``.

    Raises:
        BlockingIOError: somebody else holds it.
    """
    how = fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, how)
            if _is_there(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder removed it before he let go; the next one counts


def _try_lock(path: Path) -> int | None:
    try:
        return lock_file(path, wait=False)
    except BlockingIOError:
        return None


def _is_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@asynccontextmanager
async def file_lock(path: Path, name: str, timeout_s: float) -> AsyncIterator[None]:
    """Hold the lock of ``path``.

    Raises:
        OperationInProgress: somebody else holds it and did not let go within ``timeout_s``.

    Cancellation: while waiting, nothing is held; inside, the lock is released.
    """
    deadline = anyio.current_time() + timeout_s
    while (descriptor := _try_lock(path)) is None:
        if anyio.current_time() >= deadline:
            raise OperationInProgress(name, operation="another command")
        await anyio.sleep(_POLL_SECONDS)
    try:
        yield
    finally:
        os.close(descriptor)


def remove_free_lock(path: Path) -> None:
    """Remove a lock file that nobody will ask for again, unless somebody holds it. Blocks for no
    one."""
    descriptor = _try_lock(path)
    if descriptor is not None:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock at this moment. Blocks for no one."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        # A shared lock that is let go at once: it disturbs nobody but another who only looks.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
