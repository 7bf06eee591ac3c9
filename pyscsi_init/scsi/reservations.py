# SPDX-License-Identifier: Apache-2.0
"""Persistent reservation data (SPC-4 6.15 and 6.16): who may write.

Keys are 8 bytes that initiators choose; a reservation is held by a key with a scope and a type. The
answers to PERSISTENT RESERVE IN carry the length of the whole list, so a short buffer is noticed
and asked for again with ``persistent_reserve_length``. When to register, to preempt or to give up
is decided by whoever fences.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import LocalProtocolError, ProtocolError
from .layout import BytesLike, Layout, flag, reserved, uint
from .transport_id import TransportId, parse_transport_ids

KEY_LENGTH = 8
_LARGEST_KEY = (1 << 64) - 1


class ReservationType(enum.IntEnum):
    """SPC-4 table 203."""

    WRITE_EXCLUSIVE = 0x1
    EXCLUSIVE_ACCESS = 0x3
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 0x5
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 0x6
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 0x7
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 0x8


_HEADER = Layout(
    "a PERSISTENT RESERVE IN header",
    uint("generation", 32),
    uint("additional_length", 32),
)
_RESERVATION = Layout(
    "a reservation descriptor",
    uint("key", 64),
    reserved(32 + 8),
    uint("scope", 4),
    uint("reservation_type", 4),
    reserved(16),
)
_CAPABILITIES = Layout(
    "REPORT CAPABILITIES data",
    uint("length", 16),
    reserved(3),
    flag("compatible_reservation_handling"),
    flag("specify_initiator_ports"),
    flag("all_target_ports"),
    reserved(1),
    flag("aptpl"),
    flag("type_mask_valid"),
    uint("allow_commands", 3),
    reserved(3),
    flag("aptpl_active"),
    uint("type_mask", 16),
    reserved(16),
)
_PARAMETERS = Layout(
    "the PERSISTENT RESERVE OUT parameter list",
    uint("key", 64),
    uint("service_action_key", 64),
    reserved(32 + 4),
    flag("specify_initiator_ports"),
    flag("all_target_ports"),
    reserved(1),
    flag("aptpl"),
    reserved(24),
)
_MOVE = Layout(
    "the REGISTER AND MOVE parameter list",
    uint("key", 64),
    uint("service_action_key", 64),
    reserved(8 + 6),
    flag("unregister"),
    flag("aptpl"),
    uint("relative_target_port", 16),
    uint("transport_id_length", 32),
)
_FULL_STATUS = Layout(
    "a full status descriptor",
    uint("key", 64),
    reserved(32 + 6),
    flag("all_target_ports"),
    flag("holder"),
    uint("scope", 4),
    uint("reservation_type", 4),
    reserved(32),
    uint("relative_target_port", 16),
    uint("length", 32),
)
_LIST_LENGTH = 4


def persistent_reserve_length(data: BytesLike) -> int:
    """How many bytes the answer to READ KEYS, READ RESERVATION or READ FULL STATUS has."""
    length: int = _HEADER.parse(data, minimum=_HEADER.size)["additional_length"]
    return _HEADER.size + length


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisteredKeys:
    """READ KEYS."""

    generation: int
    """Counts every change of registrations (PRGENERATION)."""
    keys: tuple[int, ...] = ()
    truncated: bool = False

    @classmethod
    def parse(cls, data: BytesLike) -> RegisteredKeys:
        """The keys that are there. Raises ProtocolError for less than 8 bytes."""
        header = _HEADER.parse(data, minimum=_HEADER.size)
        length = persistent_reserve_length(data)
        body = bytes(data[_HEADER.size : length])
        starts = range(0, len(body) - KEY_LENGTH + 1, KEY_LENGTH)
        return cls(
            generation=header["generation"],
            keys=tuple(int.from_bytes(body[at : at + KEY_LENGTH], "big") for at in starts),
            truncated=length > len(data),
        )

    def build(self) -> bytes:
        """The whole answer."""
        if not all(0 <= key <= _LARGEST_KEY for key in self.keys):
            raise LocalProtocolError("a reservation key has 8 bytes")
        body = b"".join(key.to_bytes(KEY_LENGTH, "big") for key in self.keys)
        values = {"generation": self.generation, "additional_length": len(body)}
        return _HEADER.build(values) + body


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Who holds the logical unit; ``key`` is 0 for the all registrants types."""

    key: int
    reservation_type: int
    scope: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationStatus:
    """READ RESERVATION."""

    generation: int
    reservation: Reservation | None = None

    @classmethod
    def parse(cls, data: BytesLike) -> ReservationStatus:
        """Raises ProtocolError for a reservation whose descriptor is cut off."""
        header = _HEADER.parse(data, minimum=_HEADER.size)
        held = None
        if header["additional_length"]:
            body = data[_HEADER.size : persistent_reserve_length(data)]
            held = Reservation(**_RESERVATION.parse(body, minimum=_RESERVATION.size))
        return cls(generation=header["generation"], reservation=held)

    def build(self) -> bytes:
        """The whole answer."""
        body = b"" if self.reservation is None else _RESERVATION.build_from(self.reservation)
        values = {"generation": self.generation, "additional_length": len(body)}
        return _HEADER.build(values) + body


@dataclass(frozen=True, slots=True, kw_only=True)
class ReservationCapabilities:
    """REPORT CAPABILITIES."""

    compatible_reservation_handling: bool = False
    specify_initiator_ports: bool = False
    all_target_ports: bool = False
    aptpl: bool = False
    """Registrations can be kept through a loss of power."""
    aptpl_active: bool = False
    type_mask_valid: bool = False
    allow_commands: int = 0
    type_mask: int = 0

    def supports(self, reservation_type: ReservationType) -> bool | None:
        """None where the target does not say (SPC-4 table 206: byte 4 for types 0-7, byte 5)."""
        if not self.type_mask_valid:
            return None
        bit = 8 + reservation_type if reservation_type < 8 else reservation_type - 8
        return bool(self.type_mask >> bit & 1)

    @staticmethod
    def type_mask_of(types: Iterable[ReservationType]) -> int:
        """The mask of these types."""
        mask = 0
        for kind in types:
            mask |= 1 << (8 + kind if kind < 8 else kind - 8)
        return mask

    @classmethod
    def parse(cls, data: BytesLike) -> ReservationCapabilities:
        """Raises ProtocolError for no data; a short answer is read as far as it goes."""
        fields = _CAPABILITIES.parse(data, minimum=1)
        del fields["length"]
        return cls(**fields)

    def build(self) -> bytes:
        """8 bytes."""
        values = {name: getattr(self, name) for name in _CAPABILITIES.names if name != "length"}
        return _CAPABILITIES.build({**values, "length": _CAPABILITIES.size})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReserveOutParameters:
    """The data of PERSISTENT RESERVE OUT: 24 bytes, and the TransportIDs where there are any."""

    key: int = 0
    """The key that this initiator is registered with; 0 to register anew."""
    service_action_key: int = 0
    """REGISTER: the new key, 0 to unregister; PREEMPT: the key to remove."""
    specify_initiator_ports: bool = False
    """SPEC_I_PT: the ports in ``transport_ids`` are registered too."""
    all_target_ports: bool = False
    aptpl: bool = False
    transport_ids: tuple[TransportId, ...] = ()

    @classmethod
    def parse(cls, data: BytesLike) -> ReserveOutParameters:
        """Raises ProtocolError for less than 24 bytes, or TransportIDs that are cut off."""
        fields = _PARAMETERS.parse(data, minimum=_PARAMETERS.size)
        more = bytes(data[_PARAMETERS.size :])
        if not fields["specify_initiator_ports"] or not more:
            return cls(**fields)
        length = int.from_bytes(more[:_LIST_LENGTH], "big")
        names = more[_LIST_LENGTH:]
        if len(more) < _LIST_LENGTH or length != len(names):
            raise ProtocolError(f"a list of TransportIDs of {length} bytes, {len(names)} are there")
        return cls(**fields, transport_ids=parse_transport_ids(names))

    def build(self) -> bytes:
        """24 bytes, and with SPEC_I_PT a list of TransportIDs after them."""
        head = _PARAMETERS.build_from(self)
        if not self.transport_ids:
            return head
        names = b"".join(each.build() for each in self.transport_ids)
        return head + len(names).to_bytes(_LIST_LENGTH, "big") + names


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterAndMoveParameters:
    """The data of PERSISTENT RESERVE OUT REGISTER AND MOVE (SPC-4 6.16.4)."""

    key: int
    """The key of this initiator, which holds the reservation."""
    service_action_key: int
    """The key to register the new holder with; not 0."""
    relative_target_port: int
    transport_id: TransportId
    unregister: bool = False
    """UNREG: this initiator's registration goes."""
    aptpl: bool = False

    @classmethod
    def parse(cls, data: BytesLike) -> RegisterAndMoveParameters:
        """Raises ProtocolError where it, or its TransportID, is cut off."""
        fields = _MOVE.parse(data, minimum=_MOVE.size)
        length = fields.pop("transport_id_length")
        name = bytes(data[_MOVE.size :])
        if length != len(name):
            raise ProtocolError(f"a TransportID of {length} bytes, {len(name)} are there")
        return cls(**fields, transport_id=TransportId.parse(name))

    def build(self) -> bytes:
        """24 bytes and the TransportID."""
        name = self.transport_id.build()
        values = {each: getattr(self, each) for each in _MOVE.names if each in self.__slots__}
        return _MOVE.build({**values, "transport_id_length": len(name)}) + name


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """One registered I_T nexus, as READ FULL STATUS tells of it."""

    key: int
    transport_id: TransportId
    """The initiator port."""
    relative_target_port: int = 0
    """Not valid where ``all_target_ports``."""
    all_target_ports: bool = False
    holder: bool = False
    scope: int = 0
    reservation_type: int = 0
    """Of the reservation that this nexus holds."""

    def build(self) -> bytes:
        """The descriptor."""
        name = self.transport_id.build()
        values = {each: getattr(self, each) for each in _FULL_STATUS.names if each != "length"}
        return _FULL_STATUS.build({**values, "length": len(name)}) + name


@dataclass(frozen=True, slots=True, kw_only=True)
class FullStatus:
    """READ FULL STATUS (SPC-4 6.15.5)."""

    generation: int
    registrations: tuple[Registration, ...] = ()

    @classmethod
    def parse(cls, data: BytesLike) -> FullStatus:
        """The registrations that are there; a cut one is left out.

        Raises ProtocolError for less than 8 bytes, and for a TransportID that cannot be read.
        """
        header = _HEADER.parse(data, minimum=_HEADER.size)
        rest = bytes(data[_HEADER.size : persistent_reserve_length(data)])
        found: list[Registration] = []
        while len(rest) >= _FULL_STATUS.size:
            fields = _FULL_STATUS.parse(rest)
            end = _FULL_STATUS.size + fields.pop("length")
            if end > len(rest):
                break
            name = TransportId.parse(rest[_FULL_STATUS.size : end])
            found.append(Registration(**fields, transport_id=name))
            rest = rest[end:]
        return cls(generation=header["generation"], registrations=tuple(found))

    def build(self) -> bytes:
        """The whole answer."""
        body = b"".join(each.build() for each in self.registrations)
        return _HEADER.build({"generation": self.generation, "additional_length": len(body)}) + body
