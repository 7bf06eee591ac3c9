# SPDX-License-Identifier: Apache-2.0
"""One block written or read past the page cache, and blocking calls beside the test.

A buffered write to a loop device says nothing about the volume below it, so tests of one block go
past the cache; and they may hang for as long as a target is away, so they run in a thread.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable

BLOCK = 4096


def _buffer() -> memoryview:
    """One block at a page's boundary."""
    memory = memoryview(bytearray(2 * BLOCK))
    start = -ctypes.addressof(ctypes.c_char.from_buffer(memory)) % BLOCK
    return memory[start : start + BLOCK]


def write_direct(path: str, offset: int, data: bytes) -> None:
    """Write one block."""
    descriptor = os.open(path, os.O_WRONLY | os.O_DIRECT)
    try:
        buffer = _buffer()
        buffer[:] = data
        assert os.pwrite(descriptor, buffer, offset) == BLOCK
    finally:
        os.close(descriptor)


def read_direct(path: str, offset: int) -> bytes:
    """Read one block."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        buffer = _buffer()
        assert os.preadv(descriptor, [buffer], offset) == BLOCK
        return bytes(buffer)
    finally:
        os.close(descriptor)


class Background:
    """A blocking call in a thread, and how it ended."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self.error: BaseException | None = None

        def run() -> None:
            try:
                function(*arguments)
            except BaseException as error:
                self.error = error

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    @property
    def running(self) -> bool:
        """Whether the call has not returned."""
        return self.thread.is_alive()

    def join(self, seconds: float = 20.0) -> None:
        """Wait for its end and raise what it raised."""
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "the call has not returned"
        if self.error is not None:
            raise self.error


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Return when it holds: what another process does is asked for again and again."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to hold"
        time.sleep(0.02)
