# SPDX-License-Identifier: Apache-2.0
"""The native channel: reads /dev/fuse itself and answers from the completions of the block device.

One wake-up of the descriptor takes up to 64 requests and submits each to the device; the answers to
what a turn has completed leave at its end, in one system call. No task, no future and no event
object is made per I/O; each request slot has one block request, which is used again. What is not
I/O is answered by :mod:`fusefs.fuse.requests`.

Requests are read into slots that outlive this process (:mod:`fusefs.fuse.slots`). A channel that is
given slots with requests in them does these first, and reads nothing new until all of them are
answered: a newer request may be meant to come after them.

The kernel may hand over more than we want to hold, so reading pauses while no slot is free. The
descriptor stays its owner's: it is closed after ``serve`` has returned and not before.

INVARIANT: every request but FORGET gets one answer, and FSYNC never ENOSYS: the kernel would never
ask again and report success. (tests: test_fsync_reaches_the_device_every_time)
"""

from __future__ import annotations

import errno
import os

import anyio
from anyio.abc import TaskStatus

from pyscsi_init.device.interface import BlockDevice

from . import abi
from .blockfile import FILE_ID
from .channel import Channel, ChannelStatistics, Reactor, Timer
from .inflight import ENDED, InFlight, SlotRequest
from .requests import PlainRequests
from .slotmemory import SMALL_BYTES, STRIDE
from .slots import (
    IN_SMALL_AREA,
    LOCATION_WORD,
    RECORD,
    RECORD_BYTES,
    UNIQUE_WORD,
    WORDS,
    RequestSlots,
)

DRAIN = 64
"""Requests taken per wake-up: enough to fill a batch, few enough that the network gets its turn."""

MAX_LARGE_BYTES = 64 << 20
"""How much the reads above 64 KiB that are in flight may ask for; the others are bounded by the
number of slots."""

IDLE_S = 5.0
"""After so long without I/O memory is given back."""

_LONELY_AFTER = 4
_LOOK_EVERY = 16

_RESENT = abi.UNIQUE_RESEND
_READ = int(abi.Opcode.READ)
_WRITE = int(abi.Opcode.WRITE)
_TAKEN_BACK = (errno.ENOENT, errno.EINTR)

_readv = os.readv
_unpack_record = RECORD.unpack_from


class NativeChannel(Channel):
    """Serves ``device`` over ``fd``, an open and mounted /dev/fuse that does not block.

    ``slots`` are those that whoever read this descriptor before has left, with what it had agreed
    on with the kernel, or fresh ones. Without them the channel has its own, which end with it.
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
        slots: RequestSlots | None = None,
    ) -> None:
        super().__init__(device, read_only=read_only, name=name, fua=fua)
        self._reactor = reactor
        self._fd = fd
        self._device = self.file.device
        self._size = self.file.size
        self._owns_slots = slots is None
        self.slots = slots if slots is not None else RequestSlots.create()
        self._in_flight = InFlight(
            fd, self.file, self.slots, self._statistics, reactor.at_end_of_turn
        )
        self._requests = self._in_flight.requests
        self._plain = PlainRequests(
            self.file, self._in_flight.send, self._flush, self._fallocate, self._agreed
        )
        self._answering = -1
        """The slot of the request that PlainRequests has now; -1 when it was kept."""
        self._started = False
        self._most_kept = 0
        self._replaying = False
        self._stopped = anyio.Event()
        self._drained = anyio.Event()
        self._lonely = 0
        self._idle_timer: Timer | None = None
        self._activity = 0

    @property
    def init(self) -> abi.InitReply | None:
        """What was agreed on with the kernel; None until it has asked."""
        return self.slots.init

    @property
    def statistics(self) -> ChannelStatistics:
        found, kept = self._statistics, self.slots.kept
        found.in_flight = kept
        found.max_in_flight = self._most_kept = max(self._most_kept, kept)
        return found

    # -- life -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin: what is outstanding in the slots is submitted, and when it is answered, requests
        are read. Call it on the reactor's thread, once."""
        self._started = True
        self._size = self.file.size
        self._device.size_changed.append(self._size_changed)
        self._replaying = True
        self._in_flight.landed = self._landed
        if self.slots.init is not None:
            self._statistics.unflushed_before = not self.file.read_only
            self._size_changed(self._size)  # as it may have, since the predecessor told
        for outstanding in self.slots.outstanding():
            self._replay(outstanding.slot)
        self._landed()  # again, as what is answered at once does not say so

    def stop(self) -> None:
        if self._started:
            self._started = False
            self._reactor.remove_reader(self._fd)
            self._device.size_changed.remove(self._size_changed)
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        self._in_flight.landed = self._landed
        self._stopped.set()
        if not self.slots.kept:
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
            self._in_flight.close()
            if self._owns_slots:
                self.slots.close()

    def request_resend(self) -> None:
        """Ask the kernel for everything that was read and not answered: for a successor that has no
        slots of its predecessor, or cannot read them. What is outstanding here is not done twice.
        Kernels before 6.9 do not know how: OSError with EINVAL."""
        os.write(self._fd, abi.resend())

    def _connection_ended(self) -> None:
        self.stop()
        self._end()

    def _agreed(self, reply: abi.InitReply) -> None:
        self.slots.init = reply

    def _size_changed(self, _: int) -> None:
        self._size = self.file.size
        # Attributes only (offset -1): the file is opened for direct I/O and has no cached pages,
        # and dropping pages could wait for a read that we have to answer.
        self._in_flight.send(abi.inval_inode(FILE_ID, -1, 0))

    # -- from the kernel ------------------------------------------------------------------------

    def _readable(self) -> None:
        # Locals all over: this is the hot path, and an attribute costs more.
        fd, slots, requests = self._fd, self.slots, self._requests
        device_size = self._size
        writable_size = -1 if self.file.read_only else device_size
        table, words, headers, free = slots.table, slots.words, slots.headers, slots.free
        slot, landing = slots.receiving, slots.areas[slots.landing]
        location = slots.landing + 1
        start, start_size = landing, -1
        # With one request at a time the second read only ever says EAGAIN, so it is left out until
        # now and then a full round looks whether there are more.
        lonely = self._lonely
        limit = 1 if lonely > _LONELY_AFTER and lonely % _LOOK_EVERY else DRAIN
        count = 0
        while count < limit:
            try:
                length = _readv(fd, (headers[slot], landing))
            except BlockingIOError:
                break
            except OSError as error:
                words[slot * WORDS + UNIQUE_WORD] = 0  # what was copied of it is no request
                if error.errno in ENDED:
                    self._connection_ended()
                    return
                if error.errno in _TAKEN_BACK:
                    continue
                raise
            if length < abi.IN_HEADER_LENGTH:
                self._connection_ended()
                return
            count += 1
            opcode, unique, offset, size, flags = _unpack_record(table, slot * STRIDE)
            if unique >= _RESENT and self._is_known(slot, unique):
                continue
            request = requests[slot]
            slots.receiving = -1  # from here on the slot belongs to its request
            if opcode == _READ and offset + size <= device_size and size:
                request.unique = unique
                self._in_flight.read(request, offset, size)
            elif opcode == _WRITE and size <= SMALL_BYTES and offset + size <= writable_size:
                request.unique = unique
                if request.small_size != size:
                    request.small = slots.small_payload(slot, size)
                    request.small_size = size
                if start_size != size:
                    start, start_size = landing[:size], size
                request.small[:] = start
                words[slot * WORDS + LOCATION_WORD] = IN_SMALL_AREA
                self._in_flight.write(request, request.small, offset, flags)
            else:
                self._take_other(request, opcode, size)
                if not self._started:
                    return
                if not slots.prepare():
                    self._pause()
                    return
                slot, landing = slots.receiving, slots.areas[slots.landing]
                location = slots.landing + 1
                start_size = -1
                continue
            if not free or self._in_flight.large_bytes >= MAX_LARGE_BYTES:
                self._pause()
                return
            slots.receiving = slot = free.pop()
            words[slot * WORDS + LOCATION_WORD] = location
        self._lonely = lonely + 1 if count <= 1 else 0
        kept = slots.count - len(free) - 1
        if kept > self._most_kept:
            self._most_kept = kept
        if self._idle_timer is None:
            self._watch_idleness()

    def _is_known(self, slot: int, unique: int) -> bool:
        """Whether a request that was sent again is under way: then its answer goes out under the
        new number, as the kernel does not know the old one any more."""
        words = self.slots.words
        for known in self.slots.outstanding():
            if known.slot != slot and known.unique | abi.UNIQUE_RESEND == unique:
                words[known.slot * WORDS + UNIQUE_WORD] = unique
                self._in_flight.renumber(self._requests[known.slot], unique)
                words[slot * WORDS + UNIQUE_WORD] = 0
                return True
        return False

    def _take_other(self, request: SlotRequest, opcode: int, size: int) -> None:
        """Do what was just read and is not as most are."""
        if opcode == _WRITE:
            if size <= SMALL_BYTES:
                self.slots.copy_payload(request.slot, size)
            else:
                request.area = self.slots.keep_landing()
        self._begin(request)

    def _replay(self, slot: int) -> None:
        """Do what an earlier process has read and not answered."""
        request = self._requests[slot]
        request.area = self.slots.claims.pop(slot, -1)
        self._begin(request)

    def _begin(self, request: SlotRequest) -> None:
        """Do the request whose slot is complete and belongs to it."""
        slots, file, slot = self.slots, self.file, request.slot
        length, opcode, _, node, *_ = abi.IN_HEADER.unpack_from(slots.headers[slot])
        _, request.unique, offset, size, flags = _unpack_record(slots.table, slot * STRIDE)
        if opcode == _READ:
            size = file.readable(offset, size)
            if size:
                self._in_flight.read(request, offset, size)
            else:
                self._in_flight.send(abi.reply(request.unique))
                self._in_flight.clear(request)
        elif opcode == _WRITE:
            refusal = file.refuse_write(offset, size)
            if size != length - RECORD_BYTES:
                refusal = errno.EIO  # never read to its end, and so the kernel has ended it
            if refusal:
                self._statistics.failed(os.strerror(refusal))
                self._in_flight.send(abi.error_reply(request.unique, refusal))
                self._in_flight.clear(request)
            else:
                payload = slots.payload(slot)[: file.readable(offset, size)]
                self._in_flight.write(request, payload, offset, flags)
        else:
            self._answering = slot
            self._plain.handle(opcode, request.unique, node, slots.message(slot, length))
            if self._answering >= 0:
                self._in_flight.clear(request)

    def _kept(self) -> SlotRequest:
        """The request that PlainRequests has now; it keeps its slot until it is answered."""
        slot, self._answering = self._answering, -1
        return self._requests[slot]

    def _flush(self, _unique: int) -> None:
        self._in_flight.flush(self._kept())

    def _fallocate(self, _unique: int, mode: int, offset: int, length: int) -> None:
        self._in_flight.fallocate(self._kept(), mode, offset, length)

    # -- in flight ------------------------------------------------------------------------------

    def _pause(self) -> None:
        self._in_flight.landed = self._landed
        self._reactor.remove_reader(self._fd)
        self._most_kept = max(self._most_kept, self.slots.kept)

    def _landed(self) -> None:
        """A request was answered, and somebody waits for that."""
        if self._in_flight.landed is None:
            return
        if self._started:
            if self._replaying and self.slots.kept:
                return
            self._replaying = False
            if self._in_flight.large_bytes < MAX_LARGE_BYTES and self.slots.prepare():
                self._in_flight.landed = None
                self._reactor.add_reader(self._fd, self._readable)
        elif not self.slots.kept:
            self._drained.set()

    def _watch_idleness(self) -> None:
        self._activity = self._statistics.reads + self._statistics.writes
        self._idle_timer = self._reactor.call_at(self._reactor.now() + IDLE_S, self._look_idle)

    def _look_idle(self) -> None:
        self._idle_timer = None
        seen = self._statistics.reads + self._statistics.writes
        if seen != self._activity or self.slots.kept:
            self._watch_idleness()
            return
        # The next wake-up begins to watch again.
        self._in_flight.trim()
        self.slots.trim()
