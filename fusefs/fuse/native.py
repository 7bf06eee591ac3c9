# SPDX-License-Identifier: Apache-2.0
"""The native channel: reads /dev/fuse itself and answers from the completions of the block device.

One wake-up of the descriptor takes up to 64 requests and submits each to the device; an answer
leaves from the completion, with one ``writev`` that takes header and data from where they are. No
task, no future and no event object is made per I/O. What is not I/O is answered by
:mod:`fusefs.fuse.requests`.

The kernel may hand over more than we want to hold, so reading pauses while too much is in flight.
The descriptor stays its owner's: it is closed after ``serve`` has returned and not before.

INVARIANT: every request but FORGET gets one answer, and FSYNC never ENOSYS: the kernel would never
ask again and report success. (tests: test_fsync_reaches_the_device_every_time)
"""

from __future__ import annotations

import errno
import logging
import os
from typing import Any

import anyio
from anyio.abc import TaskStatus

from pyscsi_init.device.interface import BlockDevice, BlockRequest, Operation

from . import abi
from .blockfile import FILE_ID, run_steps
from .buffers import RequestBuffers
from .channel import Channel, Reactor
from .errno import errno_of
from .requests import PlainRequests

log = logging.getLogger(__name__)

DRAIN = 64
"""Requests taken per wake-up: enough to fill a batch, few enough that the network gets its turn."""

COPY_MAX = 64 << 10
"""Payloads up to here are copied out of the slot; copying is cheaper than another megabyte."""

MAX_IN_FLIGHT = 512
MAX_IN_FLIGHT_BYTES = 64 << 20

_LONELY_AFTER = 4
_LOOK_EVERY = 16

_unpack_header = abi.IN_HEADER.unpack_from
_unpack_io = abi.READ_IN.unpack_from
_pack_out = abi.OUT_HEADER.pack


class NativeChannel(Channel):
    """Serves ``device`` over ``fd``, an open and mounted /dev/fuse that does not block.

    ``init`` is what an earlier reader of this descriptor agreed on with the kernel; it is needed to
    go on where that one ended, because FUSE_INIT comes only once.
    """

    def __init__(
        self,
        reactor: Reactor,
        fd: int,
        device: BlockDevice,
        *,
        read_only: bool = False,
        name: str = "lun",
        fua: bool = False,
        init: abi.InitReply | None = None,
        buffers: RequestBuffers | None = None,
    ) -> None:
        super().__init__(device, read_only=read_only, name=name, fua=fua)
        self._reactor = reactor
        self._fd = fd
        self._device = self.file.device
        self._buffers = buffers or RequestBuffers()
        self._plain = PlainRequests(self.file, self._send, self._flush, self._fallocate, init=init)
        self._bytes_in_flight = 0
        self._started = False
        self._paused = False
        self._stopped = anyio.Event()
        self._drained = anyio.Event()
        self._lonely = 0

    @property
    def init(self) -> abi.InitReply | None:
        """What was agreed on with the kernel; None until it has asked."""
        return self._plain.init

    # -- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to read requests. Call it on the reactor's thread, once."""
        self._started = True
        self._device.size_changed.append(self._size_changed)
        self._reactor.add_reader(self._fd, self._readable)

    def stop(self) -> None:
        if self._started:
            self._started = False
            self._reactor.remove_reader(self._fd)
            self._device.size_changed.remove(self._size_changed)
        self._stopped.set()
        if not self.statistics.in_flight:
            self._drained.set()

    async def serve(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        if not self._started:
            self.start()
        task_status.started()
        try:
            await self._stopped.wait()
        finally:
            self.stop()
            with anyio.CancelScope(shield=True):
                await self._drained.wait()

    def request_resend(self) -> None:
        """Ask the kernel for everything that was read and not answered, as after the death of an
        earlier reader. Kernels before 6.9 do not know how: OSError with EINVAL."""
        os.write(self._fd, abi.resend())

    def _connection_ended(self) -> None:
        self.stop()
        self._end()

    def _size_changed(self, _: int) -> None:
        # Attributes only (offset -1): the file is opened for direct I/O and has no cached pages,
        # and dropping pages could wait for a read that we have to answer.
        self._send(abi.inval_inode(FILE_ID, -1, 0))

    # -- from the kernel ------------------------------------------------------------------------

    def _readable(self) -> None:
        fd, buffers = self._fd, self._buffers
        # With one request at a time the second read only ever says EAGAIN, so it is left out until
        # now and then a full round looks whether there are more.
        lonely = self._lonely
        limit = 1 if lonely > _LONELY_AFTER and lonely % _LOOK_EVERY else DRAIN
        count = 0
        while count < limit:
            message = buffers.receiving()
            if message is None or not self._has_room():
                self._pause()
                return
            try:
                length = os.readv(fd, (message,))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in (errno.ENODEV, errno.ECONNABORTED):
                    self._connection_ended()
                    return
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue  # the request was taken back while it was read
                raise
            if length < abi.IN_HEADER_LENGTH:
                self._connection_ended()
                return
            count += 1
            _, opcode, unique, node, _, _, _, _, _ = _unpack_header(message)
            if opcode == abi.Opcode.READ:
                self._read(unique, message)
            elif opcode == abi.Opcode.WRITE:
                self._write(unique, message)
            else:
                self._plain.handle(opcode, unique, node, message[:length])
            if not self._started:
                return
        self._lonely = lonely + 1 if count <= 1 else 0

    def _has_room(self) -> bool:
        return (
            self.statistics.in_flight < MAX_IN_FLIGHT
            and self._bytes_in_flight < MAX_IN_FLIGHT_BYTES
        )

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._reactor.remove_reader(self._fd)

    def _read(self, unique: int, message: memoryview) -> None:
        _, offset, size, _, _, _, _ = _unpack_io(message, abi.IN_HEADER_LENGTH)
        size = self.file.readable(offset, size)
        if not size:
            self._send(abi.reply(unique))
            return
        self._take_off(size)
        buffer = self._buffers.take(size)
        self._device.submit(
            BlockRequest(Operation.READ, offset, size, buffer, self._read_done, context=unique)
        )

    def _write(self, unique: int, message: memoryview) -> None:
        _, offset, size, _, _, flags, _ = _unpack_io(message, abi.IN_HEADER_LENGTH)
        refusal = self.file.refuse_write(offset, size)
        if refusal:
            self.statistics.errors += 1
            self._send(abi.error_reply(unique, refusal))
            return
        size = self.file.readable(offset, size)
        data = message[abi.WRITE_DATA_OFFSET : abi.WRITE_DATA_OFFSET + size]
        self._take_off(size)
        # O_DSYNC on a file opened for direct I/O: the kernel leaves the syncing to us.
        fua = self.file.fua or bool(flags & os.O_DSYNC)
        if size <= COPY_MAX:
            request = BlockRequest(
                Operation.WRITE,
                offset,
                size,
                bytes(data),
                self._write_done,
                fua=fua,
                context=unique,
            )
        else:
            request = BlockRequest(
                Operation.WRITE,
                offset,
                size,
                data,
                self._kept_write_done,
                fua=fua,
                context=(unique, self._buffers.keep()),
            )
        self._device.submit(request)

    def _flush(self, unique: int) -> None:
        self._take_off(0)
        self._device.submit(
            BlockRequest(
                Operation.FLUSH,
                0,
                0,
                None,
                self._flush_done,
                context=(unique, self.statistics.writes),
            )
        )

    def _fallocate(self, unique: int, mode: int, offset: int, length: int) -> None:
        def done(error: Exception | None) -> None:
            self.statistics.discards += 1
            self._answer(unique, error)
            self._land(0)

        self._take_off(0)
        try:
            steps = self.file.fallocate(mode, offset, length)
        except OSError as refusal:
            done(refusal)
        else:
            run_steps(self._device, steps, done, fua=self.file.fua)

    # -- to the kernel --------------------------------------------------------------------------
    # Any: ``context`` and ``buffer`` are what was put in above, and a check per I/O proves nothing.

    def _read_done(self, request: Any) -> None:
        buffer = request.buffer
        unique = request.context
        if request.error is None:
            self.statistics.reads += 1
            self.statistics.bytes_read += request.length
            header = _pack_out(abi.OUT_HEADER_LENGTH + request.length, 0, unique)
            self._send(header, buffer)
        else:
            self._answer(unique, request.error)
        self._buffers.give_back(buffer)
        self._land(request.length)

    def _write_done(self, request: Any) -> None:
        if request.error is None:
            self.statistics.writes += 1
            self.statistics.bytes_written += request.length
            self._send(abi.write_reply(request.context, request.length))
        else:
            self._answer(request.context, request.error)
        self._land(request.length)

    def _kept_write_done(self, request: Any) -> None:
        request.context, slot = request.context
        self._buffers.release(slot)
        self._write_done(request)

    def _flush_done(self, request: Any) -> None:
        statistics = self.statistics
        statistics.flushes += 1
        unique, written_before = request.context
        if request.error is None:
            statistics.flushed_writes = max(statistics.flushed_writes, written_before)
        self._answer(unique, request.error)
        self._land(0)

    def _answer(self, unique: int, error: Exception | None) -> None:
        if error is None:
            self._send(abi.reply(unique))
            return
        self.statistics.errors += 1
        number = error.errno if isinstance(error, OSError) else errno_of(error)
        self._send(abi.error_reply(unique, number or errno.EIO))

    def _send(self, *parts: bytes | memoryview) -> None:
        """Write one answer or notification. Never raises: it runs in the device's completion."""
        try:
            os.writev(self._fd, parts)
        except OSError as error:
            # ENOENT: taken back, or nothing cached to invalidate. ENODEV and ECONNABORTED: the
            # connection ended, which the next read will tell.
            if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ECONNABORTED):
                log.error(  # noqa: TRY400  (the errno says all)
                    "an answer to the kernel was refused: %s", error
                )

    # -- in flight ------------------------------------------------------------------------------

    def _take_off(self, size: int) -> None:
        statistics = self.statistics
        statistics.in_flight += 1
        if statistics.in_flight > statistics.max_in_flight:
            statistics.max_in_flight = statistics.in_flight
        self._bytes_in_flight += size

    def _land(self, size: int) -> None:
        self._bytes_in_flight -= size
        self.statistics.in_flight -= 1
        if self._paused and self._has_room():
            self._paused = False
            if self._started:
                self._reactor.add_reader(self._fd, self._readable)
        if not (self._started or self.statistics.in_flight):
            self._drained.set()
