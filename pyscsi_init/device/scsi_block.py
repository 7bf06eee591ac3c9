# SPDX-License-Identifier: Apache-2.0
"""A logical unit as a block device: byte ranges in whole blocks become SCSI commands.

It chooses the command (10 or 16 bytes, UNMAP or WRITE SAME, FUA or a flush after it) from what the
unit said at attach, and answers what the unit says later: unit attentions are taken and the command
repeated, a unit that is busy is asked again, a changed capacity changes the size. Splitting to the
unit's limits and odd alignments are for the layers above.

Each request is one task; the completion of the task completes the request. A retry is a new task,
because the command before it was not executed (SAM: a unit attention or busy status).
"""

from __future__ import annotations

import logging

from ..errors import IdentityMismatch, IscsiError, ProtocolError, TaskAborted, Unsupported
from ..scsi import REPEATABLE, Action, Opcode, Status, parse_sense, scsi_error, sense_action
from ..session import Replay, ScsiTask
from ..transport import Session
from .driver import drive
from .identity import ContentWitness, check_same_unit
from .interface import BlockDevice, BlockRequest, Operation, check_range
from .probe import Capacity, UnitFacts, probe_capacity, probe_identity, read_head
from .recovery import barrier
from .unit_commands import UnitCommands

log = logging.getLogger("pyscsi_init.device")

MAX_RETRIES = 20
"""Unit attentions and transport-caused aborts in a row on one request."""

MAX_DELAYED_RETRIES = 90
"""Waits of at most a second: a failover of a target that answers BUSY takes tens of seconds."""

_MODIFYING = frozenset({Operation.WRITE, Operation.DISCARD, Operation.WRITE_ZEROES})

_TRANSFERS = frozenset({Opcode.READ_10, Opcode.READ_16, Opcode.WRITE_10, Opcode.WRITE_16})
"""Commands whose every byte matters. WRITE SAME is none: targets count its residual in two ways."""

_LOOK_AGAIN = frozenset(
    {
        Action.REREAD_CAPACITY,
        Action.REREAD_IDENTITY,
        Action.RESCAN_LUNS,
        Action.OUT_OF_RANGE,
    }
)


class ScsiBlockDevice(BlockDevice):
    """One LUN of one session. Takes whole blocks, within ``limits``."""

    def __init__(
        self,
        session: Session,
        lun: bytes,
        what: str,
        facts: UnitFacts,
        head: bytes,
        *,
        read_only: bool,
    ) -> None:
        super().__init__()
        self.session = session
        self.lun = lun
        self.what = what
        self.facts = facts
        self.identity = facts.identity
        self.witness = ContentWitness(head)
        self.commands = UnitCommands(facts, session.settings)
        capacity = facts.capacity
        self.size_bytes = capacity.blocks * capacity.block_size
        self.block_size = capacity.block_size
        self.physical_block_size = capacity.physical_block_size
        self.read_only = read_only or facts.write_protected
        self.can_discard = self.commands.can_discard and not self.read_only
        self.can_write_zeroes = not self.read_only
        self.discard_zeroes = capacity.unmapped_reads_zero
        self.limits = self.commands.limits
        self._tasks: dict[BlockRequest, ScsiTask | None] = {}
        self._retries: dict[BlockRequest, tuple[int, int]] = {}
        self._then_flush: set[BlockRequest] = set()
        self._held: list[BlockRequest] = []
        self._rechecking = False
        self._refreshing = False
        session.restorers.append(self._restore)

    # -- requests --------------------------------------------------------------------------------

    def submit(self, request: BlockRequest) -> None:
        """Start one request of whole blocks within the limits of the unit."""
        error = check_range(self, request)
        if error is None and request.operation is Operation.DISCARD and not self.can_discard:
            error = Unsupported(f"DISCARD: {self.what} has no thin provisioning")
        if error is not None or (not request.length and request.operation is not Operation.FLUSH):
            request.complete(error)
            return
        if request.operation is Operation.FLUSH and not self.commands.flush_needed:
            request.complete()
            return
        if request.offset < self.witness.length and request.operation in _MODIFYING:
            self._witness_started(request)
        self._send(request)

    def _send(self, request: BlockRequest) -> None:
        operation = request.operation
        commands = self.commands
        cdb, data_in, data_out = commands.build(request)
        if request.fua and operation in _MODIFYING and not commands.carries_fua(operation):
            self._then_flush.add(request)
        task = ScsiTask(
            self.lun,
            cdb,
            self._done,
            data_in=data_in,
            data_out=data_out,
            replay=Replay.SAFE,
            modifies=operation in _MODIFYING,
            timeout=commands.timeout(operation),
            context=request,
        )
        self._tasks[request] = task
        self.session.submit(task)

    def _done(self, task: ScsiTask) -> None:
        request = task.context
        assert isinstance(request, BlockRequest)  # noqa: S101  (for mypy: _send put it there)
        if task.error is None and task.status == Status.GOOD:
            if task.residual_count and task.cdb[0] in _TRANSFERS:
                self._incomplete(request, task)
                return
            if self._then_flush and request in self._then_flush:
                self._then_flush.discard(request)
                if self.commands.flush_needed:
                    self._send_flush(request)
                    return
            self._finish(request, None)
        elif task.error is not None:
            self._finish(request, task.error)
        else:
            self._answer(request, task)

    def _incomplete(self, request: BlockRequest, task: ScsiTask) -> None:
        """GOOD, but not all of the data: a READ or WRITE moves every block or has failed."""
        retries, waits = self._retries.get(request, (0, 0))
        if retries < MAX_RETRIES:
            self._retries[request] = (retries + 1, waits)
            self._send(request)
            return
        kind = "more" if task.residual_overflow else "less"
        self._finish(
            request,
            ProtocolError(
                f"{self.commands.describe(request)}: the target says GOOD and that it moved "
                f"{task.residual_count} bytes {kind} than was asked for"
            ),
        )

    def _finish(self, request: BlockRequest, error: Exception | None) -> None:
        del self._tasks[request]
        if self._then_flush:
            self._then_flush.discard(request)
        if self._retries:
            self._retries.pop(request, None)
        if request.offset < self.witness.length and request.operation in _MODIFYING:
            self.witness.write_ended(certain=error is None)
            if self.witness.stale:
                self._refresh_witness()
        request.complete(error)

    def _send_flush(self, request: BlockRequest) -> None:
        # FUA on a unit that does not know it: the write is done, now make it stable.
        task = ScsiTask(
            self.lun,
            self.commands.flush_cdb(),
            self._done,
            replay=Replay.SAFE,
            modifies=False,
            timeout=self.commands.timeout(Operation.FLUSH),
            context=request,
        )
        self._tasks[request] = task
        self.session.submit(task)

    def cancel(self, request: BlockRequest) -> None:
        """Abort the command of a request; a request that waits for a retry ends at once."""
        if request not in self._tasks:
            return
        task = self._tasks[request]
        if task is None:
            self._finish(request, TaskAborted("cancelled"))
        else:
            self.session.abort_task(task)

    # -- what the unit says ----------------------------------------------------------------------

    def _answer(self, request: BlockRequest, task: ScsiTask) -> None:
        status = task.status
        retries, waits = self._retries.get(request, (0, 0))
        what = self.commands.describe(request)
        if status in (Status.BUSY, Status.TASK_SET_FULL):
            self._again_later(request, task, retries, waits)
            return
        if status != Status.CHECK_CONDITION:
            self._finish(request, scsi_error(status, task.sense, what))
            return
        sense = parse_sense(task.sense)
        action = sense_action(sense)
        if action is Action.RETRY_DELAYED:
            self._again_later(request, task, retries, waits)
            return
        if action is Action.COMPLETE_GOOD:
            log.warning("%s: %s", self.what, scsi_error(status, task.sense, what))
            self._finish(request, None)
            return
        if action is Action.DEFERRED:
            log.error("%s: %s", self.what, scsi_error(status, task.sense, "an earlier command"))
        if action in _LOOK_AGAIN:
            self._recheck()
        if action not in REPEATABLE or retries >= MAX_RETRIES:
            error = scsi_error(status, task.sense, what)
            if self.commands.learn(request.operation, sense):
                # The unit does not know this command: another one does the same.
                self.can_discard = self.commands.can_discard and not self.read_only
                if request.operation is Operation.DISCARD and not self.can_discard:
                    self._finish(request, error)
                elif request.operation is Operation.FLUSH and not self.commands.flush_needed:
                    self._finish(request, None)
                else:
                    self._send(request)
                return
            self._finish(request, error)
            return
        self._retries[request] = (retries + 1, waits)
        if action is Action.REREAD_IDENTITY:
            # It may be another unit now: the request waits until that is known.
            self._tasks[request] = None
            self._held.append(request)
        else:
            self._send(request)

    def _again_later(self, request: BlockRequest, task: ScsiTask, retries: int, waits: int) -> None:
        if waits >= MAX_DELAYED_RETRIES:
            self._finish(
                request, scsi_error(task.status, task.sense, self.commands.describe(request))
            )
            return
        self._retries[request] = (retries, waits + 1)
        self._tasks[request] = None

        def again() -> None:
            if request in self._tasks and self._tasks[request] is None:
                self._send(request)

        reactor = self.session.reactor
        reactor.call_at(reactor.now() + min(0.01 * 2**waits, 1.0), again)

    # -- identity, content and size --------------------------------------------------------------

    def _witness_started(self, request: BlockRequest) -> None:
        data = None
        if request.operation is Operation.WRITE:
            data = request.buffer
        elif request.operation is Operation.DISCARD and not self.discard_zeroes:
            # What a discarded block reads as is for the unit to choose.
            self.witness.write_started(request.offset, None, 0)
            self.witness.forget()
            return
        self.witness.write_started(request.offset, data, request.length)

    def _refresh_witness(self) -> None:
        if self._refreshing or self.session.recovering:
            return
        self._refreshing = True

        async def refresh() -> None:
            try:
                head = await drive(
                    read_head(self.block_size, self.witness.length), self.session, self.lun
                )
                if self.witness.stale:
                    self.witness.refresh(head)
            except IscsiError as error:
                log.info("%s: the first blocks cannot be read again: %s", self.what, error)
            finally:
                self._refreshing = False

        self.session.reactor.spawn(refresh)

    def _recheck(self) -> None:
        """The unit said that something about it changed: look, and act on it."""
        if self._rechecking:
            return
        self._rechecking = True

        async def recheck() -> None:
            try:
                now = await drive(probe_identity(self.what), self.session, self.lun)
                if now.size_bytes >= self.size_bytes:
                    check_same_unit(self.identity, now)
                self._set_size(now.size_bytes)
            except IdentityMismatch as error:
                self.session.fail(error)
            except IscsiError as error:
                log.warning("%s: it said that it changed, but not how: %s", self.what, error)
            finally:
                self._rechecking = False
                held, self._held = self._held, []
                for request in held:
                    if self._tasks.get(request, request) is None:
                        self._send(request)

        self.session.reactor.spawn(recheck)

    async def refresh_capacity(self) -> int:
        """Ask for the capacity anew, for targets that never tell; returns the size in bytes."""
        capacity: Capacity = await drive(probe_capacity(self.what), self.session, self.lun)
        self._set_size(capacity.blocks * capacity.block_size)
        return self.size_bytes

    def _set_size(self, size_bytes: int) -> None:
        if size_bytes == self.size_bytes:
            return
        log.info("%s: size changed from %d to %d bytes", self.what, self.size_bytes, size_bytes)
        self.size_bytes = size_bytes
        for notify in list(self.size_changed):
            notify(size_bytes)

    async def _restore(self) -> None:
        """The session is new: pass the barrier before anything is replayed."""
        now = await drive(
            barrier(
                self.what,
                self.identity,
                self.witness,
                unknown_outcome=self.session.has_unknown_outcome(self.lun),
                read_only=self.read_only,
            ),
            self.session,
            self.lun,
            control=True,
        )
        self._set_size(now.size_bytes)

    async def aclose(self) -> None:
        """End what is in flight and let go of the session, which stays open."""
        if self._restore in self.session.restorers:
            self.session.restorers.remove(self._restore)
        for request in list(self._tasks):
            self.cancel(request)
