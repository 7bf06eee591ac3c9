# SPDX-License-Identifier: Apache-2.0
"""The block device: one primitive, and an async face on it.

Every layer between an iSCSI session and a FUSE file speaks this interface, so RAM, a LUN, a fault
injector and a splitter stack in any order. The primitive is :meth:`BlockDevice.submit`: a request
carries its own completion, so the data path needs no task, no future and no event per I/O. The
coroutines ``read write flush discard write_zeroes`` are a face on it for everybody else.

It knows nothing of SCSI, of FUSE, or of the event loop that drives it.
"""

from __future__ import annotations

import enum
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from threading import get_ident

import anyio
import anyio.lowlevel

from ..buffers import Buffer, byte_view
from ..errors import LocalProtocolError, OutOfRange, ReadOnlyDevice

_LOOK_S = 0.25
"""Between two looks whether the device is broken, for a caller that is cancelled."""


class Operation(enum.IntEnum):
    """What a request asks for."""

    READ = 0
    WRITE = 1
    FLUSH = 2
    DISCARD = 3
    WRITE_ZEROES = 4


class BlockRequest:
    """One operation on a byte range, with its completion.

    ``buffer`` is the destination of a READ (writable, exactly ``length`` bytes) or the source of a
    WRITE (exactly ``length`` bytes, not changed by the device, not to be changed by the caller
    before completion). It is None for the others. ``fua`` asks for a WRITE, DISCARD or WRITE_ZEROES
    that is on stable storage when it completes.

    The device calls ``completion(request)`` exactly once, possibly before ``submit`` returns, on
    the thread of the event loop; ``error`` is then None or what went wrong. ``context`` is the
    caller's.
    """

    __slots__ = ("buffer", "completion", "context", "error", "fua", "length", "offset", "operation")

    def __init__(
        self,
        operation: Operation,
        offset: int,
        length: int,
        buffer: Buffer | None,
        completion: Callable[[BlockRequest], None],
        *,
        fua: bool = False,
        context: object = None,
    ) -> None:
        self.operation = operation
        self.offset = offset
        self.length = length
        self.buffer = buffer
        self.completion = completion
        self.fua = fua
        self.context = context
        self.error: Exception | None = None

    def complete(self, error: Exception | None = None) -> None:
        """Finish the request; called by the device, once."""
        self.error = error
        self.completion(self)

    def __repr__(self) -> str:
        return f"<BlockRequest {self.operation.name} {self.offset}+{self.length}>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a device takes, in bytes. A layer above splits to it; 0 means not limited or not
    known."""

    max_transfer_bytes: int = 0
    """Largest READ or WRITE."""
    optimal_transfer_bytes: int = 0
    """A size that the device likes; a hint."""
    max_discard_bytes: int = 0
    discard_granularity_bytes: int = 0
    discard_alignment_bytes: int = 0
    max_write_zeroes_bytes: int = 0


class BlockDevice(ABC):
    """A fixed-size (until it changes) array of bytes.

    Offsets and lengths are bytes. A device says by ``block_size`` what it takes without help:
    requests that are no multiples of it are refused with LocalProtocolError unless the device's
    docstring says that it takes any alignment (``any_alignment``).
    """

    size_bytes: int
    block_size: int
    physical_block_size: int
    read_only: bool
    can_discard: bool
    can_write_zeroes: bool
    discard_zeroes: bool
    """Discarded blocks read as zeros."""
    any_alignment: bool = False
    limits: Limits = Limits()
    _thread: int = 0
    """The only thread that may use the async face, where that matters."""

    def __init__(self) -> None:
        self.size_changed: list[Callable[[int], None]] = []
        """Called with the new size in bytes, on the event loop's thread."""

    @abstractmethod
    def submit(self, request: BlockRequest) -> None:
        """Start one request. Never blocks and never raises: errors come with the completion.

        Requests in flight at the same time are not ordered, whatever their ranges: a caller that
        needs order waits for the completion of the first. FLUSH makes stable every write that was
        completed before the FLUSH was submitted.
        """

    def cancel(self, request: BlockRequest) -> None:  # noqa: B027  (a device may have no way)
        """Ask that a request in flight ends soon. It still completes exactly once, with TaskAborted
        or with what it came to; the range of a cancelled write may hold old or new data. A request
        that is already complete is left alone."""

    @abstractmethod
    async def aclose(self) -> None:
        """Release the device. Requests in flight complete first, with or without error."""

    async def __aenter__(self) -> BlockDevice:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def _broken(self) -> bool:
        """Whether what completes requests has failed, so that some may never complete."""
        return False

    # -- the async face -------------------------------------------------------------------------

    async def _run(
        self,
        operation: Operation,
        offset: int,
        length: int,
        buffer: Buffer | None,
        fua: bool = False,
    ) -> None:
        if self._thread and get_ident() != self._thread:
            raise LocalProtocolError(
                f"{self!r} belongs to the event loop of another thread: have that loop call it "
                "(anyio.from_thread.run), or use pyscsi_init.blocking"
            )
        event: anyio.Event | None = None
        finished = False
        if type(offset) is not int or type(length) is not int:
            offset, length = operator.index(offset), operator.index(length)

        def completion(_: BlockRequest) -> None:
            nonlocal finished
            finished = True
            if event is not None:
                event.set()

        request = BlockRequest(operation, offset, length, buffer, completion, fua=fua)
        self.submit(request)
        if not finished:
            event = anyio.Event()
            try:
                await event.wait()
            except BaseException:
                # The device owns the buffer until it completes, so a cancelled caller still waits
                # for that: a buffer that is reused too early would be torn. Only a device that is
                # broken may have lost the request.
                self.cancel(request)
                with anyio.CancelScope(shield=True):
                    while not finished and not self._broken():
                        with anyio.move_on_after(_LOOK_S):
                            await event.wait()
                raise
        await anyio.lowlevel.checkpoint_if_cancelled()
        if request.error is not None:
            raise request.error

    async def read(self, offset: int, length: int) -> bytes:
        """Return exactly ``length`` bytes from ``offset``.

        Raises:
            OutOfRange: the range ends beyond the device.
            IscsiError: the device could not read (see :mod:`pyscsi_init.errors`).

        Cancellation: waits until the device has let go of the buffer, then raises; nothing changes.
        """
        try:
            data = bytearray(operator.index(length))
        except (MemoryError, OverflowError, ValueError):
            if 0 <= length <= self.size_bytes:
                raise
            raise out_of_range(Operation.READ.name, offset, length, self.size_bytes) from None
        await self._run(Operation.READ, offset, length, data)
        return bytes(data)

    async def read_into(self, offset: int, buffer: bytearray | memoryview) -> None:
        """Fill ``buffer`` from ``offset``; the same as :meth:`read` without the copy.

        ``buffer`` may be any writable object with the buffer protocol whose memory is in one piece;
        it is filled byte by byte, whatever its items are.
        """
        view = byte_view("read_into", buffer, writable=True)
        await self._run(Operation.READ, offset, len(view), view)

    async def write(self, offset: int, data: Buffer, *, fua: bool = False) -> None:
        """Write all of ``data`` at ``offset``; with ``fua`` it is on stable storage on return.

        ``data`` may be any object with the buffer protocol whose memory is in one piece; its bytes
        are written, whatever its items are.

        Raises:
            OutOfRange: the range ends beyond the device; nothing was written.
            ReadOnlyDevice: the device is read-only.
            IscsiError: the device could not write; any part of the range may hold old or new data.

        Cancellation: the write goes on to its end; only then the cancellation is raised.
        """
        if type(data) is not bytes:
            data = byte_view("write", data)
        await self._run(Operation.WRITE, offset, len(data), data, fua)

    async def flush(self) -> None:
        """Return when all completed writes are on stable storage (SYNCHRONIZE CACHE)."""
        await self._run(Operation.FLUSH, 0, 0, None)

    async def discard(self, offset: int, length: int) -> None:
        """Tell the device that the range is not needed; its content is undefined afterwards, unless
        ``discard_zeroes``. Raises Unsupported where the device cannot."""
        await self._run(Operation.DISCARD, offset, length, None)

    async def write_zeroes(self, offset: int, length: int, *, fua: bool = False) -> None:
        """Make the range read as zeros, by the cheapest way that the device has."""
        await self._run(Operation.WRITE_ZEROES, offset, length, None, fua)


def out_of_range(what: str, offset: int, length: int, size_bytes: int) -> OutOfRange:
    """The error of a range that is not on the device."""
    if length < 0:
        why = "has a negative length"
    elif offset < 0:
        why = "begins before the device"
    else:
        why = f"ends beyond the device of {size_bytes} bytes"
    return OutOfRange(f"{what} of {length} bytes at {offset} {why}")


def check_range(device: BlockDevice, request: BlockRequest) -> Exception | None:
    """The checks that every device owes, in one place: range, buffer, alignment, read-only.

    Returns the error to complete the request with, or None.
    """

    operation = request.operation
    if operation is Operation.FLUSH:
        return None
    offset, length = request.offset, request.length
    if offset < 0 or length < 0 or offset + length > device.size_bytes:
        return out_of_range(operation.name, offset, length, device.size_bytes)
    if operation is not Operation.READ and device.read_only:
        return ReadOnlyDevice(f"{operation.name} at {offset}: the device is read-only")
    if operation in (Operation.READ, Operation.WRITE) and (
        request.buffer is None or len(request.buffer) != length
    ):
        return LocalProtocolError(
            f"{operation.name} of {length} bytes needs a buffer of that length"
        )
    if not device.any_alignment and (offset % device.block_size or length % device.block_size):
        return LocalProtocolError(
            f"{operation.name} of {length} bytes at {offset} is not aligned to blocks of "
            f"{device.block_size} bytes"
        )
    return None
