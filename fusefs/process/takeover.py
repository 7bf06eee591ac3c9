# SPDX-License-Identifier: Apache-2.0
"""What a worker leaves for its successor, and how the successor comes to the LUN.

The note lies beside the request slots and says what the unit was: enough to know it again, and to
stand for it while it is away. The successor logs in with the same ISID and passes the same barrier
as after a lost connection (:func:`pyscsi_init.open_lun`, ``predecessor``); only then what its
predecessor left unanswered is submitted again. The target's Time2Wait is not kept: the same node
comes back at once, and its old session ends with the new login.

When the target is away, attempts go on for as long as it takes, as a session's own do; what I/O
does in the meantime is the volume's ``on_disconnect``, counted from the successor's start. When
another LUN stands in its place, or another node has taken it over, nothing is ever written to it:
I/O fails for good.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from typing import Any

import anyio

from fusefs.fuse import RequestSlots
from fusefs.process.messages import BadMessage, StartDocument
from pyscsi_init import BlockDevice, Fencing, Limits, LogicalUnit, open_lun
from pyscsi_init.device import LateDevice, UnitRecord, require_writable
from pyscsi_init.errors import (
    CapacityShrunk,
    ConfigurationError,
    Fenced,
    IdentityMismatch,
    IscsiError,
    ReadOnlyDevice,
    SessionFailed,
)
from pyscsi_init.transport import Reactor
from pyscsi_init.transport.recovery import Seldom
from pyscsi_init.transport.trace import without_unwritable_trace

log = logging.getLogger("fusefs.worker")

NOTE_VERSION = 1
FIRST_DELAY_S = 0.25
LONGEST_DELAY_S = 5.0
"""Between attempts: as a session has it that lost its target."""

_PROPERTIES = (
    "size_bytes",
    "block_size",
    "physical_block_size",
    "read_only",
    "can_discard",
    "can_write_zeroes",
    "discard_zeroes",
    "any_alignment",
)


@dataclass(frozen=True, slots=True)
class Predecessor:
    """What is known of the worker before."""

    unit: UnitRecord | None
    """None where the device has no identity (a RAM disk)."""
    unknown_outcome: bool
    """It left a write without an answer."""
    initiator_name: str
    properties: dict[str, Any]
    limits: Limits


Opener = Callable[
    [StartDocument, Reactor, Predecessor | None], AbstractAsyncContextManager[BlockDevice]
]


def note_of(device: BlockDevice) -> bytes:
    """The note about a device, as it is at this moment."""
    values: dict[str, Any] = {
        "version": NOTE_VERSION,
        "properties": {name: getattr(device, name) for name in _PROPERTIES},
        "limits": asdict(device.limits),
        "unit": None,
        "initiator_name": "",
    }
    if isinstance(device, LogicalUnit):
        values["unit"] = device.record().to_json()
        values["initiator_name"] = device.session.initiator_name
    return json.dumps(values, separators=(",", ":")).encode()


def read_note(note: bytes, *, unknown_outcome: bool) -> Predecessor:
    """What the note of a predecessor says.

    Raises:
        BadMessage: there is none, or of another version: the volume cannot be told from another.
    """
    try:
        values = json.loads(note)
        if values["version"] != NOTE_VERSION:
            raise BadMessage(f"a note of version {values['version']}, not {NOTE_VERSION}")
        unit = values["unit"]
        return Predecessor(
            unit=None if unit is None else UnitRecord.from_json(unit),
            unknown_outcome=unknown_outcome,
            initiator_name=str(values["initiator_name"]),
            properties={name: values["properties"][name] for name in _PROPERTIES},
            limits=Limits(**values["limits"]),
        )
    except (KeyError, TypeError, ValueError, ConfigurationError) as error:
        raise BadMessage(f"the predecessor's note cannot be used: {error}") from error


def leave_notes(slots: RequestSlots, device: BlockDevice) -> None:
    """Keep the note in the slots true from now on; it is there before what it tells of is."""

    def leave(*_: object) -> None:
        slots.note = note_of(device)

    leave()
    device.size_changed.append(leave)
    if isinstance(device, LogicalUnit):
        device.record_changed.append(leave)


def end_fence(
    device: BlockDevice, take_over: TakeOver | None, *, goes_on: bool, was_admitted: bool
) -> None:
    """The fence is given back with the unit, unless a successor goes on with it. A volume that was
    ready may still be another name for a LUN that this node has already, and be refused for that:
    then the key of the node stays if it was there."""
    unit = device.inner if isinstance(device, LateDevice) else device
    if isinstance(unit, LogicalUnit):
        if goes_on:
            unit.keep_fence()
        elif was_admitted:
            unit.give_back_all()
    elif not goes_on and take_over is not None and take_over.is_waiting and take_over.key:
        log.warning(
            "the key 0x%016x of this node stays registered (the target is away): this node can "
            "attach it again, another one has to take it over",
            take_over.key,
        )


@contextlib.asynccontextmanager
async def open_volume(
    document: StartDocument, reactor: Reactor, predecessor: Predecessor | None
) -> AsyncIterator[BlockDevice]:
    """The LUN of the document, checked to be writable where it is to be written."""
    spec = document.spec
    settings = spec.session_settings()
    if predecessor is not None:  # the volume is in use
        settings = await without_unwritable_trace(settings)
    name = spec.initiator_name or (predecessor.initiator_name if predecessor else "")
    async with open_lun(
        spec.address,
        chap=document.chap,
        settings=settings,
        initiator_name=name or None,
        isid=document.isid,
        read_only=spec.read_only,
        reactor=reactor,
        open_timeout=document.deadline_s,
        predecessor=predecessor.unit if predecessor else None,
        unknown_outcome=predecessor is not None and predecessor.unknown_outcome,
        fencing=None
        if spec.fencing == "off"
        else Fencing(required=spec.fencing == "required", take_over=spec.take_over),
    ) as unit:
        if not spec.read_only:
            require_writable(unit)
        yield unit


class TakeOver:
    """Comes to the LUN of a predecessor; :meth:`run` is its task.

    ``late`` stands for the LUN from the first moment on. ``settled`` is set when the first attempt
    is over, ``arrived`` is called with the unit when it is there.
    """

    def __init__(
        self,
        document: StartDocument,
        reactor: Reactor,
        predecessor: Predecessor,
        opener: Opener,
        arrived: Callable[[BlockDevice], None],
    ) -> None:
        self._document = document
        self._reactor = reactor
        self._predecessor = predecessor
        self._opener = opener
        self._arrived = arrived
        self.late = LateDevice(**predecessor.properties, limits=predecessor.limits)
        self.settled = anyio.Event()
        self.failed: IscsiError | None = None
        """Why the volume cannot be served, ever."""
        self.last_error: IscsiError | None = None
        self._scope = anyio.CancelScope()
        self._until = anyio.Event()
        self._finished = anyio.Event()

    @property
    def has_grown(self) -> bool:
        """Whether the LUN is larger than the predecessor knew it."""
        return self.late.size_bytes > int(self._predecessor.properties["size_bytes"])

    @property
    def key(self) -> int:
        """What the predecessor had registered to keep other nodes out; 0 for nothing."""
        unit = self._predecessor.unit
        return unit.fence.key if unit is not None and unit.fence is not None else 0

    @property
    def is_waiting(self) -> bool:
        """Whether the target is away."""
        return self.late.inner is None and self.failed is None

    async def aclose(self) -> None:
        """End the attempts, or close the LUN and log out; what it had in flight is ended first."""
        if self.late.inner is not None:
            await self.late.inner.aclose()
            self._until.set()
        else:
            self._scope.cancel()
        await self._finished.wait()

    async def run(self) -> None:
        """Attempt until the LUN is there, then keep it open until ``aclose``."""
        try:
            with self._scope:
                await self._run()
        finally:
            self._finished.set()

    async def _run(self) -> None:
        limit = self._document.spec.session_settings().recovery_timeout
        timer = None
        if limit is not None:
            deadline = self._reactor.now() + max(0.0, limit)
            timer = self._reactor.call_at(deadline, self._give_up_waiting)
        delay = FIRST_DELAY_S
        told = Seldom()
        try:
            while self.failed is None:
                try:
                    async with self._opener(
                        self._document, self._reactor, self._predecessor
                    ) as device:
                        if timer is not None:
                            timer.cancel()
                        self._arrived(device)
                        self.late.arrive(device)
                        self.settled.set()
                        await self._until.wait()
                        return
                except (IdentityMismatch, CapacityShrunk, ReadOnlyDevice, Fenced) as error:
                    log.error("it is not ours to write any more: %s", error)  # noqa: TRY400
                    self.failed = self.last_error = error
                    self.late.fail(error)
                except IscsiError as error:
                    if self.late.inner is not None:
                        raise
                    self.last_error = error
                    if told.is_worth(str(error)):
                        log.info("the LUN is not there yet: %s", error)
                self.settled.set()
                if self.failed is None:
                    await anyio.sleep(delay)
                    delay = min(delay * 2, LONGEST_DELAY_S)
        finally:
            if timer is not None:
                timer.cancel()

    def _give_up_waiting(self) -> None:
        if self.is_waiting:
            limit = self._document.spec.session_settings().recovery_timeout
            self.late.fail(
                SessionFailed(f"the target did not come back within {limit:g} s: {self.last_error}")
            )
