# SPDX-License-Identifier: Apache-2.0
"""Take requests of any offset and length, and give the device below whole blocks only.

A LUN moves whole logical blocks; a FUSE file is read and written by bytes. What is aligned passes
untouched. An unaligned READ goes through a buffer of whole blocks. An unaligned WRITE or
WRITE_ZEROES reads the blocks at its edges, puts its bytes in, and writes whole blocks. An unaligned
DISCARD shrinks to the whole blocks inside: to discard less is always right.

INVARIANT: while a read-modify-write runs, no other write of any kind is under way on its blocks.
Without it an acknowledged neighbour in the same block could be undone by the older copy. Writers
that overlap wait in order of arrival. Aligned traffic pays one dictionary entry a write, nothing a
read. (tests: test_neighbours_in_one_block_both_survive, test_random_workload_equals_a_bytearray)

Put it above :class:`~pyscsi_init.device.splitting.SplittingDevice`: widening makes requests longer.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..errors import TaskAborted, Unsupported
from .interface import BlockDevice, BlockRequest, Operation, check_range
from .readmodifywrite import ReadModifyWrite
from .wrapper import WrappedDevice

Completion = Callable[[BlockRequest], None]


class AlignmentDevice(WrappedDevice):
    """Any offset, any length (``any_alignment``); whole blocks for ``inner``."""

    def __init__(self, inner: BlockDevice) -> None:
        super().__init__(inner)
        # Whole-block writes below us, each with the completion of its owner: requests are passed
        # down as they are, so their completion is exchanged while they are there.
        self._writing: dict[BlockRequest, Completion] = {}
        # Read-modify-writes under way, by the request they serve.
        self._modifying: dict[BlockRequest, ReadModifyWrite] = {}
        # Writers that wait for a range, in order of arrival.
        self._waiting: deque[BlockRequest] = deque()
        # Caller's request -> the one that works for it below (bounced reads, shrunk discards).
        self._delegates: dict[BlockRequest, BlockRequest] = {}
        self._waking = False
        self._look_again = False

    @property
    def any_alignment(self) -> bool:  # type: ignore[override]
        return True

    def submit(self, request: BlockRequest) -> None:
        inner = self.inner
        operation = request.operation
        offset, length = request.offset, request.length
        if operation is Operation.FLUSH or inner.any_alignment:
            inner.submit(request)
            return
        block_size = inner.block_size
        if length and not (offset % block_size or length % block_size):
            if operation is Operation.READ:
                inner.submit(request)
            elif self._modifying or self._waiting:
                self._admit(request)
            else:
                self._write(request)
            return
        error = check_range(self, request)
        if error is None and operation is Operation.DISCARD and not inner.can_discard:
            error = Unsupported("DISCARD: the device has no discard")
        if error is None and operation is Operation.WRITE_ZEROES and not inner.can_write_zeroes:
            error = Unsupported("WRITE_ZEROES: the device has no way to write zeros")
        if error is not None or not length:
            request.complete(error)
        elif operation is Operation.READ:
            self._bounce(request)
        elif operation is Operation.DISCARD:
            self._shrink(request)
        else:
            self._admit(request)

    # -- aligned writes -------------------------------------------------------------------------

    def _write(self, request: BlockRequest) -> None:
        self._follow(request)
        self.inner.submit(request)

    def _follow(self, request: BlockRequest) -> None:
        self._writing[request] = request.completion
        request.completion = self._written

    def _writes_below(self) -> list[BlockRequest]:
        """The whole-block writes under way."""
        return list(self._writing)

    def _written(self, request: BlockRequest) -> None:
        request.completion = completion = self._writing.pop(request)
        if self._waiting:
            self._wake()
        completion(request)

    # -- ranges ---------------------------------------------------------------------------------

    def _span(self, request: BlockRequest) -> tuple[int, int]:
        """The whole blocks that the request touches."""
        block_size = self.inner.block_size
        end = request.offset + request.length
        return request.offset // block_size * block_size, -(-end // block_size) * block_size

    def _is_aligned(self, request: BlockRequest) -> bool:
        block_size = self.inner.block_size
        return not (request.offset % block_size or request.length % block_size)

    def _may_start(self, request: BlockRequest, earlier: list[tuple[int, int]]) -> bool:
        start, end = self._span(request)
        if any(first < end and start < last for first, last in earlier):
            return False
        if any(rmw.start < end and start < rmw.end for rmw in self._modifying.values()):
            return False
        if self._is_aligned(request):
            return True
        return not any(
            other.offset < end and start < other.offset + other.length
            for other in self._writes_below()
        )

    def _admit(self, request: BlockRequest) -> None:
        """Start a write, or let it wait for those that came first on its blocks."""
        if self._may_start(request, [self._span(other) for other in self._waiting]):
            self._start(request)
        else:
            self._waiting.append(request)

    def _start(self, request: BlockRequest) -> None:
        if self._is_aligned(request):
            self._write(request)
            return
        start, end = self._span(request)
        rmw = ReadModifyWrite(self.inner, request, start, end, self._modified)
        self._modifying[request] = rmw
        rmw.run()

    def _modified(self, rmw: ReadModifyWrite, error: Exception | None) -> None:
        del self._modifying[rmw.request]
        if self._waiting:
            self._wake()
        rmw.request.complete(error)

    def _wake(self) -> None:
        """Start the waiting writers whose ranges are free, the oldest first.

        A device may complete a started one at once and bring us back here: then the loop that is
        already running looks again, so that the stack does not grow with the queue.
        """
        if self._waking:
            self._look_again = True
            return
        self._waking = True
        self._look_again = True
        while self._look_again:
            self._look_again = False
            earlier: list[tuple[int, int]] = []
            for request in list(self._waiting):
                if self._may_start(request, earlier):
                    self._waiting.remove(request)
                    self._start(request)
                    if self._look_again:
                        break
                else:
                    earlier.append(self._span(request))
        self._waking = False

    # -- reads and discards ---------------------------------------------------------------------

    def _bounce(self, request: BlockRequest) -> None:
        start, end = self._span(request)
        buffer = bytearray(end - start)

        def done(bounced: BlockRequest) -> None:
            del self._delegates[request]
            if bounced.error is None and request.buffer is not None:
                first = request.offset - start
                wanted = memoryview(buffer)[first : first + request.length]
                memoryview(request.buffer)[:] = wanted
            request.complete(bounced.error)

        self._delegate(request, BlockRequest(Operation.READ, start, end - start, buffer, done))

    def _shrink(self, request: BlockRequest) -> None:
        block_size = self.inner.block_size
        start = -(-request.offset // block_size) * block_size
        end = (request.offset + request.length) // block_size * block_size
        if start >= end:
            request.complete()
            return

        def done(shrunk: BlockRequest) -> None:
            del self._delegates[request]
            request.complete(shrunk.error)

        self._delegate(
            request,
            BlockRequest(Operation.DISCARD, start, end - start, None, done, fua=request.fua),
        )

    def _delegate(self, request: BlockRequest, delegate: BlockRequest) -> None:
        self._delegates[request] = delegate
        self.submit(delegate)

    # -- cancel and close -----------------------------------------------------------------------

    def cancel(self, request: BlockRequest) -> None:
        request = self._delegates.get(request, request)
        rmw = self._modifying.get(request)
        if rmw is not None:
            rmw.cancel()
        elif request in self._waiting:
            self._waiting.remove(request)
            request.complete(TaskAborted(f"{request!r}: cancelled before it was started"))
            self._wake()  # also when none is left: a loop in there must not go on with this one
        else:
            self.inner.cancel(request)
