# SPDX-License-Identifier: Apache-2.0
"""One unaligned WRITE or WRITE_ZEROES: read the edge blocks, put the bytes in, write whole blocks.

The caller (:mod:`pyscsi_init.device.alignment`) keeps every other writer away from the blocks
while this runs; here is only the order of the steps. The edges are read at the same time. A WRITE
then goes down as one request; a WRITE_ZEROES as its edge blocks and, between them, a WRITE_ZEROES
of whole blocks, so that a long one stays cheap. Nothing is written if an edge could not be read.
"""

from __future__ import annotations

from collections.abc import Callable

from ..errors import TaskAborted
from .interface import BlockDevice, BlockRequest, Operation

Done = Callable[["ReadModifyWrite", "Exception | None"], None]


class ReadModifyWrite:
    """Serves ``request`` on the whole blocks from ``start`` to ``end``; calls ``done`` once."""

    __slots__ = (
        "_cancelled",
        "_done",
        "_edges",
        "_error",
        "_error_offset",
        "_in_flight",
        "_inner",
        "_then",
        "end",
        "request",
        "start",
    )

    def __init__(
        self, inner: BlockDevice, request: BlockRequest, start: int, end: int, done: Done
    ) -> None:
        self.request = request
        self.start = start
        self.end = end
        self._inner = inner
        self._done = done
        self._edges: dict[int, bytearray] = {}
        self._in_flight: set[BlockRequest] = set()
        self._error: Exception | None = None
        self._error_offset = -1
        self._cancelled = False
        self._then: Callable[[], None] = self._modify

    def run(self) -> None:
        """Read the blocks that the request covers in part only: one, or the first and the last."""
        request, block_size = self.request, self._inner.block_size
        steps = []
        if request.offset != self.start:
            self._edges[self.start] = bytearray(block_size)
        if request.offset + request.length != self.end:
            self._edges.setdefault(self.end - block_size, bytearray(block_size))
        for offset, block in self._edges.items():
            steps.append((Operation.READ, offset, block_size, block))
        self._all(steps, self._modify)

    def _modify(self) -> None:
        if self.request.operation is Operation.WRITE:
            self._write()
        else:
            self._write_zeroes()

    def _write(self) -> None:
        request, block_size = self.request, self._inner.block_size
        length = self.end - self.start
        whole = bytearray(length)
        for offset, block in self._edges.items():
            first = offset - self.start
            whole[first : first + block_size] = block
        first = request.offset - self.start
        whole[first : first + request.length] = request.buffer or b""
        self._all([(Operation.WRITE, self.start, length, whole)], self._finish)

    def _write_zeroes(self) -> None:
        request, block_size = self.request, self._inner.block_size
        zero_end = request.offset + request.length
        steps: list[tuple[Operation, int, int, bytearray | None]] = []
        middle_start, middle_end = self.start, self.end
        for offset, block in self._edges.items():
            first = max(request.offset, offset) - offset
            last = min(zero_end, offset + block_size) - offset
            block[first:last] = bytes(last - first)
            steps.append((Operation.WRITE, offset, block_size, block))
            if offset == self.start:
                middle_start = offset + block_size
            if offset + block_size == self.end:
                middle_end = offset
        if middle_start < middle_end:
            length = middle_end - middle_start
            steps.append((Operation.WRITE_ZEROES, middle_start, length, None))
        self._all(steps, self._finish)

    def _finish(self) -> None:
        self._done(self, None)

    # -- a group of requests --------------------------------------------------------------------

    def _all(
        self,
        steps: list[tuple[Operation, int, int, bytearray | None]]
        | list[tuple[Operation, int, int, bytearray]],
        then: Callable[[], None],
    ) -> None:
        """Submit all steps, then go on; the first error in offset order ends the whole."""
        self._then = then
        requests = [
            BlockRequest(
                operation,
                offset,
                length,
                buffer,
                self._step_done,
                fua=self.request.fua and operation is not Operation.READ,
            )
            for operation, offset, length, buffer in steps
        ]
        # All are counted before the first may complete inside submit.
        self._in_flight.update(requests)
        for request in requests:
            self._inner.submit(request)

    def _step_done(self, step: BlockRequest) -> None:
        self._in_flight.discard(step)
        if step.error is not None and (self._error is None or step.offset < self._error_offset):
            self._error = step.error
            self._error_offset = step.offset
        if self._in_flight:
            return
        if self._error is not None:
            self._done(self, self._error)
        elif self._cancelled and self._then == self._modify:
            self._done(self, TaskAborted(f"{self.request!r}: cancelled before it was written"))
        else:
            self._then()

    def cancel(self) -> None:
        self._cancelled = True
        for request in list(self._in_flight):
            self._inner.cancel(request)
