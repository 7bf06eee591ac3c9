# SPDX-License-Identifier: Apache-2.0
"""Who owns which memory on the way between /dev/fuse and the block device.

All memory for messages from the kernel is one mapping, made at the start and cut into slots; while
the data path runs nothing large is allocated for writes. One slot is the one that the next message
is read into. A request whose payload must outlive the reading (a long WRITE) keeps that slot until
it is answered, and another takes its place; short payloads are copied and leave the slot free.
Buffers for the answers to READ are kept by size and used again.

INVARIANT: a slot is written by the kernel only between ``receiving()`` and ``keep()``; a kept slot
belongs to the device until ``release``. (tests: test_kept_slots_are_not_read_into)

It is one class so that the slots can one day lie in memory that outlives this process.
"""

from __future__ import annotations

import contextlib
import mmap

from .abi import MAX_WRITE, PAGE

SLOT_BYTES = MAX_WRITE + PAGE
"""Header, structure and the longest payload; whole pages."""

SLOTS = 64
"""One for reading, the others for long writes under way: 64 MiB, more than any target's window."""

READ_POOL_BYTES = 32 << 20
"""How much memory for answers is kept for the next time."""


class RequestBuffers:
    """Slots for what comes from the kernel, buffers for what goes there."""

    def __init__(self, slots: int = SLOTS, *, read_pool_bytes: int = READ_POOL_BYTES) -> None:
        if slots < 2:
            raise ValueError("a channel needs a slot to read into and one to keep")
        self._memory = mmap.mmap(-1, slots * SLOT_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._whole = memoryview(self._memory)
        self._slots = [
            self._whole[number * SLOT_BYTES : (number + 1) * SLOT_BYTES] for number in range(slots)
        ]
        self._free = list(range(slots - 1, -1, -1))
        self._receiving = self._free.pop()
        self._pool: dict[int, list[memoryview]] = {}
        self._pool_bytes = 0
        self._read_pool_bytes = read_pool_bytes

    # -- from the kernel ------------------------------------------------------------------------

    def receiving(self) -> memoryview | None:
        """Where the next message is read to; None while every slot is kept."""
        if self._receiving < 0:
            if not self._free:
                return None
            self._receiving = self._free.pop()
        return self._slots[self._receiving]

    def keep(self) -> int:
        """The message just read stays where it is. Returns the number to ``release`` it by."""
        number, self._receiving = self._receiving, -1
        return number

    def release(self, number: int) -> None:
        """The device and the answer are done with the slot."""
        self._free.append(number)

    @property
    def kept(self) -> int:
        """How many slots are kept now."""
        return len(self._slots) - len(self._free) - (self._receiving >= 0)

    # -- to the kernel --------------------------------------------------------------------------

    def take(self, size: int) -> memoryview:
        """A buffer of exactly ``size`` bytes for the answer to a READ; its content is anything."""
        # Sizes are rounded up to powers of two so that odd sizes share what is kept.
        capacity = 1 << (size - 1).bit_length() if size > PAGE else PAGE
        kept = self._pool.get(capacity)
        if kept:
            self._pool_bytes -= capacity
            whole = kept.pop()
        else:
            whole = memoryview(bytearray(capacity))
        return whole if size == capacity else whole[:size]

    def give_back(self, buffer: memoryview) -> None:
        """The answer was written: the buffer may be used again."""
        memory = buffer.obj
        assert isinstance(memory, bytearray)  # noqa: S101  (take() made it)
        capacity = len(memory)
        if self._pool_bytes + capacity <= self._read_pool_bytes:
            self._pool_bytes += capacity
            whole = buffer if len(buffer) == capacity else memoryview(memory)
            self._pool.setdefault(capacity, []).append(whole)

    def close(self) -> None:
        """Give the memory back, as soon as the last view of a slot is gone."""
        for slot in self._slots:
            slot.release()
        self._slots.clear()
        self._pool.clear()
        self._whole.release()
        with contextlib.suppress(BufferError):
            self._memory.close()
