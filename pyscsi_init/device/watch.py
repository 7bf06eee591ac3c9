# SPDX-License-Identifier: Apache-2.0
"""Whether a logical unit is still the one that was attached, and how large it is by now.

Asked after every new login (the barrier), and whenever the unit itself says that something changed.
While it may be another unit (``suspicious``) nothing may be sent to it but the questions that find
out; the device holds its requests back and hears the outcome.

INVARIANT: a request that was held back is sent only after the identity was compared and was the
same. (tests/pyscsi_init/device/test_scsi_block.py)
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from ..errors import CapacityShrunk, Fenced, IdentityMismatch, IscsiError, TaskAborted
from ..scsi import Action, Status, parse_sense, sense_action
from ..session import AsyncEventReceived
from ..transport import Session
from .driver import drive
from .fence import Fence
from .fencing import tell_refusal
from .identity import ContentWitness, Identity, check_same_unit
from .probe import probe_identity, read_head
from .record import FenceRecord, UnitRecord
from .recovery import barrier
from .steps import Steps

log = logging.getLogger("pyscsi_init.device")

T = TypeVar("T")

MAX_READS = 3
"""Of the start of the disk in a row, where writes to it come in between; the next write's end asks
again."""

LOOK_AGAIN = frozenset(
    {
        Action.REREAD_CAPACITY,
        Action.REREAD_IDENTITY,
        Action.RESCAN_LUNS,
        Action.OUT_OF_RANGE,
    }
)
"""What a unit may say that makes us ask who it is and how large."""


class UnitWatch:
    """Identity, content and size of one unit of one session."""

    def __init__(
        self,
        session: Session,
        lun: bytes,
        what: str,
        identity: Identity,
        head: bytes,
        *,
        read_only: bool,
        resized: Callable[[int], None],
        cleared: Callable[[IscsiError | None], None],
    ) -> None:
        self.session = session
        self.lun = lun
        self.what = what
        self.witness = ContentWitness(head)
        self.identity = replace(identity, witnesses=self.witness.contents)
        self.suspicious = False
        """It may be another unit, or another node's."""
        self.fence: Fence | None = None
        """What keeps other nodes from writing; it is asked for again whenever there is doubt."""
        self.record_changed: list[Callable[[], None]] = []
        """Called, on the loop's thread, when ``record`` is another than before."""
        self.reservations_lost: list[Callable[[], None]] = []
        """Called, on the loop's thread, when the unit says that another initiator took away a
        reservation or a registration."""
        self._possible = self.witness.possible
        self._read_only = read_only
        self._resized = resized
        self._cleared = cleared
        self._looking = False
        self._look_again = False
        self._refreshing = False
        session.restorers.append(self._restore)
        session.async_events.append(self._event)

    def close(self) -> None:
        """Let go of the session."""
        if self._restore in self.session.restorers:
            self.session.restorers.remove(self._restore)
        if self._event in self.session.async_events:
            self.session.async_events.remove(self._event)

    # -- for a successor -------------------------------------------------------------------------

    @property
    def record(self) -> UnitRecord:
        """What another process needs to know this unit again."""
        fence = None if self.fence is None else self.fence.record
        return UnitRecord(self.identity, self.witness.length, self.witness.possible, fence)

    def _note_content(self) -> None:
        possible = self.witness.possible
        if possible != self._possible:
            self._possible = possible
            self._changed()

    def _changed(self) -> None:
        for notify in list(self.record_changed):
            notify()

    # -- what the unit says ----------------------------------------------------------------------

    def heard(self, action: Action) -> None:
        """The unit said something; ``cleared`` is called once it is known what it means."""
        if action is Action.REREAD_IDENTITY:
            self.suspicious = True
        if action is Action.RESERVATIONS_LOST:
            self.doubt_fence()
            for notify in list(self.reservations_lost):
                notify()
        if action in LOOK_AGAIN:
            self.look()

    def doubt_fence(self) -> bool:
        """The unit may be another node's: what comes is held until that is known. False where it
        is not fenced; then reservations are whoever's made them."""
        if self.fence is None or self.session.failed is not None:
            return False
        self.suspicious = True
        self.look()
        return True

    def look(self) -> None:
        """Ask the unit who it is, and act on the answer."""
        self._look_again = True
        if not self._looking:
            self._looking = True
            self.session.reactor.spawn(self._look)

    async def _look(self) -> None:
        error: IscsiError | None = TaskAborted("the unit changed, and nobody asked it how")
        try:
            while self._look_again:
                self._look_again = False
                error = await self._compare()
        finally:
            self._looking = False
            self.suspicious = self.suspicious and error is not None
            self._cleared(error if self.suspicious else None)

    async def _compare(self) -> IscsiError | None:
        try:
            now = await self._same_unit_now()
            if self.suspicious:
                self.witness.check(await self._head(now))
                await self._check_fence()
        except (IdentityMismatch, Fenced) as error:
            self.session.fail(error)
            return error
        except IscsiError as error:
            log.warning("%s: it said that it changed, but not how: %s", self.what, error)
            return error
        self._set_size(now.size_bytes)
        return None

    async def _check_fence(self) -> None:
        """Raises Fenced where another node has the unit."""
        if self.fence is None:
            return
        before = self.fence.record
        if not await drive(self.fence.check(), self.session, self.lun):
            await drive(self.fence.renew(), self.session, self.lun)
        self._note_fence(before)

    def _note_fence(self, before: FenceRecord | None) -> None:
        if self.fence is None or self.fence.record == before:
            return
        if before is not None and before.persists and not self.fence.persists:
            tell_refusal(self.fence)
        self._changed()

    async def _same_unit_now(self) -> Identity:
        """The unit as it says of itself now. Raises IdentityMismatch where it is another."""
        now = await self._ask(probe_identity(self.what))
        try:
            check_same_unit(self.identity, now)
        except CapacityShrunk as error:
            # In use and told so: what lies beyond the new end fails, the rest goes on.
            log.info("%s: %s", self.what, error)
        return now

    async def _ask(self, steps: Steps[T]) -> T:
        """Run a sequence; one that is told that reservations are lost passes that on."""
        return await drive(self._listening(steps), self.session, self.lun)

    def _listening(self, steps: Steps[T]) -> Steps[T]:
        try:
            step = next(steps)
            while True:
                try:
                    outcome = yield step
                except IscsiError as error:
                    step = steps.throw(error)
                    continue
                if outcome.status == Status.CHECK_CONDITION:
                    action = sense_action(parse_sense(outcome.sense))
                    if action is Action.RESERVATIONS_LOST:
                        self.heard(action)
                step = steps.send(outcome)
        except StopIteration as stop:
            value: T = stop.value
            return value
        finally:
            steps.close()

    async def _head(self, now: Identity) -> bytes:
        """The start of the disk, as far as it bears witness."""
        length = min(now.size_bytes, self.witness.length)
        return await self._ask(read_head(now.block_size, length))

    def _event(self, event: AsyncEventReceived) -> None:
        # RFC 7143 11.9.1: a SCSI event, told without a command to tell it with.
        if event.code == 0 and event.lun == self.lun and event.sense:
            self.heard(sense_action(parse_sense(event.sense)))

    # -- the content -----------------------------------------------------------------------------

    def write_started(
        self, offset: int, data: bytes | bytearray | memoryview | None, length: int
    ) -> None:
        """A write is about to leave; see :class:`ContentWitness`."""
        self.witness.write_started(offset, data, length)
        self._note_content()

    def discard_started(self, offset: int) -> None:
        """A discard left: what its blocks read as afterwards is for the unit to choose, also where
        unmapped blocks are zeros, because it need not unmap all of them."""
        self.witness.write_started(offset, None, 0)
        self.witness.forget()
        self._note_content()

    def content_changed(self) -> None:
        """Something that we do not follow may have written to the start."""
        self.witness.forget()
        self._note_content()
        self.refresh_content()

    def write_ended(self, *, certain: bool) -> None:
        """A write or discard was answered."""
        self.witness.write_ended(certain=certain)
        self._note_content()
        self.refresh_content()

    def refresh_content(self) -> None:
        """Read the start of the disk again, if what it holds is not known."""
        if not self.witness.stale or self._refreshing or self.session.recovering:
            return
        self._refreshing = True
        self.session.reactor.spawn(self._refresh)

    async def _refresh(self) -> None:
        witness = self.witness
        try:
            for _ in range(MAX_READS):
                generation = witness.generation
                head = await self._ask(read_head(self.identity.block_size, witness.length))
                if witness.stale and witness.generation == generation:
                    witness.refresh(head)
                    self._note_content()
                if not witness.stale:
                    break
        except IscsiError as error:
            log.info("%s: the first blocks cannot be read again: %s", self.what, error)
        finally:
            self._refreshing = False

    # -- the size --------------------------------------------------------------------------------

    async def refresh_capacity(self) -> None:
        """Ask for the capacity anew, for targets that never tell; they may not tell either that
        another disk stands there now, so that is asked too.

        Raises:
            IdentityMismatch: another unit; the session has failed.
        """
        try:
            now = await self._same_unit_now()
            generation = self.witness.generation
            head = await self._head(now)
            # A write to the start that came in between is not what was read.
            if self.witness.generation == generation:
                self.witness.check(head)
        except IdentityMismatch as error:
            self.session.fail(error)
            raise
        self._set_size(now.size_bytes)

    def _set_size(self, size_bytes: int) -> None:
        if size_bytes != self.identity.size_bytes:
            log.info(
                "%s: size changed from %d to %d bytes",
                self.what,
                self.identity.size_bytes,
                size_bytes,
            )
            self.identity = replace(self.identity, size_bytes=size_bytes)
            self._changed()
            self._resized(size_bytes)

    # -- after a new login -----------------------------------------------------------------------

    async def _restore(self) -> None:
        """The session is new: pass the barrier before anything is replayed."""
        before = self.record
        now = await drive(
            barrier(
                self.what,
                self.identity,
                self.witness,
                unknown_outcome=self.session.has_unknown_outcome(self.lun),
                read_only=self._read_only,
                fence=self.fence,
            ),
            self.session,
            self.lun,
            control=True,
        )
        self._note_fence(before.fence)
        self._note_content()
        self._set_size(now.size_bytes)
