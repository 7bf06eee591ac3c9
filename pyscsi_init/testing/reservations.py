# SPDX-License-Identifier: Apache-2.0
"""Who may do what with a logical unit: RESERVE(6) and persistent reservations (SPC-4 5.12).

One :class:`Reservations` belongs to one logical unit. Persistent registrations are kept by
initiator port name, so they outlive a session, as the standard wants; the older reservation dies
with its nexus. Attentions that a change causes for others are told through a callback, because
their queues belong to the unit.
"""

from __future__ import annotations

from collections.abc import Callable
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

REGISTER, RESERVE, RELEASE, CLEAR, PREEMPT, PREEMPT_AND_ABORT, REGISTER_AND_IGNORE = range(7)


class Reservations:
    """The reservations of one logical unit."""

    def __init__(
        self,
        tell: Callable[[str, SenseCode], None],
        abort: Callable[[str], None],
    ) -> None:
        self._tell = tell
        """Called with an initiator port name and the attention that it shall find."""
        self._abort = abort
        """Called with an initiator port name whose tasks PREEMPT AND ABORT ends."""
        self.reserved_by: Nexus | None = None
        self.keys: dict[str, int] = {}
        self.ports: dict[str, Nexus] = {}
        self.generation = 0
        self.type = 0
        self.holder: str | None = None
        """Initiator port of the holder; any registrant when ``type`` is one of ALL_REGISTRANTS."""

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

    # Checking

    def check(self, nexus: Nexus, access: Access) -> None:
        """Raise :class:`Conflict` when this nexus may not do that now."""
        if access is Access.ALWAYS:
            return
        if self.reserved_by is not None and self.reserved_by != nexus:
            raise Conflict
        if not self.type or access is Access.EXCLUDED:
            return
        port = nexus.initiator_port
        if self._holds(port) or (self.type in REGISTRANTS and port in self.keys):
            return
        exclusive = self.type in (
            EXCLUSIVE_ACCESS,
            EXCLUSIVE_ACCESS_REGISTRANTS_ONLY,
            EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
        )
        if exclusive or access is Access.WRITE:
            raise Conflict

    def _holds(self, port: str) -> bool:
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
            key = 0 if self.type in ALL_REGISTRANTS else self.keys.get(self.holder or "", 0)
            return self._header(key.to_bytes(8, "big") + bytes(5) + bytes((self.type, 0, 0)))
        if service_action == 2:
            # Byte 3: TMV, the type mask is valid.
            return bytes((0, 8, 0, 0x80)) + TYPE_MASK.to_bytes(2, "big") + bytes(2)
        if service_action == 3:
            return self._header(b"".join(self._full_status(port) for port in self.keys))
        raise Condition(INVALID_FIELD_IN_CDB)

    def _header(self, body: bytes) -> bytes:
        return self.generation.to_bytes(4, "big") + len(body).to_bytes(4, "big") + body

    def _full_status(self, port: str) -> bytes:
        nexus = self.ports[port]
        name = port.encode() + b"\0"
        name += bytes(-len(name) % 4)
        transport_id = bytes((0x45, 0)) + len(name).to_bytes(2, "big") + name
        holds = self._holds(port)
        return (
            self.keys[port].to_bytes(8, "big")
            + bytes(4)
            + bytes((0x01 if holds else 0, self.type if holds else 0))
            + bytes(4)
            + nexus.target_portal_group_tag.to_bytes(2, "big")
            + len(transport_id).to_bytes(4, "big")
            + transport_id
        )

    # PERSISTENT RESERVE OUT

    def write(self, nexus: Nexus, service_action: int, scope_type: int, parameters: bytes) -> None:
        """Carry out PERSISTENT RESERVE OUT."""
        if service_action > REGISTER_AND_IGNORE:
            raise Condition(INVALID_FIELD_IN_CDB)
        if self.reserved_by is not None:
            raise Conflict
        if len(parameters) != 24:
            raise Condition(PARAMETER_LIST_LENGTH_ERROR)
        key = int.from_bytes(parameters[0:8], "big")
        service_action_key = int.from_bytes(parameters[8:16], "big")
        if parameters[20] & 0x0D:  # SPEC_I_PT, ALL_TG_PT, APTPL
            raise Condition(INVALID_FIELD_IN_PARAMETER_LIST)
        if service_action in (REGISTER, REGISTER_AND_IGNORE):
            self._register(nexus, service_action, key, service_action_key)
            return
        port = nexus.initiator_port
        if self.keys.get(port) != key or port not in self.keys:
            raise Conflict
        if service_action in (RESERVE, PREEMPT, PREEMPT_AND_ABORT) and (
            scope_type >> 4 or scope_type & 0x0F not in TYPES
        ):
            raise Condition(INVALID_FIELD_IN_CDB)
        if service_action == RESERVE:
            self._reserve(port, scope_type)
        elif service_action == RELEASE:
            self._release(port, scope_type)
        elif service_action == CLEAR:
            self._clear(port)
        else:
            abort = service_action == PREEMPT_AND_ABORT
            self._preempt(port, scope_type, service_action_key, abort=abort)

    def _register(self, nexus: Nexus, action: int, key: int, new_key: int) -> None:
        port = nexus.initiator_port
        if action == REGISTER and self.keys.get(port, 0) != key:
            raise Conflict
        if new_key:
            self.keys[port] = new_key
            self.ports[port] = nexus
        elif port in self.keys:
            self._unregister(port)
        self.generation += 1

    def _unregister(self, port: str) -> None:
        held = self._holds(port)
        del self.keys[port], self.ports[port]
        if not held or (self.type in ALL_REGISTRANTS and self.keys):
            return
        kind, self.type, self.holder = self.type, 0, None
        if kind in REGISTRANTS:
            for other in self.keys:
                self._tell(other, RESERVATIONS_RELEASED)

    def _reserve(self, port: str, scope_type: int) -> None:
        if self.type:
            if self._holds(port) and self.type == scope_type:
                return
            raise Conflict
        self.type, self.holder = scope_type, port

    def _release(self, port: str, scope_type: int) -> None:
        if not self.type or not self._holds(port):
            return
        if self.type != scope_type:
            raise Condition(INVALID_RELEASE_OF_PERSISTENT_RESERVATION)
        kind, self.type, self.holder = self.type, 0, None
        if kind in REGISTRANTS:
            for other in self.keys:
                if other != port:
                    self._tell(other, RESERVATIONS_RELEASED)

    def _clear(self, port: str) -> None:
        others = [other for other in self.keys if other != port]
        self.keys.clear()
        self.ports.clear()
        self.type, self.holder = 0, None
        self.generation += 1
        for other in others:
            self._tell(other, RESERVATIONS_PREEMPTED)

    def _preempt(self, port: str, scope_type: int, victim_key: int, *, abort: bool) -> None:
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
            del self.keys[other], self.ports[other]
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
