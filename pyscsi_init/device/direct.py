# SPDX-License-Identifier: Apache-2.0
"""The whole stack of one LUN, with a short cut for what it is asked most: whole blocks.

The layers (alignment, splitting, SCSI commands) each have one thing to see to, and for an aligned
READ or WRITE within the limits none of them has anything to do. So these go from here straight to
the session, as tasks that are used again, and come straight back if their status is GOOD. Anything
else takes the way through the layers; what began here and ends unusually is handed to them
(``_hand_over``), who then treat it as if it had come their way.

INVARIANT: a read-modify-write waits for the writes under way on its blocks also where these took
the short cut. (tests/pyscsi_init/device/test_direct.py)
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Any

from ..scsi import Opcode
from ..session import Replay, ScsiTask
from .alignment import AlignmentDevice
from .interface import BlockRequest, Operation
from .scsi_block import ScsiBlockDevice
from .splitting import SplittingDevice

_pack_10 = Struct(">BBIBHB").pack
"""READ(10) and WRITE(10) (SBC-3 5.10, 5.32): opcode, flags, LBA, group number, blocks, control."""
_pack_16 = Struct(">BBQIBB").pack
"""READ(16) and WRITE(16) (SBC-3 5.11, 5.33): opcode, flags, LBA, blocks, group number, control."""
_READ_10, _WRITE_10 = int(Opcode.READ_10), int(Opcode.WRITE_10)
_READ_16, _WRITE_16 = int(Opcode.READ_16), int(Opcode.WRITE_16)
_FUA = 0x08
_FLUSH = int(Operation.FLUSH)
_MOST_DIRECT = int(Operation.WRITE)
"""READ and WRITE come before all other operations."""
_LAST_32 = 1 << 32
_MOST_BLOCKS_10 = 0xFFFF


class DirectDevice(AlignmentDevice):
    """Any offset, any length, any size of request, on one LUN of one session."""

    def __init__(self, unit: ScsiBlockDevice) -> None:
        super().__init__(SplittingDevice(unit))
        self.unit = unit
        self._session = unit.session
        self._command = unit.session.start
        self._readers: list[ScsiTask] = []
        self._writers: list[ScsiTask] = []
        self._flushers: list[ScsiTask] = []
        self._timeout = unit.commands.timeout(Operation.READ)
        self._flush_timeout = unit.commands.timeout(Operation.FLUSH)
        size = unit.block_size
        self._mask = size - 1
        self._shift = size.bit_length() - 1
        # Block lengths such as 520 are no powers of two: those take the way through the layers.
        self._usual = not size & self._mask
        self._longest = unit.limits.max_transfer_bytes
        self._carries_fua = unit.commands.carries_fua(Operation.WRITE)
        self._watch = unit.watch
        unit.short_cut = self._allow_short_cut

    def _broken(self) -> bool:
        return self._session.reactor.failure is not None

    def submit(self, request: BlockRequest) -> None:
        """Start one request of any kind."""
        operation = request.operation
        offset = request.offset
        length = request.length
        buffer = request.buffer
        unit = self.unit
        if operation == _FLUSH:
            if (
                unit.commands.flush_needed
                and self._longest
                and self._usual
                and not self._watch.suspicious
            ):
                self._flush(request)
            else:
                super().submit(request)
            return
        if (
            operation > _MOST_DIRECT
            or (offset | length) & self._mask
            or not 0 < length <= self._longest
            or not 0 <= offset <= unit.size_bytes - length
            or self._watch.suspicious
            or not self._usual
            or buffer is None
            or len(buffer) != length
        ):
            super().submit(request)
            return
        lba = offset >> self._shift
        blocks = length >> self._shift
        short = lba + blocks <= _LAST_32 and blocks <= _MOST_BLOCKS_10
        if type(buffer) is not memoryview:
            buffer = memoryview(buffer)
        if operation:
            if (
                unit.read_only
                or self._modifying
                or self._waiting
                # The start of the disk bears witness to what it is; its writes are followed.
                or offset < self._watch.witness.length
                or (request.fua and not self._carries_fua)
            ):
                super().submit(request)
                return
            task = self._writers.pop() if self._writers else self._new_task(self._written_directly)
            flags = _FUA if request.fua else 0
            task.cdb = (
                _pack_10(_WRITE_10, flags, lba, 0, blocks, 0)
                if short
                else _pack_16(_WRITE_16, flags, lba, blocks, 0, 0)
            )
            task.data_out = buffer
        else:
            task = self._readers.pop() if self._readers else self._new_task(self._read_directly)
            task.cdb = (
                _pack_10(_READ_10, 0, lba, 0, blocks, 0)
                if short
                else _pack_16(_READ_16, 0, lba, blocks, 0, 0)
            )
            task.data_in = buffer
        task.context = request
        session = self._session
        if not self._command(task):
            session.submit(task)
        elif not session.in_turn:
            session.begin_turn()

    def _flush(self, request: BlockRequest) -> None:
        task = self._flushers.pop() if self._flushers else self._new_task(self._flushed_directly)
        task.cdb = self.unit.commands.flush_cdb()
        task.context = request
        session = self._session
        if not self._command(task):
            session.submit(task)
        elif not session.in_turn:
            session.begin_turn()

    def _allow_short_cut(self, allowed: bool) -> None:
        self._longest = self.unit.limits.max_transfer_bytes if allowed else 0

    def _new_task(self, completion: Any) -> ScsiTask:
        return ScsiTask(
            self.unit.lun,
            b"",
            completion,
            replay=Replay.SAFE,
            modifies=completion == self._written_directly,
            timeout=self._flush_timeout if completion == self._flushed_directly else self._timeout,
        )

    # -- completions: Any, because ``context`` is the request that was put there above ------------

    def _read_directly(self, task: Any) -> None:
        if (
            task.status
            or task.error is not None
            or task.residual_count
            or task.attempts != 1
            or task.silences
        ):
            self._hand_over(task)
            return
        request = task.context
        task.context = task.data_in = None
        task.attempts = task.received = task.data_sn = 0
        task.status = -1
        self._readers.append(task)
        request.error = None
        request.completion(request)

    def _written_directly(self, task: Any) -> None:
        if (
            task.status
            or task.error is not None
            or task.residual_count
            or task.attempts != 1
            or task.silences
        ):
            self._hand_over(task)
            return
        request = task.context
        task.context = task.data_out = None
        task.attempts = task.r2t_sn = task.solicited = 0
        task.status = -1
        self._writers.append(task)
        if self._waiting:
            self._wake()
        request.error = None
        request.completion(request)

    def _flushed_directly(self, task: Any) -> None:
        if task.status or task.error is not None or task.attempts != 1 or task.silences:
            self._hand_over(task)
            return
        request = task.context
        task.context = None
        task.attempts = 0
        task.status = -1
        self._flushers.append(task)
        request.complete(self.unit.lost_earlier())

    # -- what is not usual -----------------------------------------------------------------------

    def _hand_over(self, task: ScsiTask) -> None:
        """A task of ours has ended, and not as usual: from here the layers see to its request."""
        self._adopt(task)
        task.completion(task)

    def _adopt(self, task: ScsiTask) -> None:
        request = task.context
        assert isinstance(request, BlockRequest)  # noqa: S101  (for mypy: submit put it there)
        if request.operation is Operation.WRITE:
            self._follow(request)
        self.unit.adopt(request, task)

    def _direct_tasks(self) -> Iterator[ScsiTask]:
        """Our tasks that have not ended."""
        ours = (self._read_directly, self._written_directly, self._flushed_directly)
        for task in self._session.tasks():
            if task.completion in ours:
                yield task

    def _writes_below(self) -> list[BlockRequest]:
        direct = [task.context for task in self._direct_tasks() if task.data_out is not None]
        return [*super()._writes_below(), *direct]  # type: ignore[list-item]

    def cancel(self, request: BlockRequest) -> None:
        # What reads whole blocks for an unaligned request comes through ``submit`` as well.
        ours = self._delegates.get(request, request)
        for task in self._direct_tasks():
            if task.context is ours:
                self._session.abort_task(task)
                return
        super().cancel(request)

    async def aclose(self) -> None:
        """Release the unit; see :meth:`ScsiBlockDevice.aclose`. The session stays open."""
        self._usual = False
        for task in self._direct_tasks():
            self._adopt(task)
        await super().aclose()
