# SPDX-License-Identifier: Apache-2.0
"""A block device in memory: the fastest honest device there is.

It serves tests, benchmarks and demonstrations of everything above the block interface. It keeps
the interface's rules to the letter (alignment, limits, range, read-only), so that a layer that
passes on it has not been helped. Memory is anonymous and private: blocks never written cost
nothing, and a discarded page goes back to the system.

Requests complete before ``submit`` returns. It is not durable and knows no clock.
"""

from __future__ import annotations

import mmap

from ..errors import ConfigurationError, LocalProtocolError, Unsupported
from .interface import BlockDevice, BlockRequest, Limits, Operation, check_range

_DISCARDED = 0xA5
"""Discarded blocks hold this where zeros are not promised: neither the old data nor zeros."""


class RamDevice(BlockDevice):
    """``size_bytes`` of memory behind the block interface.

    A request longer than ``limits`` allows is refused with LocalProtocolError, as a target would.
    With ``any_alignment`` offsets and lengths may be any bytes.
    """

    def __init__(
        self,
        size_bytes: int,
        block_size: int = 512,
        read_only: bool = False,
        can_discard: bool = True,
        can_write_zeroes: bool = True,
        discard_zeroes: bool = True,
        *,
        physical_block_size: int | None = None,
        any_alignment: bool = False,
        limits: Limits | None = None,
    ) -> None:
        super().__init__()
        if block_size < 1 or block_size & (block_size - 1):
            raise ConfigurationError("block_size", block_size, "is not a power of two")
        self.block_size = block_size
        self._check_size(size_bytes)
        self.size_bytes = size_bytes
        self.physical_block_size = physical_block_size or block_size
        self.read_only = read_only
        self.can_discard = can_discard
        self.can_write_zeroes = can_write_zeroes
        self.discard_zeroes = discard_zeroes
        self.any_alignment = any_alignment
        self.limits = limits or Limits()
        self._block_mask = 0 if any_alignment else block_size - 1
        self.flushes = 0
        """How many FLUSH requests were done; there is nothing to make stable."""
        self._closed = False
        self._memory = mmap.mmap(-1, size_bytes, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._view = memoryview(self._memory)

    def _check_size(self, size_bytes: int) -> None:
        if size_bytes <= 0 or size_bytes % self.block_size:
            raise ConfigurationError(
                "size_bytes", size_bytes, f"is not a positive multiple of {self.block_size}"
            )

    def submit(self, request: BlockRequest) -> None:
        operation, offset, length = request.operation, request.offset, request.length
        buffer = request.buffer
        # What is usual and in order is done here; whatever is not, is refused or done below.
        if (
            operation <= Operation.WRITE
            and not (self._closed or self.read_only)
            and 0 <= offset <= self.size_bytes - length
            and not (offset | length) & self._block_mask
            and 0 < length <= (self.limits.max_transfer_bytes or length)
            and buffer is not None
            and len(buffer) == length
        ):
            if operation:
                self._view[offset : offset + length] = buffer
            else:
                memoryview(buffer)[:] = self._view[offset : offset + length]
            request.complete()
        else:
            request.complete(self._perform(request))

    def _perform(self, request: BlockRequest) -> Exception | None:
        if self._closed:
            return LocalProtocolError(f"{request.operation.name}: the device is closed")
        error = check_range(self, request)
        if error is not None:
            return error
        operation, start = request.operation, request.offset
        end = start + request.length
        if operation is Operation.READ:
            if error := self._over_limit(request, self.limits.max_transfer_bytes):
                return error
            if start < end and request.buffer is not None:
                memoryview(request.buffer)[:] = self._view[start:end]
        elif operation is Operation.WRITE:
            if error := self._over_limit(request, self.limits.max_transfer_bytes):
                return error
            self._view[start:end] = request.buffer or b""
        elif operation is Operation.FLUSH:
            self.flushes += 1
        elif operation is Operation.DISCARD:
            if not self.can_discard:
                return Unsupported("DISCARD: this device has no discard")
            if error := self._over_limit(request, self.limits.max_discard_bytes):
                return error
            if self.discard_zeroes:
                self._zero(start, end)
            else:
                self._view[start:end] = bytes((_DISCARDED,)) * (end - start)
        else:
            if not self.can_write_zeroes:
                return Unsupported("WRITE_ZEROES: this device has no way to write zeros")
            if error := self._over_limit(request, self.limits.max_write_zeroes_bytes):
                return error
            self._zero(start, end)
        return None

    @staticmethod
    def _over_limit(request: BlockRequest, limit: int) -> Exception | None:
        if limit and request.length > limit:
            return LocalProtocolError(
                f"{request.operation.name} of {request.length} bytes: the limit is {limit}"
            )
        return None

    def _zero(self, start: int, end: int) -> None:
        first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
        last = end // mmap.PAGESIZE * mmap.PAGESIZE
        if first < last:
            # A private anonymous page that is given back reads as zeros the next time.
            self._memory.madvise(mmap.MADV_DONTNEED, first, last - first)
            self._view[start:first] = bytes(first - start)
            self._view[last:end] = bytes(end - last)
        else:
            self._view[start:end] = bytes(end - start)

    def resize(self, size_bytes: int) -> None:
        """Grow or shrink; new blocks read as zeros. Calls ``size_changed``."""
        self._check_size(size_bytes)
        if size_bytes < self.size_bytes:
            self._zero(size_bytes, self.size_bytes)
        self._view.release()
        self._memory.resize(size_bytes)
        self._view = memoryview(self._memory)
        self.size_bytes = size_bytes
        for notify in list(self.size_changed):
            notify(size_bytes)

    async def aclose(self) -> None:
        """Give the memory back; later requests fail with LocalProtocolError."""
        if not self._closed:
            self._closed = True
            self._view.release()
            self._memory.close()
