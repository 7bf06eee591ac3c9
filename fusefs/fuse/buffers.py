# SPDX-License-Identifier: Apache-2.0
"""Memory for the answers to READ: private to this process, kept by size and used again.

An answer is a header of 16 bytes and the data, and it leaves with one plain ``write`` because the
two lie side by side. Where it pays, the data begins at a page. A successor reads the data again, so
none of this outlives the process.
"""

from __future__ import annotations

import mmap

from .abi import MAX_WRITE, OUT_HEADER_LENGTH, PAGE
from .ring import address_of

ALIGN_FROM = 32 << 10
"""From here on the data begins at a page: the kernel then copies whole pages."""

LARGE = 64 << 10
"""Above this, buffers are counted; below, there are at most as many as request slots."""

LARGE_POOL_BYTES = 32 << 20
"""How much memory of large buffers is kept for the next time."""


class AnswerBuffer:
    """Room for one answer with ``capacity`` bytes of data."""

    __slots__ = ("address", "capacity", "data", "pool", "whole")

    def __init__(self, capacity: int, pool: list[AnswerBuffer]) -> None:
        self.capacity = capacity
        self.pool = pool
        """Where it belongs when it is not used."""
        if capacity < ALIGN_FROM:
            whole = memoryview(bytearray(OUT_HEADER_LENGTH + capacity))
        else:
            memory = mmap.mmap(-1, PAGE + capacity, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            whole = memoryview(memory)[PAGE - OUT_HEADER_LENGTH :]
        self.whole = whole
        """Header and data."""
        self.address = address_of(whole)
        self.data = whole[OUT_HEADER_LENGTH:]


class AnswerBuffers:
    """The buffers that are not used now, by capacity, which is a power of two."""

    def __init__(self, *, large_pool_bytes: int = LARGE_POOL_BYTES) -> None:
        self.pools: dict[int, list[AnswerBuffer]] = {}
        capacity = PAGE
        while capacity <= MAX_WRITE:
            self.pools[capacity] = []
            capacity *= 2
        self.small_pools = {size: pool for size, pool in self.pools.items() if size <= LARGE}
        """Those that are not counted: whoever finds a buffer of the right size there may pop it."""
        self._large_pool_bytes = large_pool_bytes
        self._large_bytes = 0

    def take(self, size: int) -> AnswerBuffer:
        """A buffer for at least ``size`` bytes; its content is anything."""
        # Sizes are rounded up to powers of two so that odd sizes share what is kept.
        capacity = 1 << (size - 1).bit_length() if size > PAGE else PAGE
        pool = self.pools.setdefault(capacity, [])
        if not pool:
            return AnswerBuffer(capacity, pool)
        if capacity > LARGE:
            self._large_bytes -= capacity
        return pool.pop()

    def give_back(self, buffer: AnswerBuffer) -> None:
        """The answer was written: the buffer may be used again."""
        if buffer.capacity > LARGE:
            if self._large_bytes + buffer.capacity > self._large_pool_bytes:
                return
            self._large_bytes += buffer.capacity
        buffer.pool.append(buffer)

    def trim(self) -> None:
        """Give all that is not used back to the system."""
        for pool in self.pools.values():
            pool.clear()
        self._large_bytes = 0
