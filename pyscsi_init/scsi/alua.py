# SPDX-License-Identifier: Apache-2.0
"""Target port groups (SPC-4 6.37 and 6.45): through which ports a logical unit can be reached.

Ports are in groups and a group has an access state; the group of the port in use is in VPD page
83h. Where the unit manages its states explicitly, SET TARGET PORT GROUPS asks for others. Which
path is taken is decided above.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import ProtocolError
from .designators import Association, Designator, DesignatorType
from .layout import BytesLike, Layout, flag, reserved, uint
from .vpd import DeviceIdentification


class AccessState(enum.IntEnum):
    """Asymmetric access states (SPC-4 table 308)."""

    ACTIVE_OPTIMIZED = 0x0
    ACTIVE_NON_OPTIMIZED = 0x1
    STANDBY = 0x2
    UNAVAILABLE = 0x3
    LOGICAL_BLOCK_DEPENDENT = 0x4
    OFFLINE = 0xE
    TRANSITIONING = 0xF


_LENGTH = Layout("a target port groups header", uint("return_data_length", 32))
_EXTENDED = Layout(
    "an extended target port groups header",
    uint("return_data_length", 32),
    reserved(1),
    uint("format_type", 3),
    reserved(4),
    uint("implicit_transition_time", 8),
    reserved(16),
)
_GROUP = Layout(
    "a target port group descriptor",
    flag("preferred"),
    reserved(3),
    uint("state", 4),
    uint("supported_states", 8),
    uint("group", 16),
    reserved(8),
    uint("status_code", 8),
    reserved(8),
    uint("port_count", 8),
)
_PORT = Layout("a target port descriptor", reserved(16), uint("port", 16))
_NUMBER_LENGTH = 4
"""Bytes of a designator that is a number: two are reserved."""
_SET_HEADER_LENGTH = 4
_SET = Layout(
    "a set target port group descriptor",
    reserved(4),
    uint("state", 4),
    reserved(8),
    uint("group", 16),
)
_EXTENDED_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPortGroup:
    """One group and its relative target port identifiers."""

    group: int
    state: int
    preferred: bool = False
    supported_states: int = 0
    status_code: int = 0
    ports: tuple[int, ...] = ()

    @property
    def usable(self) -> bool:
        """READ and WRITE are answered through this group."""
        return self.state in (
            AccessState.ACTIVE_OPTIMIZED,
            AccessState.ACTIVE_NON_OPTIMIZED,
            AccessState.LOGICAL_BLOCK_DEPENDENT,
        )

    def build(self) -> bytes:
        """The descriptor with its ports."""
        values = {name: getattr(self, name) for name in _GROUP.names if name != "port_count"}
        head = _GROUP.build({**values, "port_count": len(self.ports)})
        return head + b"".join(_PORT.build({"port": port}) for port in self.ports)


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetPortGroups:
    """An answer to REPORT TARGET PORT GROUPS."""

    groups: tuple[TargetPortGroup, ...]
    implicit_transition_time: int | None = None
    """Seconds; only in the extended format, 0 where it is not reported."""

    @staticmethod
    def length_of(data: BytesLike) -> int:
        """How many bytes the whole answer has: the allocation length to ask again with."""
        length: int = _LENGTH.parse(data, minimum=_LENGTH.size)["return_data_length"]
        return _LENGTH.size + length

    @classmethod
    def parse(cls, data: BytesLike) -> TargetPortGroups:
        """The groups that are there; a cut one is left out. ProtocolError without a header.

        The answer itself tells its format, because a target that does not know the extended header
        ignores the request for it: the format bits are reserved bits, always 0, where a group
        descriptor stands in their place.
        """
        end = min(len(data), cls.length_of(data))
        whole = bytes(data[:end])
        extended = None
        if len(whole) >= _EXTENDED.size:
            fields = _EXTENDED.parse(whole)
            if fields["format_type"] == _EXTENDED_FORMAT:
                extended = fields["implicit_transition_time"]
        rest = whole[_LENGTH.size if extended is None else _EXTENDED.size :]
        groups: list[TargetPortGroup] = []
        while len(rest) >= _GROUP.size:
            values = _GROUP.parse(rest)
            length = _GROUP.size + values.pop("port_count") * _PORT.size
            if length > len(rest):
                break
            starts = range(_GROUP.size, length, _PORT.size)
            ports = tuple(_PORT.parse(rest[at:])["port"] for at in starts)
            groups.append(TargetPortGroup(**values, ports=ports))
            rest = rest[length:]
        return cls(groups=tuple(groups), implicit_transition_time=extended)

    def state_of(self, group: int) -> int | None:
        """The access state of a group, None for one that was not reported."""
        return next((g.state for g in self.groups if g.group == group), None)

    def build(self) -> bytes:
        """The whole answer; extended where there is a transition time."""
        body = b"".join(group.build() for group in self.groups)
        if self.implicit_transition_time is None:
            return _LENGTH.build({"return_data_length": len(body)}) + body
        head = _EXTENDED.build(
            {
                "return_data_length": len(body) + _EXTENDED.size - _LENGTH.size,
                "format_type": _EXTENDED_FORMAT,
                "implicit_transition_time": self.implicit_transition_time,
            }
        )
        return head + body


def set_target_port_groups_parameters(states: Mapping[int, int]) -> bytes:
    """The data of SET TARGET PORT GROUPS: group -> the access state that it shall have."""
    body = b"".join(_SET.build({"group": g, "state": state}) for g, state in states.items())
    return bytes(_SET_HEADER_LENGTH) + body


def parse_set_target_port_groups(data: BytesLike) -> dict[int, int]:
    """Group -> state. Raises ProtocolError for a list that ends within a descriptor."""
    body = bytes(data[_SET_HEADER_LENGTH:])
    if len(data) < _SET_HEADER_LENGTH or len(body) % _SET.size:
        raise ProtocolError(f"a SET TARGET PORT GROUPS list of {len(data)} bytes is cut off")
    rows = (_SET.parse(body[at:]) for at in range(0, len(body), _SET.size))
    return {row["group"]: row["state"] for row in rows}


def port_identifiers(page: DeviceIdentification) -> tuple[int | None, int | None]:
    """The relative identifier and the group of the target port that answered with this page; None
    where the page does not tell (SPC-4 7.8.6.6 and 7.8.6.7)."""

    def number(kind: DesignatorType) -> int | None:
        found = (each.value for each in page.designators if _of_port(each, kind))
        return next((int.from_bytes(value[2:], "big") for value in found), None)

    return number(DesignatorType.RELATIVE_TARGET_PORT), number(DesignatorType.TARGET_PORT_GROUP)


def _of_port(designator: Designator, kind: DesignatorType) -> bool:
    return (
        designator.designator_type == kind
        and designator.association == Association.TARGET_PORT
        and len(designator.value) == _NUMBER_LENGTH
    )
