# SPDX-License-Identifier: Apache-2.0
"""Many writes to one descriptor in one system call, through io_uring.

An answer to the kernel wakes whoever waits for it, and on return from ``write`` that one is often
given our processor: one switch there and back for each answer. Where several answers are due at
once, one ``io_uring_enter`` writes all of them, and the other side wakes up once to find them all.

Only what is needed of io_uring(7) is here: no completions are awaited, as every write is carried
out within the call, and only failures are reported. Where the kernel or a seccomp filter refuses
io_uring, ``open_ring`` returns None and answers are written one by one.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import struct

ENTRIES = 64
"""Writes per call; a power of two."""

_SYS_SETUP, _SYS_ENTER = 425, 426  # the same on every architecture
_SETUP_SINGLE_ISSUER = 1 << 12
_SETUP_COOP_TASKRUN = 1 << 8
_FEAT_SINGLE_MMAP = 1 << 0
_FEAT_CQE_SKIP = 1 << 11
_OFFSET_RINGS, _OFFSET_SQES = 0, 0x10000000
_OP_WRITE = 23
_CQE_SKIP_SUCCESS = 1 << 6
_SQE_BYTES = 64
_PARAMS_BYTES = 120
_ADDRESS_AT = 16
_PASSING = (errno.EINTR, errno.EAGAIN, errno.EBUSY)
"""Nothing was carried out for now."""
_CQE = struct.Struct("QiI")
# struct io_uring_params: entries, flags, cpu, idle, features, wq_fd, 3 reserved, and two tables of
# offsets into the shared memory.
_PARAMS = struct.Struct("10I10I10I")
_FIXED = struct.Struct("BBHiQ")
_pack_write = struct.Struct("QI").pack_into

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_enter = ctypes.CFUNCTYPE(
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_long,
    ctypes.c_void_p,
    ctypes.c_long,
    use_errno=True,
)(("syscall", _libc))


class WriteRing:
    """Writes to ``fd``, which must not block. Use :func:`open_ring`.

    Only for the thread that has opened it. A process that is forked has no use for it.

    Raises:
        OSError: its memory cannot be mapped; the descriptor stays its caller's.
    """

    def __init__(self, ring: int, fd: int, parameters: tuple[int, ...]) -> None:
        self._ring = ring
        sq, cq = parameters[10:20], parameters[20:30]
        size = max(sq[6] + 4 * parameters[0], cq[5] + _CQE.size * parameters[1])
        self._memory = mmap.mmap(ring, size, offset=_OFFSET_RINGS)
        self._sqes = mmap.mmap(ring, _SQE_BYTES * ENTRIES, offset=_OFFSET_SQES)
        words = memoryview(self._memory).cast("I")
        self._words = words
        self._sq_tail, self._sq_head, self._mask = sq[1] // 4, sq[0] // 4, words[sq[2] // 4]
        self._cq_head, self._cq_tail = cq[0] // 4, cq[1] // 4
        self._cqes, self._cq_mask = cq[5], words[cq[2] // 4]
        self._tail = words[self._sq_tail]
        for index in range(ENTRIES):
            words[sq[6] // 4 + index] = index
            _FIXED.pack_into(self._sqes, index * _SQE_BYTES, _OP_WRITE, _CQE_SKIP_SUCCESS, 0, fd, 0)
        self.queued = 0
        """Writes that wait for ``submit``; at most ENTRIES."""

    def add(self, address: int, length: int) -> None:
        """Queue a write of memory that stays as it is until ``submit`` has returned."""
        at = ((self._tail + self.queued) & self._mask) * _SQE_BYTES + _ADDRESS_AT
        _pack_write(self._sqes, at, address, length)
        self.queued += 1

    def submit(self) -> list[int]:
        """Carry out what is queued, in order. Returns the error numbers of those that failed.

        Raises:
            OSError: the ring is of no use any more; how many were carried out is not known.
        """
        words = self._words
        self._tail = (self._tail + self.queued) & 0xFFFFFFFF
        words[self._sq_tail] = self._tail
        while self.queued:
            done = _enter(_SYS_ENTER, self._ring, self.queued, 0, 0, None, 0)
            if done >= 0:
                self.queued -= done
            elif ctypes.get_errno() not in _PASSING:
                raise OSError(ctypes.get_errno(), "io_uring_enter failed")
        if words[self._cq_tail] == words[self._cq_head]:
            return []
        return self._failures()

    def _failures(self) -> list[int]:
        words = self._words
        head, tail = words[self._cq_head], words[self._cq_tail]
        found = []
        while head != tail:
            at = self._cqes + (head & self._cq_mask) * _CQE.size
            result = _CQE.unpack_from(self._memory, at)[1]
            if result < 0:
                found.append(-result)
            head = (head + 1) & 0xFFFFFFFF
        words[self._cq_head] = head
        return found

    def close(self) -> None:
        """Let go of the ring. Idempotent."""
        if self._ring >= 0:
            self._words.release()
            self._memory.close()
            self._sqes.close()
            os.close(self._ring)
            self._ring = -1


def open_ring(fd: int) -> WriteRing | None:
    """A ring for ``fd``; None where this kernel, or who confines us, does not let us have one.

    None also for a descriptor that may block: the kernel would go on writing after the call, from
    memory that is something else by then.
    """
    if not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK:
        return None
    for flags in (_SETUP_SINGLE_ISSUER | _SETUP_COOP_TASKRUN, 0):
        parameters = ctypes.create_string_buffer(_PARAMS_BYTES)
        struct.pack_into("I", parameters, 8, flags)
        ring = _syscall(_SYS_SETUP, ENTRIES, parameters)
        if ring >= 0:
            break
    else:
        return None
    os.set_inheritable(ring, False)
    agreed = _PARAMS.unpack_from(parameters)
    wanted = _FEAT_SINGLE_MMAP | _FEAT_CQE_SKIP
    if agreed[5] & wanted == wanted:
        with contextlib.suppress(OSError):
            return WriteRing(ring, fd, agreed)
    os.close(ring)
    return None


def address_of(memory: memoryview | bytearray) -> int:
    """Where writable memory begins; it stays there until it is resized or freed."""
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
