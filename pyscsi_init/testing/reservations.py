# SPDX-License-Identifier: Apache-2.0
"""Who may do what with a logical unit: RESERVE(6) and persistent reservations (SPC-4 5.12).

One :class:`Reservations` belongs to one logical unit. Persistent registrations are those of an
I_T nexus and outlive its session, as the standard wants; the older reservation dies with it.
Attentions that a change causes for others are told through a callback, because their queues belong
to the unit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from enum import Enum

from .conditions import (
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_PARAMETER_LIST,
    INVALID_RELEASE_OF_PERSISTENT_RESERVATION,
    PARAMETER_LIST_LENGTH_ERROR,
    REGISTRATIONS_PREEMPTED,
    RESERVATIONS_PREEMPTED,
    RESERVATIONS_RELEASED,
    Condition,
    Conflict,
    Nexus,
    SenseCode,
)


class Access(Enum):
    """What a command does, as the tables of conflicting commands sort them."""

    ALWAYS = "always allowed"
    READ = "reads"
    WRITE = "writes, or changes the unit"
    EXCLUDED = "conflicts with RESERVE(6) only"


WRITE_EXCLUSIVE = 1
EXCLUSIVE_ACCESS = 3
WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 5
EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 6
WRITE_EXCLUSIVE_ALL_REGISTRANTS = 7
EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 8
TYPES = (1, 3, 5, 6, 7, 8)
ALL_REGISTRANTS = (7, 8)
REGISTRANTS = (5, 6, 7, 8)
TYPE_MASK = 0xEA01
"""PERSISTENT RESERVATION TYPE MASK of REPORT CAPABILITIES: all six."""

(
    REGISTER,
    RESERVE,
    RELEASE,
    CLEAR,
    PREEMPT,
    PREEMPT_AND_ABORT,
    REGISTER_AND_IGNORE,
    REGISTER_AND_MOVE,
) = range(8)
SPEC_I_PT, ALL_TG_PT, APTPL = 0x08, 0x04, 0x01
UNREG = 0x02


class Reservations:
    """The reservations of one logical unit."""

    def __init__(
        self,
        tell: Callable[[Nexus, SenseCode], None],
        abort: Callable[[Nexus], None],
        target_ports: Callable[[], Collection[int]],
    ) -> None:
        self._tell = tell
        """Called with a nexus and the attention that it shall find."""
        self._abort = abort
        """Called with a nexus whose tasks PREEMPT AND ABORT ends."""
        self._target_ports = target_ports
        """The relative identifiers of the ports that the unit is behind."""
        self.reserved_by: Nexus | None = None
        self.keys: dict[Nexus, int] = {}
        self.generation = 0
        self.type = 0
        self.can_persist = False
        """Registrations can be kept through :meth:`power_loss` (PTPL_C); REGISTER asks for it."""
        self.persists = False
        """They are, as the last REGISTER wanted (PTPL_A)."""
        self.holder: Nexus | None = None
        """The nexus that holds it; any registrant when ``type`` is one of ALL_REGISTRANTS."""

    # RESERVE(6), RELEASE(6)

    def reserve(self, nexus: Nexus) -> None:
        """RESERVE(6)."""
        if self.keys or (self.reserved_by is not None and self.reserved_by != nexus):
            raise Conflict
        self.reserved_by = nexus

    def release(self, nexus: Nexus) -> None:
        """RELEASE(6): without effect when another nexus holds the unit."""
        if self.reserved_by == nexus:
            self.reserved_by = None

    def nexus_lost(self, nexus: Nexus) -> None:
        """A session has ended: its RESERVE(6) goes, its registrations stay."""
        self.release(nexus)

    def reset(self) -> None:
        """A reset of the unit ends RESERVE(6) and leaves persistent reservations."""
        self.reserved_by = None

    def power_loss(self) -> None:
        """What the unit knows after it was without power: what it was asked to keep."""
        self.reserved_by = None
        self.generation = 0
        if not self.persists:
            self.keys.clear()
            self.type, self.holder = 0, None

    # Checking

    def check(self, nexus: Nexus, access: Access) -> None:
        """Raise :class:`Conflict` when this nexus may not do that now."""
        if access is Access.ALWAYS:
            return
        if self.reserved_by is not None and self.reserved_by != nexus:
            raise Conflict
        if not self.type or access is Access.EXCLUDED:
            return
        if self._holds(nexus) or (self.type in REGISTRANTS and nexus in self.keys):
            return
        exclusive = self.type in (
            EXCLUSIVE_ACCESS,
            EXCLUSIVE_ACCESS_REGISTRANTS_ONLY,
            EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
        )
        if exclusive or access is Access.WRITE:
            raise Conflict

    def _holds(self, port: Nexus) -> bool:
        if not self.type:
            return False
        return port in self.keys if self.type in ALL_REGISTRANTS else self.holder == port

    # PERSISTENT RESERVE IN

    def read(self, service_action: int) -> bytes:
        """The parameter data of PERSISTENT RESERVE IN."""
        if service_action == 0:
            keys = b"".join(key.to_bytes(8, "big") for key in self.keys.values())
            return self._header(keys)
        if service_action == 1:
            if not self.type:
                return self._header(b"")
            key = 0
            if self.type not in ALL_REGISTRANTS and self.holder is not None:
                key = self.keys.get(self.holder, 0)
            return self._header(key.to_bytes(8, "big") + bytes(5) + bytes((self.type, 0, 0)))
        if service_action == 2:
            # Byte 2: SIP_C (SPEC_I_PT is known), PTPL_C. Byte 3: TMV (type mask valid), PTPL_A.
            can, does = int(self.can_persist), int(self.persists)
            return (
                bytes((0, 8, SPEC_I_PT | can, 0x80 | does))
                + TYPE_MASK.to_bytes(2, "big")
                + bytes(2)
            )
        if service_action == 3:
            return self._header(b"".join(self._full_status(port) for port in self.keys))
        raise Condition(INVALID_FIELD_IN_CDB)

    def _header(self, body: bytes) -> bytes:
        return self.generation.to_bytes(4, "big") + len(body).to_bytes(4, "big") + body

    def _full_status(self, port: Nexus) -> bytes:
        name = port.initiator_port.encode() + b"\0"
        name += bytes(-len(name) % 4)
        transport_id = bytes((0x45, 0)) + len(name).to_bytes(2, "big") + name
        holds = self._holds(port)
        return (
            self.keys[port].to_bytes(8, "big")
            + bytes(4)
            + bytes((0x01 if holds else 0, self.type if holds else 0))
            + bytes(4)
            + port.target_portal_group_tag.to_bytes(2, "big")
            + len(transport_id).to_bytes(4, "big")
            + transport_id
        )

    # PERSISTENT RESERVE OUT

    def write(self, nexus: Nexus, service_action: int, scope_type: int, parameters: bytes) -> None:
        """Carry out PERSISTENT RESERVE OUT."""
        if service_action > REGISTER_AND_MOVE:
            raise Condition(INVALID_FIELD_IN_CDB)
        if self.reserved_by is not None:
            raise Conflict
        if len(parameters) < 24:
            raise Condition(PARAMETER_LIST_LENGTH_ERROR)
        key = int.from_bytes(parameters[0:8], "big")
        service_action_key = int.from_bytes(parameters[8:16], "big")
        if service_action == REGISTER_AND_MOVE:
            self._move(nexus, key, service_action_key, parameters)
            return
        others = self._others(nexus, service_action, parameters)
        if service_action in (REGISTER, REGISTER_AND_IGNORE):
            self._register(nexus, service_action, key, service_action_key, others)
            self.persists = bool(parameters[20] & APTPL)
            return
        if self.keys.get(nexus) != key or nexus not in self.keys:
            raise Conflict
        if service_action in (RESERVE, PREEMPT, PREEMPT_AND_ABORT) and (
            scope_type >> 4 or scope_type & 0x0F not in TYPES
        ):
            raise Condition(INVALID_FIELD_IN_CDB)
        if service_action == RESERVE:
            self._reserve(nexus, scope_type)
        elif service_action == RELEASE:
            self._release(nexus, scope_type)
        elif service_action == CLEAR:
            self._clear(nexus)
        else:
            abort = service_action == PREEMPT_AND_ABORT
            self._preempt(nexus, scope_type, service_action_key, abort=abort)

    @property
    def _unknown_flags(self) -> int:
        return ALL_TG_PT if self.can_persist else ALL_TG_PT | APTPL

    def _others(self, nexus: Nexus, action: int, parameters: bytes) -> list[Nexus]:
        """The initiator ports of SPEC_I_PT, through the port that the command came by."""
        flags = parameters[20]
        if flags & self._unknown_flags or (flags & SPEC_I_PT and action != REGISTER):
            raise Condition(INVALID_FIELD_IN_PARAMETER_LIST)
        if not flags & SPEC_I_PT:
            if len(parameters) != 24:
                raise Condition(PARAMETER_LIST_LENGTH_ERROR)
            return []
        rest = parameters[28:]
        if len(parameters) < 28 or int.from_bytes(parameters[24:28], "big") != len(rest):
            raise Condition(PARAMETER_LIST_LENGTH_ERROR)
        found: list[Nexus] = []
        while rest:
            length = 4 + int.from_bytes(rest[2:4], "big")
            found.append(_nexus_of(rest[:length], nexus, nexus.target_portal_group_tag))
            rest = rest[length:]
        return found

    def _register(
        self, nexus: Nexus, action: int, key: int, new_key: int, others: list[Nexus]
    ) -> None:
        if action == REGISTER and self.keys.get(nexus, 0) != key:
            raise Conflict
        if any(other in self.keys for other in others):
            raise Conflict
        if new_key:
            for each in (nexus, *others):
                self.keys[each] = new_key
        elif nexus in self.keys:
            self._unregister(nexus)
        self.generation += 1

    def _move(self, nexus: Nexus, key: int, new_key: int, parameters: bytes) -> None:
        if nexus not in self.keys or self.keys[nexus] != key:
            raise Conflict
        if not self._holds(nexus) or self.type in ALL_REGISTRANTS:
            raise Conflict
        transport_id = parameters[24:]
        port = int.from_bytes(parameters[18:20], "big")
        if int.from_bytes(parameters[20:24], "big") != len(transport_id):
            raise Condition(PARAMETER_LIST_LENGTH_ERROR)
        to = _nexus_of(transport_id, nexus, port)
        if not new_key or port not in self._target_ports() or to == nexus:
            raise Condition(INVALID_FIELD_IN_PARAMETER_LIST)
        if parameters[17] & APTPL & self._unknown_flags:
            raise Condition(INVALID_FIELD_IN_PARAMETER_LIST)
        self.persists = bool(parameters[17] & APTPL)
        self.keys[to] = new_key
        self.holder = to
        if parameters[17] & UNREG:
            del self.keys[nexus]
        self.generation += 1

    def _unregister(self, port: Nexus) -> None:
        held = self._holds(port)
        del self.keys[port]
        if not held or (self.type in ALL_REGISTRANTS and self.keys):
            return
        kind, self.type, self.holder = self.type, 0, None
        if kind in REGISTRANTS:
            for other in self.keys:
                self._tell(other, RESERVATIONS_RELEASED)

    def _reserve(self, port: Nexus, scope_type: int) -> None:
        if self.type:
            if self._holds(port) and self.type == scope_type:
                return
            raise Conflict
        self.type, self.holder = scope_type, port

    def _release(self, port: Nexus, scope_type: int) -> None:
        if not self.type or not self._holds(port):
            return
        if self.type != scope_type:
            raise Condition(INVALID_RELEASE_OF_PERSISTENT_RESERVATION)
        kind, self.type, self.holder = self.type, 0, None
        if kind in REGISTRANTS:
            for other in self.keys:
                if other != port:
                    self._tell(other, RESERVATIONS_RELEASED)

    def _clear(self, port: Nexus) -> None:
        others = [other for other in self.keys if other != port]
        self.keys.clear()
        self.type, self.holder = 0, None
        self.generation += 1
        for other in others:
            self._tell(other, RESERVATIONS_PREEMPTED)

    def _preempt(self, port: Nexus, scope_type: int, victim_key: int, *, abort: bool) -> None:
        all_registrants = self.type in ALL_REGISTRANTS
        if not victim_key and not all_registrants:
            raise Condition(INVALID_FIELD_IN_PARAMETER_LIST)
        victims = [
            other
            for other, key in self.keys.items()
            if other != port and (key == victim_key or not victim_key)
        ]
        takes_over = bool(self.type) and (
            not victim_key
            if all_registrants
            else self.holder is not None and self.keys.get(self.holder) == victim_key
        )
        if not victims and not takes_over:
            raise Conflict
        for other in victims:
            del self.keys[other]
            self._tell(other, REGISTRATIONS_PREEMPTED)
            if abort:
                self._abort(other)
        if takes_over:
            old = self.type
            self.type, self.holder = scope_type, port
            if old != scope_type and old in REGISTRANTS:
                for other in self.keys:
                    if other != port:
                        self._tell(other, RESERVATIONS_RELEASED)
        self.generation += 1


def _nexus_of(transport_id: bytes, asking: Nexus, port: int) -> Nexus:
    """The nexus of an initiator port that a TransportID names (SPC-4 7.6.4.6), by its ISID too."""
    name, _, isid = transport_id[4:].split(b"\0")[0].decode("ascii", "replace").partition(",i,0x")
    if transport_id[:1] != b"\x45" or len(transport_id) % 4 or not name or len(isid) != 12:
        raise Condition(INVALID_FIELD_IN_PARAMETER_LIST)
    try:
        return Nexus(name, bytes.fromhex(isid), asking.target_name, port)
    except ValueError:
        raise Condition(INVALID_FIELD_IN_PARAMETER_LIST) from None
