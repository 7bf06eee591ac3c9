# SPDX-License-Identifier: Apache-2.0
"""Persistent reservations of one logical unit (SPC-4 5.12): register, reserve, fence.

``lun.reservations`` is one of these. An initiator registers a key of its choice with a unit; one
that is registered may reserve the unit, and may remove another's registration and take over what it
held. Registrations belong to an I_T nexus: this initiator name, this ISID, this target port. So
whoever wants to find its registration again after a restart uses the same ``isid``.

**When the connection dies under one of these commands** its outcome is not known. What only reads
is sent again, and so are RESERVE and RELEASE. The others are not, because in between another node
may have fenced this one, and a second REGISTER would undo that. They find out instead: after the
new login, the reset of the unit and its identity check (so that nothing old can land any more)

    REGISTER with a key        sets the key that it has already: only who still has it can
    REGISTER with key 0        the same with the old key; who still has it unregisters again
    CLEAR                      the same with the own key; no keys at all is a CLEAR that was done
    PREEMPT (AND ABORT)        reads the keys and the holder back

and succeed if that is what was asked for; else they raise OutcomeUnknown, which says what is there
now. REGISTER AND MOVE always does.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..scsi import (
    FullStatus,
    PersistentReserveIn,
    PersistentReserveOut,
    RegisterAndMoveParameters,
    RegisteredKeys,
    ReservationCapabilities,
    ReservationStatus,
    ReservationType,
    ReserveOutParameters,
    TransportId,
)
from .reservation_steps import ALL_REGISTRANTS, NO_TYPE, ReservationSteps
from .scsi_block import ScsiBlockDevice
from .services import carry_out

_Out = PersistentReserveOut
_In = PersistentReserveIn


class PersistentReservations:
    """The commands. All of them raise, besides what their text says:

    Unsupported: the unit has no persistent reservations, or not this action.
    ScsiError: another refusal. TaskError, ConnectionLost: no answer.

    Cancellation: a command that writes may have been done or not.

    They work on a unit that was opened ``read_only`` too: they change no data. Such a unit is never
    reset, so there nothing is found out after a lost connection.
    """

    def __init__(self, unit: ScsiBlockDevice) -> None:
        self._unit = unit
        self._steps = ReservationSteps(unit.what, certain=not unit.read_only)

    def __repr__(self) -> str:
        return f"<PersistentReservations {self._unit.what}>"

    # -- PERSISTENT RESERVE IN (SPC-4 6.15) ------------------------------------------------------

    async def read_keys(self) -> RegisteredKeys:
        """The keys that are registered, one for each nexus; two nexuses may have the same key."""
        return await carry_out(self._unit, self._steps.keys())

    async def read_reservation(self) -> ReservationStatus:
        """Who holds the unit, if anyone does."""
        return await carry_out(self._unit, self._steps.held())

    async def report_capabilities(self) -> ReservationCapabilities:
        """Which types and options the unit knows."""
        data = await carry_out(self._unit, self._steps.read(_In.REPORT_CAPABILITIES))
        return ReservationCapabilities.parse(data)

    async def read_full_status(self) -> FullStatus:
        """Each registration with its initiator port."""
        return FullStatus.parse(await carry_out(self._unit, self._steps.read(_In.READ_FULL_STATUS)))

    # -- PERSISTENT RESERVE OUT (SPC-4 6.16) -----------------------------------------------------

    async def register(
        self,
        key: int,
        *,
        old_key: int = 0,
        aptpl: bool = False,
        all_target_ports: bool = False,
        transport_ids: Sequence[TransportId] = (),
    ) -> None:
        """Register with ``key`` (1 to 2**64-1), or replace ``old_key`` by it; 0 unregisters.

        ``aptpl`` asks that registrations outlive a loss of power, ``all_target_ports`` registers
        with every port of the target, ``transport_ids`` registers other initiator ports too.

        Raises:
            ReservationConflict: the present key is not ``old_key``.
            OutcomeUnknown: the connection died, and the key is not registered now: that was not
                done, or another node removed it since. Register again only if this node may.
        """
        options = ReserveOutParameters(
            service_action_key=key,
            key=old_key,
            aptpl=aptpl,
            all_target_ports=all_target_ports,
            specify_initiator_ports=bool(transport_ids),
            transport_ids=tuple(transport_ids),
        )
        await carry_out(self._unit, self._steps.register(_Out.REGISTER, options))

    async def unregister(self, key: int) -> None:
        """Give the registration with ``key`` back; what it held is released (:meth:`register`)."""
        await self.register(0, old_key=key)

    async def register_and_ignore_existing_key(
        self, key: int, *, aptpl: bool = False, all_target_ports: bool = False
    ) -> None:
        """Register with ``key`` whatever the present key is; 0 unregisters.

        Raises:
            OutcomeUnknown: as :meth:`register`; for ``key`` 0 whenever the connection died.
        """
        options = ReserveOutParameters(
            service_action_key=key, aptpl=aptpl, all_target_ports=all_target_ports
        )
        await carry_out(
            self._unit, self._steps.register(_Out.REGISTER_AND_IGNORE_EXISTING_KEY, options)
        )

    async def reserve(self, key: int, kind: ReservationType) -> None:
        """Reserve the unit; ``key`` is the own one. The holder may do it again.

        Raises:
            ReservationConflict: held by another, with another type, or the key is not ours.
        """
        await carry_out(
            self._unit,
            self._steps.write(_Out.RESERVE, ReserveOutParameters(key=key), kind, again=True),
        )

    async def release(self, key: int, kind: ReservationType) -> None:
        """Release the reservation, and stay registered. Not holding it is no error.

        Raises:
            ReservationConflict: the key is not ours.
            IllegalRequest: the reservation has another type (05/26/04).
            OutcomeUnknown: the connection died, and the type is one that all registrants hold:
                another of them may have reserved again.
        """
        again = kind not in ALL_REGISTRANTS
        await carry_out(
            self._unit,
            self._steps.write(_Out.RELEASE, ReserveOutParameters(key=key), kind, again=again),
        )

    async def clear(self, key: int) -> None:
        """Remove the reservation and every registration, the own one too.

        Raises:
            ReservationConflict: the key is not ours.
            OutcomeUnknown: the connection died, our key is gone and others are there.
        """
        await carry_out(self._unit, self._steps.clear(key))

    async def preempt(self, key: int, victim: int, kind: ReservationType) -> None:
        """Remove all registrations with the key ``victim``; if it held the unit, take that over.

        Tasks of the victim that are under way may still be done: see :meth:`preempt_and_abort`.
        ``victim`` may be the own key; 0 removes all others of an all registrants reservation.

        Raises:
            ReservationConflict: ``key`` is not ours, or nobody has the key ``victim``.
            OutcomeUnknown: the connection died, and the victim is still registered or the unit not
                held by ``key``.
        """
        await carry_out(self._unit, self._steps.preempt(_Out.PREEMPT, key, victim, kind))

    async def preempt_and_abort(self, key: int, victim: int, kind: ReservationType) -> None:
        """:meth:`preempt`, and end the tasks of the victim: after it nothing of theirs lands."""
        await carry_out(self._unit, self._steps.preempt(_Out.PREEMPT_AND_ABORT, key, victim, kind))

    async def register_and_move(
        self,
        key: int,
        new_key: int,
        to: TransportId,
        relative_target_port: int,
        *,
        unregister: bool = False,
        aptpl: bool = False,
    ) -> None:
        """Give the reservation, held with ``key``, to another initiator port, with ``new_key``.

        ``unregister`` takes the own registration away in the same step.

        Raises:
            ReservationConflict: ``key`` is not ours, or we are not the holder.
            OutcomeUnknown: the connection died; read_full_status() tells who holds it now.
        """
        options = RegisterAndMoveParameters(
            key=key,
            service_action_key=new_key,
            relative_target_port=relative_target_port,
            transport_id=to,
            unregister=unregister,
            aptpl=aptpl,
        )
        held = await self.read_reservation()
        kind = held.reservation.reservation_type if held.reservation else NO_TYPE
        await carry_out(self._unit, self._steps.write(_Out.REGISTER_AND_MOVE, options, kind))
