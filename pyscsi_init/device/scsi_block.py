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
from collections.abc import Callable

import anyio

from ..errors import IscsiError, OutOfRange, ProtocolError, ScsiError, TaskAborted, Unsupported
from ..scsi import (
    REPEATABLE,
    Action,
    Opcode,
    SenseKey,
    Status,
    parse_sense,
    scsi_error,
    sense_action,
)
from ..session import Replay, ScsiTask
from ..transport import Session
from .depth import QueueDepth
from .identity import ContentWitness, Identity
from .interface import BlockDevice, BlockRequest, Operation, check_range
from .probe import UnitFacts
from .unit_commands import UnitCommands
from .watch import UnitWatch

log = logging.getLogger("pyscsi_init.device")

MAX_RETRIES = 20
"""Unit attentions and transport-caused aborts in a row on one request."""

MAX_DELAYED_RETRIES = 90
"""Waits of at most a second: a failover of a target that answers BUSY takes tens of seconds."""

ABORT_MARGIN = 3.0
"""Seconds beyond the time of an abort: the session looks at its deadlines once a second."""

_MODIFYING = frozenset({Operation.WRITE, Operation.DISCARD, Operation.WRITE_ZEROES})

_TRANSFERS = frozenset({Opcode.READ_10, Opcode.READ_16, Opcode.WRITE_10, Opcode.WRITE_16})
"""Commands whose every byte matters. WRITE SAME is none: targets count its residual in two ways."""
_FLUSHES = frozenset({Opcode.SYNCHRONIZE_CACHE_10, Opcode.SYNCHRONIZE_CACHE_16})


_REPEATED = REPEATABLE | {Action.RESERVATIONS_LOST}
"""Who holds no reservation loses none: the command was not executed and may be sent again. It meets
RESERVATION CONFLICT if the unit is reserved for others now."""


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
        self.commands = UnitCommands(facts, session.settings)
        capacity = facts.capacity
        self.size_bytes = capacity.blocks * capacity.block_size
        self.block_size = capacity.block_size
        self.physical_block_size = capacity.physical_block_size
        self.read_only = read_only or facts.write_protected
        self.can_discard = self.commands.can_discard and not self.read_only
        self.can_write_zeroes = not self.read_only
        self.discard_zeroes = self.commands.discard_zeroes
        self.limits = self.commands.limits
        self._tasks: dict[BlockRequest, ScsiTask | None] = {}
        self._retries: dict[BlockRequest, tuple[int, int]] = {}
        self._then_flush: set[BlockRequest] = set()
        self._held: list[BlockRequest] = []
        self.short_cut: Callable[[bool], None] = lambda _: None
        """Called with False while every request has to come through here to be counted."""
        self._depth = QueueDepth(session, lun, self._again, lambda on: self.short_cut(on))
        self._deferred: ScsiError | None = None
        self._empty = anyio.Event()
        self.watch = UnitWatch(
            session,
            lun,
            what,
            facts.identity,
            head,
            read_only=self.read_only,
            resized=self._resized,
            cleared=self._cleared,
        )

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
            request.complete(self.lost_earlier())
            return
        if request.offset < self.witness.length and request.operation in _MODIFYING:
            self._started(request)
        self._send(request)

    def _send(self, request: BlockRequest) -> None:
        if self.watch.suspicious:
            # It may be another unit: the request waits until that is known.
            self._hold(request)
            self.watch.look()
            return
        if self._depth.limit is not None and self._depth.holds(request):
            self._tasks[request] = None
            return
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

    def adopt(self, request: BlockRequest, task: ScsiTask) -> None:
        """Take over a request whose task was started by the short cut above us."""
        task.completion = self._done
        self._tasks[request] = task

    def _done(self, task: ScsiTask) -> None:
        request = task.context
        assert isinstance(request, BlockRequest)  # noqa: S101  (for mypy: _send put it there)
        if task.error is None and task.status == Status.GOOD:
            if task.residual_count and task.cdb[0] in _TRANSFERS:
                self._incomplete(request, task)
                return
            self._good(request, task)
        elif task.error is not None:
            self._finish(request, task.error)
        else:
            self._answer(request, task)

    def _good(self, request: BlockRequest, task: ScsiTask) -> None:
        if self._then_flush and request in self._then_flush:
            self._then_flush.discard(request)
            if self.commands.flush_needed:
                self._send_flush(request)
                return
        flushed = task.cdb[0] in _FLUSHES
        self._finish(request, self.lost_earlier() if flushed else None)

    def lost_earlier(self) -> ScsiError | None:
        """The deferred error of a write that was acknowledged; told once, to who asks for
        stability."""
        error, self._deferred = self._deferred, None
        return error

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
            self.watch.write_ended(certain=error is None)
        if not self._tasks:
            self._empty.set()
        if self._depth.limit is not None:
            self._depth.ended(well=error is None)
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
            if status == Status.TASK_SET_FULL:
                self._depth.refused()
            self._again_later(request, task, retries, waits)
            return
        if status == Status.TASK_ABORTED and retries < MAX_RETRIES:
            # SAM-5 5.3.1: another initiator's abort or reset ended it.
            self._retries[request] = (retries + 1, waits)
            self._send(request)
            return
        if status == Status.RESERVATION_CONFLICT and retries < MAX_RETRIES:
            self._retries[request] = (retries + 1, waits)
            if self.watch.doubt_fence():
                self._hold(request)
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
            if task.data_in is not None and task.received != len(task.data_in):
                self._incomplete(request, task)
            else:
                self._good(request, task)
            return
        if action is Action.DEFERRED:
            # A write that was acknowledged is lost: whoever flushes must hear of it.
            self._deferred = scsi_error(status, task.sense, "an earlier command")
            log.error("%s: %s", self.what, self._deferred)
        self.watch.heard(action)
        if sense.sense_key == SenseKey.UNIT_ATTENTION:
            log.info("%s: %s", self.what, sense)
        if action not in _REPEATED or retries >= MAX_RETRIES:
            error: IscsiError = scsi_error(status, task.sense, what)
            if action is Action.OUT_OF_RANGE:
                # What is refused here where the size is known; it is asked for again.
                error = OutOfRange(str(error))
            operation = Operation.FLUSH if task.cdb[0] in _FLUSHES else request.operation
            if not self.commands.learn(operation, task.cdb[0], sense):
                self._finish(request, error)
                return
            # The unit does not know this command: another one does the same.
            self.limits = self.commands.limits
            self.can_discard = self.commands.can_discard and not self.read_only
            promised, self.discard_zeroes = self.discard_zeroes, self.commands.discard_zeroes
            if operation is Operation.FLUSH:
                self._finish(request, self.lost_earlier())
            elif operation is Operation.DISCARD and (
                not self.commands.takes_discard(request)
                # Whoever asked may rely on zeros, and the command that is left does not promise.
                or (promised and not self.discard_zeroes)
            ):
                self._finish(request, error)
            else:
                self._send(request)
            return
        self._retries[request] = (retries + 1, waits)
        self._send(request)

    def _again_later(self, request: BlockRequest, task: ScsiTask, retries: int, waits: int) -> None:
        if waits >= MAX_DELAYED_RETRIES:
            self._finish(
                request, scsi_error(task.status, task.sense, self.commands.describe(request))
            )
            return
        self._retries[request] = (retries, waits + 1)
        self._tasks[request] = None

        reactor = self.session.reactor
        reactor.call_at(reactor.now() + min(0.01 * 2**waits, 1.0), lambda: self._again(request))

    def _again(self, request: BlockRequest) -> None:
        """Send a request that waited, unless it was cancelled meanwhile."""
        if self._tasks.get(request, request) is None:
            self._send(request)

    # -- identity, content and size --------------------------------------------------------------

    @property
    def identity(self) -> Identity:
        """What the unit says of itself, with its size as it is now."""
        return self.watch.identity

    @property
    def witness(self) -> ContentWitness:
        """What the start of the disk holds."""
        return self.watch.witness

    def content_changed(self) -> None:
        """Something else than a request of ours may have written: look at the start again."""
        self.watch.content_changed()

    def _started(self, request: BlockRequest) -> None:
        if request.operation is Operation.DISCARD:
            self.watch.discard_started(request.offset)
        else:
            data = request.buffer if request.operation is Operation.WRITE else None
            self.watch.write_started(request.offset, data, request.length)

    def _hold(self, request: BlockRequest) -> None:
        self._tasks[request] = None
        self._held.append(request)

    def _cleared(self, error: IscsiError | None) -> None:
        """It is known what the unit meant: what was held back goes on, or ends with ``error``."""
        held, self._held = self._held, []
        for request in held:
            if self._tasks.get(request, request) is not None:
                continue  # cancelled meanwhile
            if error is None:
                self._send(request)
            else:
                self._finish(request, error)

    def _resized(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        for notify in list(self.size_changed):
            notify(size_bytes)

    async def refresh_capacity(self) -> int:
        """Ask for the capacity anew, for targets that never tell; returns the size in bytes."""
        await self.watch.refresh_capacity()
        return self.size_bytes

    # -- the end ---------------------------------------------------------------------------------

    async def aclose(self) -> None:
        """End what is in flight and let go of the session, which stays open.

        Requests have a moment to complete by themselves, unless the session is lost; then they are
        cancelled. The barrier stays in place until the last one has ended.
        """
        settings = self.session.settings
        if self.session.reactor.failure is None:  # else some may never complete
            if not self.session.recovering:
                await self._drained(settings.logout_timeout)
            for request in list(self._tasks):
                self.cancel(request)
            await self._drained(settings.task_management_timeout + ABORT_MARGIN)
        self.watch.close()

    async def _drained(self, seconds: float) -> None:
        with anyio.move_on_after(seconds):
            while self._tasks:
                self._empty = anyio.Event()
                await self._empty.wait()
