# SPDX-License-Identifier: Apache-2.0
"""Writers that know what each block must hold, for tests in which something dies under them.

Each writer has a range of its own and writes and reads at random in it, around the page cache.
A block of 4 KiB holds its number and the count of times that it was written, so a stale, lost or
misplaced block is told from the newest.
"""

from __future__ import annotations

import mmap
import os
import random
import struct
import threading

BLOCK = 4096
_CONTENT = struct.Struct("=QQ")
SIZES = (1, 1, 1, 1, 1, 2, 4, 16, 17, 32, 256)
"""In blocks: up to the smallest area, across it, and the longest request."""


def content(block: int, version: int) -> bytes:
    return _CONTENT.pack(block, version) * (BLOCK // _CONTENT.size)


class Writer:
    """One writer on the blocks from ``first`` on; raises what goes wrong."""

    def __init__(self, path: str, first: int, count: int, seed: int) -> None:
        self.fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.first = first
        self.versions = [0] * count
        self._random = random.Random(seed)
        self._page = mmap.mmap(-1, max(SIZES) * BLOCK)
        self._view = memoryview(self._page)

    def run(self, stop: threading.Event) -> None:
        while not stop.is_set():
            self.step()

    def step(self) -> None:
        size = min(self._random.choice(SIZES), len(self.versions))
        start = self._random.randrange(len(self.versions) - size + 1)
        if self._random.random() < 0.6:
            self.write(start, size)
        elif self._random.random() < 0.05:
            os.fsync(self.fd)
        else:
            self.check(start, size)

    def write(self, start: int, size: int) -> None:
        for index in range(start, start + size):
            self.versions[index] += 1
            where = (index - start) * BLOCK
            wanted = content(self.first + index, self.versions[index])
            self._view[where : where + BLOCK] = wanted
        done = os.pwritev(self.fd, [self._view[: size * BLOCK]], (self.first + start) * BLOCK)
        assert done == size * BLOCK

    def check(self, start: int, size: int) -> None:
        self._view[: size * BLOCK] = bytes(size * BLOCK)
        done = os.preadv(self.fd, [self._view[: size * BLOCK]], (self.first + start) * BLOCK)
        assert done == size * BLOCK
        for index in range(start, start + size):
            version = self.versions[index]
            where = (index - start) * BLOCK
            found = bytes(self._view[where : where + BLOCK])
            wanted = content(self.first + index, version) if version else bytes(BLOCK)
            if found != wanted:
                block, there = _CONTENT.unpack_from(found)
                raise AssertionError(
                    f"block {self.first + index} version {version}: found {block} version {there}"
                )

    def check_all(self) -> None:
        for start in range(0, len(self.versions), 64):
            self.check(start, min(64, len(self.versions) - start))

    def close(self) -> None:
        os.close(self.fd)
        self._view.release()
        self._page.close()
