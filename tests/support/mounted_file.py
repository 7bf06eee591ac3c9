# SPDX-License-Identifier: Apache-2.0
"""What tests do with a served block file: open it, call fallocate, wait in threads."""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .fuse_server import FuseServer

SIZE = 32 << 20
"""The size of a served device, unless a test says otherwise."""

Serve = Callable[..., FuseServer]

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 1, 2, 16


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_RDWR) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        with contextlib.suppress(OSError):  # the first close over libfuse asks even an aborted one
            os.close(fd)


def fallocate(fd: int, mode: int, offset: int, length: int) -> int:
    """fallocate(2), which the standard library has only without a mode. Returns the errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length))
    return ctypes.get_errno() if done else 0


@contextlib.contextmanager
def threads_on(server: FuseServer, count: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that may wait in the mount: when the test fails, the connection is aborted so that
    they, and with them the test run, come back."""
    with ThreadPoolExecutor(count) as threads:
        try:
            yield threads
        except BaseException:
            server.host.fuse_abort(server.connection)
            raise


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what another process is about to do."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def errno_of(call: Callable[[], object]) -> int:
    try:
        call()
    except OSError as error:
        return error.errno or 0
    return 0
