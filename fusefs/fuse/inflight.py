# SPDX-License-Identifier: Apache-2.0
"""From a request that is complete in its slot to its answer: what is between kernel and device.

Each slot has one block request, which is used again. Its completion leaves the answer for the end
of the reactor's turn, where all answers of the turn are written with one system call
(:mod:`fusefs.fuse.ring`), and their slots cleared. Reading /dev/fuse is
:mod:`fusefs.fuse.native`'s; where requests and their payload lie is :mod:`fusefs.fuse.slots`'.

INVARIANT: a slot is cleared right after the call that wrote its answer, with nothing in between but
clearing the others of that call, see :mod:`fusefs.fuse.slots`.
(tests: test_a_slot_is_cleared_after_its_answer_and_before_anything_else)
"""

from __future__ import annotations

import errno
import logging
import os
import struct
from collections.abc import Callable
from typing import Any

from pyscsi_init.device.interface import BlockRequest, Operation

from . import abi
from .abi import OUT_HEADER_LENGTH
from .blockfile import BlockFile, run_steps
from .buffers import LARGE, AnswerBuffer, AnswerBuffers
from .channel import ChannelStatistics
from .errno import errno_of
from .ring import ENTRIES, WriteRing, address_of, open_ring
from .slots import UNIQUE_WORD, WORDS, BySlot, RequestSlots

log = logging.getLogger(__name__)

ENDED = (errno.ENODEV, errno.ECONNABORTED)
"""The kernel has ended the connection."""

_write = os.write
# The layouts of abi.OUT_HEADER and of the answer to WRITE, in the machine's own alignment.
_pack_out_into = struct.Struct("IiQ").pack_into
_written = struct.Struct("IiQI4x")
_pack_written_into = _written.pack_into
_WRITTEN_LENGTH = _written.size
_UNIQUE_AT = 8


class SlotRequest(BlockRequest):
    """What the device is asked for the request in a slot; used again for each that comes there."""

    __slots__ = (
        "answer",
        "area",
        "receipt",
        "receipt_address",
        "slot",
        "small",
        "small_size",
        "unique",
        "unique_word",
    )

    def __init__(self, slot: int) -> None:
        super().__init__(Operation.FLUSH, 0, 0, None, _no_completion)
        self.slot = slot
        self.receipt = bytearray(_WRITTEN_LENGTH)
        """The answer to a WRITE."""
        self.receipt_address = address_of(self.receipt)
        self.unique_word = slot * WORDS + UNIQUE_WORD
        self.unique = 0
        self.area = -1
        """The big area that the request has kept; -1 for none."""
        self.answer: AnswerBuffer | None = None
        self.small = memoryview(b"")
        """The first ``small_size`` bytes of the slot's small area."""
        self.small_size = -1

    def forget_memory(self) -> None:
        """Let go of every buffer."""
        self.buffer = self.answer = None
        self.small_size = -1


def _no_completion(_: BlockRequest) -> None:
    raise AssertionError("a request was completed that was not submitted")


class InFlight:
    """The block requests of all slots, over the device of ``file``; answers go to ``fd``."""

    def __init__(
        self,
        fd: int,
        file: BlockFile,
        slots: RequestSlots,
        statistics: ChannelStatistics,
        at_end_of_turn: Callable[[Callable[[], None]], None],
    ) -> None:
        self.requests = BySlot(SlotRequest)
        self.large_bytes = 0
        """What the reads above 64 KiB that are in flight ask for."""
        self.landed: Callable[[], None] | None = None
        """Called after each answer while somebody waits for one."""
        self._fd = fd
        self._file = file
        self._fua = file.fua
        self._slots = slots
        self._words, self._free = slots.words, slots.free
        self._statistics = statistics
        self._buffers = AnswerBuffers()
        self._pools = self._buffers.small_pools
        self._submit = file.device.submit
        self._at_end_of_turn = at_end_of_turn
        self._due: list[Any] = []
        """READs and WRITEs that were done; their answers are written at the end of the turn."""
        self._ring: WriteRing | None = None
        self._has_ring = True
        """There is one, or there will be when it is needed for the first time."""

    def close(self) -> None:
        """Let go of what answers are written with. Nothing may be in flight."""
        if self._ring is not None:
            self._ring.close()
            self._ring = None
        self._has_ring = False

    def trim(self) -> None:
        """Give back the memory of answers. Nothing may be in flight."""
        for request in self.requests.values():
            request.forget_memory()
        self._buffers.trim()

    # -- to the device --------------------------------------------------------------------------

    def read(self, request: SlotRequest, offset: int, size: int) -> None:
        """READ: ``size`` is not 0 and all within the device."""
        pool = self._pools.get(size)
        if pool:
            answer = pool.pop()
            request.buffer = answer.data
        else:
            answer = self._buffers.take(size)
            request.buffer = answer.data if size == answer.capacity else answer.data[:size]
            if size > LARGE:
                self.large_bytes += size
        request.answer = answer
        request.operation = Operation.READ
        request.offset = offset
        request.length = size
        request.fua = False
        request.completion = self._read_done
        self._submit(request)

    def write(self, request: SlotRequest, payload: memoryview, offset: int, flags: int) -> None:
        """WRITE of a payload in the slot's areas; ``flags`` are those of open(2)."""
        request.operation = Operation.WRITE
        request.offset = offset
        request.length = len(payload)
        request.buffer = payload
        # O_DSYNC on a file opened for direct I/O: the kernel leaves the syncing to us.
        request.fua = self._fua or flags & os.O_DSYNC != 0
        request.completion = self._write_done
        self._submit(request)

    def flush(self, request: SlotRequest) -> None:
        """FSYNC: make what was written stable."""
        request.operation = Operation.FLUSH
        request.offset = request.length = 0
        request.buffer = None
        request.fua = False
        request.context = self._statistics.writes
        request.completion = self._flush_done
        self._submit(request)

    def fallocate(self, request: SlotRequest, mode: int, offset: int, length: int) -> None:
        """FALLOCATE: holes and zeros."""

        def done(error: Exception | None) -> None:
            self._statistics.discards += 1
            request.error = error
            self.answer(request)
            if self.landed is not None:
                self.landed()

        try:
            steps = self._file.fallocate(mode, offset, length)
        except OSError as refusal:
            done(refusal)
        else:
            run_steps(self._file.device, steps, done, fua=self._fua)

    # -- to the kernel --------------------------------------------------------------------------
    # Any: a completion gets the request that was submitted, and a check per I/O proves nothing.

    def _read_done(self, request: Any) -> None:
        if request.error is not None:
            answer, request.answer = request.answer, None
            self.answer(request)
            self._give_back(answer, request.length)
            if self.landed is not None:
                self.landed()
            return
        length = request.length
        _pack_out_into(request.answer.whole, 0, OUT_HEADER_LENGTH + length, 0, request.unique)
        due = self._due
        due.append(request)
        if len(due) == 1:
            self._at_end_of_turn(self._write_due)

    def _write_done(self, request: Any) -> None:
        if request.error is not None:
            self.answer(request)
            if self.landed is not None:
                self.landed()
            return
        _pack_written_into(request.receipt, 0, _WRITTEN_LENGTH, 0, request.unique, request.length)
        due = self._due
        due.append(request)
        if len(due) == 1:
            self._at_end_of_turn(self._write_due)

    def renumber(self, request: SlotRequest, unique: int) -> None:
        """The kernel has sent the request again and knows it by this number now."""
        request.unique = unique
        if request in self._due:
            answer = request.answer
            message = request.receipt if answer is None or request.operation else answer.whole
            struct.pack_into("Q", message, _UNIQUE_AT, unique)

    def _write_due(self) -> None:
        """Write the answers of this turn: one with a write of its own, several at once."""
        due, self._due = self._due, []
        if len(due) > 1 and self._ring is None and self._has_ring:
            self._ring = open_ring(self._fd)
            self._has_ring = self._ring is not None
        if self._ring is None or len(due) == 1:
            self._write_each(due)
        else:
            for start in range(0, len(due), ENTRIES):
                self._write_batch(due[start : start + ENTRIES])
        if self.landed is not None:
            self.landed()

    def _write_each(self, due: list[Any]) -> None:
        for request in due:
            if request.operation:
                self.send(request.receipt)
            else:
                self.send(request.answer.whole[: OUT_HEADER_LENGTH + request.length])
            self._answered(request)

    def _write_batch(self, batch: list[Any]) -> None:
        ring = self._ring
        if ring is None:  # it has failed in the batch before
            self._write_each(batch)
            return
        for request in batch:
            if request.operation:
                ring.add(request.receipt_address, _WRITTEN_LENGTH)
            else:
                ring.add(request.answer.address, OUT_HEADER_LENGTH + request.length)
        try:
            refusals = ring.submit()
        except OSError as error:
            log.warning("answers are written one by one from here on: %s", error)
            self.close()
            self._has_ring = False
            # All of them: one that was written already is refused, as its number is known no more.
            self._write_each(batch)
            return
        for number in refusals:
            _refused(OSError(number, os.strerror(number)))
        for request in batch:
            self._answered(request)

    def _answered(self, request: Any) -> None:
        """The answer was written: the slot is free."""
        self._words[request.unique_word] = 0
        self._free.append(request.slot)
        statistics, length = self._statistics, request.length
        if request.operation:
            if request.area >= 0:
                self._slots.free_areas.append(request.area)
                request.area = -1
            statistics.writes += 1
            statistics.bytes_written += length
        else:
            statistics.reads += 1
            statistics.bytes_read += length
            self._give_back(request.answer, length)

    def _give_back(self, answer: AnswerBuffer, length: int) -> None:
        if length <= LARGE:
            answer.pool.append(answer)
        else:
            self.large_bytes -= length
            self._buffers.give_back(answer)

    def _flush_done(self, request: Any) -> None:
        statistics = self._statistics
        statistics.flushes += 1
        if request.error is None:
            statistics.flushed_writes = max(statistics.flushed_writes, request.context)
            statistics.unflushed_before = False
        self.answer(request)
        if self.landed is not None:
            self.landed()

    def answer(self, request: Any) -> None:
        """Tell success without a word more, or the error, and clear the slot."""
        error = request.error
        if error is None:
            self.send(abi.reply(request.unique))
        else:
            number = error.errno if isinstance(error, OSError) else errno_of(error)
            if not isinstance(error, OSError):  # those are our own refusals
                self._slots.give_up(request.slot)
            # What the device does not have is no error of it: the kernel does it another way.
            if number != errno.EOPNOTSUPP:
                self._statistics.failed(str(error))
            self.send(abi.error_reply(request.unique, number or errno.EIO))
            request.error = None
        self.clear(request)

    def send(self, message: bytes | bytearray | memoryview) -> None:
        """Write one answer or notification. Never raises: it runs in the device's completion."""
        try:
            _write(self._fd, message)
        except OSError as error:
            _refused(error)

    def clear(self, request: SlotRequest) -> None:
        """The request was answered: nothing of it is needed any more."""
        self._words[request.unique_word] = 0
        self._free.append(request.slot)
        if request.area >= 0:
            self._slots.free_areas.append(request.area)
            request.area = -1


def _refused(error: OSError) -> None:
    """An answer was not taken. ENOENT: the request was taken back or answered before, or nothing
    is cached to invalidate. ENODEV and ECONNABORTED: the connection ended, which the next read will
    tell."""
    if error.errno not in (errno.ENOENT, *ENDED):
        log.error("an answer to the kernel was refused: %s", error)
