# SPDX-License-Identifier: Apache-2.0
"""The memory that outlives a worker: one memfd per volume, its layout, and the small facts in it.

The memfd has a fixed size and is sparse, so what was never used costs nothing. From the front:

- the superblock: magic, version, counts, whether a change was given up, and the INIT that was
  agreed on with the kernel;
- two copies of the note, a few bytes that whoever serves the volume leaves for its successor;
- the table of request slots, then a small payload area for each slot, then the big payload areas.

What the slots mean is in :mod:`fusefs.fuse.slots`. A process that only keeps the descriptor needs
none of this. The size is sealed: nobody who has the descriptor can cut the memory off from under a
worker.

INVARIANT: at every instant, also between two bytes of any change, a reader finds the old or the
new value of ``init`` and ``note``, never a mixture. (tests: test_slotmemory.py)
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import struct
import zlib

from fusefs.host import syscalls

from .abi import INIT_REPLY_LENGTH, MAX_WRITE, PAGE, InitReply

MAGIC = b"PSI-slot"
VERSION = 1

STRIDE = 128
"""Bytes of the table for each slot: two cache lines."""
SMALL_BYTES = 64 << 10
BIG_BYTES = MAX_WRITE + PAGE
"""The longest payload, and a page: no message of the kernel is longer."""

MAX_NOTE_BYTES = 64 << 10

_SUPERBLOCK = struct.Struct("=8sIIIIII")
"""magic version slots areas stride small_bytes big_bytes"""
_INIT_PRESENT = 64
"""The word (of 8 bytes) of the superblock that says that INIT is there; INIT follows it."""
_INIT_OFFSET = 8 * (_INIT_PRESENT + 1)
_IN_DOUBT = 32
"""The word of the superblock that says that a change was given up."""

_NOTE = struct.Struct("=QII")
"""sequence length checksum; the note follows"""
_NOTE_COPY_BYTES = PAGE + MAX_NOTE_BYTES

_TABLE_OFFSET = PAGE + 2 * _NOTE_COPY_BYTES

_MADV_POPULATE_WRITE = 23
"""Linux 5.14; the standard library has no name for it."""


class SlotMemory:
    """A mapping of the memfd ``fd``, which belongs to this object from here on.

    Raises:
        ValueError: the descriptor is something else, or of another version or layout; it stays its
            caller's.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        size = os.fstat(fd).st_size
        if size < _TABLE_OFFSET:
            raise ValueError(f"a file of {size} bytes holds no request slots")
        head = os.pread(fd, _SUPERBLOCK.size, 0)
        magic, version, slots, areas, stride, small_bytes, big_bytes = _SUPERBLOCK.unpack(head)
        if magic != MAGIC:
            raise ValueError(f"no request slots: the file begins with {magic!r}, not {MAGIC!r}")
        if version != VERSION:
            raise ValueError(f"request slots of version {version}; this code knows {VERSION}")
        found = (stride, small_bytes, big_bytes)
        if found != (STRIDE, SMALL_BYTES, BIG_BYTES) or size != _size(slots, areas):
            raise ValueError(
                f"request slots of another layout: {slots} slots of {stride} and {small_bytes} "
                f"bytes, {areas} areas of {big_bytes} bytes, in a file of {size} bytes"
            )
        self.slots: int = slots
        self.areas: int = areas
        self._memory = mmap.mmap(fd, size, mmap.MAP_SHARED)
        self._whole = memoryview(self._memory)
        self._superblock = self._whole[:PAGE].cast("Q")
        self._small_offset = _TABLE_OFFSET + _whole_pages(slots * STRIDE)
        self._big_offset = self._small_offset + slots * SMALL_BYTES
        self.table = self._whole[_TABLE_OFFSET : _TABLE_OFFSET + slots * STRIDE]
        self.words = self.table.cast("Q")
        """The table by words of 8 bytes: storing one is one instruction, never half done."""

    @classmethod
    def create(cls, slots: int, areas: int) -> int:
        """The descriptor of a fresh memfd for so many slots and big areas."""
        fd = os.memfd_create("pyscsi-init-slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(fd, _size(slots, areas))
            head = (MAGIC, VERSION, slots, areas, STRIDE, SMALL_BYTES, BIG_BYTES)
            os.pwrite(fd, _SUPERBLOCK.pack(*head), 0)
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        except BaseException:
            os.close(fd)
            raise
        return fd

    # -- areas ----------------------------------------------------------------------------------

    def small_area(self, slot: int) -> memoryview:
        """The payload area of a slot's own."""
        start = self._small_offset + slot * SMALL_BYTES
        return self._whole[start : start + SMALL_BYTES]

    def big_area(self, area: int) -> memoryview:
        """A payload area that is anybody's."""
        start = self._big_offset + area * BIG_BYTES
        return self._whole[start : start + BIG_BYTES]

    def populate_table(self) -> None:
        """See :meth:`populate_big_area`."""
        self._populate(_TABLE_OFFSET, _whole_pages(self.slots * STRIDE))

    def populate_big_area(self, area: int) -> None:
        """Put all pages of the area into the page table of this process, now.

        The kernel copies a request into our memory while it holds the only record of it. If a page
        is missing then, and SIGKILL comes while it is being got, the copy fails and the application
        gets EIO. A page that is there is never waited for.
        """
        self._populate(self._big_offset + area * BIG_BYTES, BIG_BYTES)

    def _populate(self, start: int, length: int) -> None:
        try:
            self._memory.madvise(_MADV_POPULATE_WRITE, start, length)
        except OSError:  # EINVAL: Linux before 5.14
            for offset in range(start, start + length, PAGE):
                self._whole[offset] = self._whole[offset]

    def give_back_small(self, slot: int) -> None:
        """Give the pages of a slot's payload area back, but for the first."""
        start = self._small_offset + slot * SMALL_BYTES + PAGE
        syscalls.punch_hole(self.fd, start, SMALL_BYTES - PAGE)

    def give_back_big(self, area: int) -> None:
        """Give the pages of a big area back; it reads as zeros."""
        syscalls.punch_hole(self.fd, self._big_offset + area * BIG_BYTES, BIG_BYTES)

    # -- INIT -----------------------------------------------------------------------------------

    @property
    def init(self) -> InitReply | None:
        """What was agreed on with the kernel; None until then."""
        if not self._superblock[_INIT_PRESENT]:
            return None
        return InitReply.decode(self._whole[_INIT_OFFSET : _INIT_OFFSET + INIT_REPLY_LENGTH])

    @init.setter
    def init(self, reply: InitReply | None) -> None:
        self._superblock[_INIT_PRESENT] = 0
        if reply is not None:
            encoded = reply.encode()
            self._whole[_INIT_OFFSET : _INIT_OFFSET + INIT_REPLY_LENGTH] = encoded
            self._superblock[_INIT_PRESENT] = 1

    # -- what was given up ----------------------------------------------------------------------

    @property
    def in_doubt(self) -> bool:
        """A change was answered with an error, and the disk may still have it."""
        return self._superblock[_IN_DOUBT] != 0

    @in_doubt.setter
    def in_doubt(self, value: bool) -> None:
        self._superblock[_IN_DOUBT] = value

    # -- the note -------------------------------------------------------------------------------

    @property
    def note(self) -> bytes:
        """What was last noted; b"" when nothing was."""
        return self._newest_note()[1]

    @note.setter
    def note(self, note: bytes) -> None:
        if len(note) > MAX_NOTE_BYTES:
            raise ValueError(f"a note of {len(note)} bytes; at most {MAX_NOTE_BYTES} fit")
        sequence = self._newest_note()[0] + 1
        # Copies take turns, so the newest stays whole while the other is written.
        start = PAGE + sequence % 2 * _NOTE_COPY_BYTES
        self._whole[start + _NOTE.size : start + _NOTE.size + len(note)] = note
        _NOTE.pack_into(self._whole, start, sequence, len(note), _checksum(sequence, note))

    def _newest_note(self) -> tuple[int, bytes]:
        newest = (0, b"")
        for copy in range(2):
            start = PAGE + copy * _NOTE_COPY_BYTES
            sequence, length, checksum = _NOTE.unpack_from(self._whole, start)
            if sequence <= newest[0] or length > MAX_NOTE_BYTES:
                continue
            note = bytes(self._whole[start + _NOTE.size : start + _NOTE.size + length])
            if checksum == _checksum(sequence, note):
                newest = (sequence, note)
        return newest

    def close(self) -> None:
        """Close the descriptor; the mapping goes with the last view of it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            for view in (self.words, self.table, self._superblock, self._whole):
                view.release()
            with contextlib.suppress(BufferError):
                self._memory.close()


def _whole_pages(length: int) -> int:
    return -(-length // PAGE) * PAGE


def _size(slots: int, areas: int) -> int:
    return _TABLE_OFFSET + _whole_pages(slots * STRIDE) + slots * SMALL_BYTES + areas * BIG_BYTES


def _checksum(sequence: int, note: bytes) -> int:
    return zlib.crc32(note, zlib.crc32(sequence.to_bytes(8, "little")))
