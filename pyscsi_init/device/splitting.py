# SPDX-License-Identifier: Apache-2.0
"""Cut requests to what the device below takes.

A LUN says in its block limits how much it takes at once; the layers above should not have to know.
A request within the limits passes untouched, at the price of two comparisons. A longer one goes
down in pieces, only a few at a time so that one huge discard does not starve the reads beside it.

INVARIANT: a request ends with the first error in offset order, after every piece in flight has
ended; no piece is started after a known error. (tests: test_first_error_in_offset_order_wins)

It knows nothing of alignment: put :class:`~pyscsi_init.device.alignment.AlignmentDevice` above it.
"""

from __future__ import annotations

from dataclasses import replace

from ..errors import TaskAborted
from .interface import BlockDevice, BlockRequest, Limits, Operation, check_range
from .wrapper import WrappedDevice

MAX_PIECES_IN_FLIGHT = 4
"""Enough to keep the wire busy while one piece is answered; few enough to leave room for others."""


class SplittingDevice(WrappedDevice):
    """Takes requests of any length; gives ``inner`` only what its ``limits`` allow."""

    def __init__(
        self, inner: BlockDevice, *, max_pieces_in_flight: int = MAX_PIECES_IN_FLIGHT
    ) -> None:
        super().__init__(inner)
        self._max_pieces = max(1, max_pieces_in_flight)
        self._splits: dict[BlockRequest, _Split] = {}

    @property
    def limits(self) -> Limits:  # type: ignore[override]
        """The inner device's, without the upper bounds: those are kept here."""
        return replace(
            self.inner.limits,
            max_transfer_bytes=0,
            max_discard_bytes=0,
            max_write_zeroes_bytes=0,
        )

    def submit(self, request: BlockRequest) -> None:
        inner = self.inner
        limits = inner.limits
        operation = request.operation
        if operation <= Operation.WRITE:
            limit = limits.max_transfer_bytes
        elif operation is Operation.DISCARD:
            limit = limits.max_discard_bytes
        elif operation is Operation.WRITE_ZEROES:
            limit = limits.max_write_zeroes_bytes
        else:
            limit = 0
        if not limit or request.length <= limit:
            inner.submit(request)
            return
        error = check_range(self, request)
        if error is not None:
            request.complete(error)
            return
        # Pieces start and end at whole blocks, discards at whole granules where one fits, so that
        # neither a read-modify-write nor a granule left behind comes from the cutting.
        unit, origin = inner.block_size, 0
        if operation is Operation.DISCARD:
            granularity, first = limits.discard_granularity_bytes, limits.discard_alignment_bytes
            if unit < granularity <= limit and not (granularity % unit or first % unit):
                unit, origin = granularity, first % granularity
        split = _Split(self, request, limit, unit, origin)
        self._splits[request] = split
        split.advance()

    def cancel(self, request: BlockRequest) -> None:
        """No further piece is started, and the pieces in flight are cancelled."""
        split = self._splits.get(request)
        if split is None:
            self.inner.cancel(request)
        else:
            split.cancel()

    def piece_length(self, offset: int, end: int, limit: int, unit: int, origin: int) -> int:
        """How long the piece at ``offset`` may be: up to the last boundary within the limit."""
        if end - offset <= limit:
            return end - offset
        boundary = (offset + limit - origin) // unit * unit + origin
        return boundary - offset if boundary > offset else limit


class _Split:
    """One request on its way down in pieces."""

    __slots__ = (
        "_advancing",
        "_buffer",
        "_cancelled",
        "_device",
        "_error",
        "_error_offset",
        "_in_flight",
        "_limit",
        "_next",
        "_origin",
        "_request",
        "_unit",
    )

    def __init__(
        self, device: SplittingDevice, request: BlockRequest, limit: int, unit: int, origin: int
    ) -> None:
        self._device = device
        self._request = request
        self._buffer = None if request.buffer is None else memoryview(request.buffer)
        self._limit = limit
        self._unit = unit
        self._origin = origin
        self._next = request.offset
        self._in_flight: set[BlockRequest] = set()
        self._error: Exception | None = None
        self._error_offset = -1
        self._advancing = False
        self._cancelled = False

    def advance(self) -> None:
        """Start pieces while there is room: a loop, because a device may complete at once."""
        if self._advancing:
            return
        self._advancing = True
        device, request = self._device, self._request
        end = request.offset + request.length
        while (
            self._next < end
            and self._error is None
            and not self._cancelled
            and len(self._in_flight) < device._max_pieces
        ):
            start = self._next
            length = device.piece_length(start, end, self._limit, self._unit, self._origin)
            self._next = start + length
            buffer = None
            if self._buffer is not None:
                buffer = self._buffer[start - request.offset : self._next - request.offset]
            piece = BlockRequest(
                request.operation, start, length, buffer, self._piece_done, fua=request.fua
            )
            self._in_flight.add(piece)
            device.inner.submit(piece)
        self._advancing = False
        if not self._in_flight:
            del device._splits[request]
            if self._error is None and self._next < end:
                self._error = TaskAborted(f"{request!r}: cancelled before all of it was started")
            request.complete(self._error)

    def _piece_done(self, piece: BlockRequest) -> None:
        self._in_flight.discard(piece)
        if piece.error is not None and (self._error is None or piece.offset < self._error_offset):
            self._error = piece.error
            self._error_offset = piece.offset
        self.advance()

    def cancel(self) -> None:
        self._cancelled = True
        for piece in list(self._in_flight):
            self._device.inner.cancel(piece)
