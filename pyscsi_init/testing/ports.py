# SPDX-License-Identifier: Apache-2.0
"""Target port groups (ALUA, SPC-4 5.15): the commands, and what a port answers in which state.

A portal group of the target is a target port and a group of its own; its tag is the number of both.
A unit without access states (:attr:`LogicalUnit.access_states`) has one group, always
active/optimized, and says in its INQUIRY data that there is nothing to manage.
"""

from __future__ import annotations

from .commands import Command, command
from .conditions import (
    ACCESS_STATE_TRANSITION,
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_PARAMETER_LIST,
    PARAMETER_LIST_LENGTH_ERROR,
    PORT_IN_STANDBY_STATE,
    PORT_IN_UNAVAILABLE_STATE,
    Condition,
    Nexus,
    Result,
)
from .reservations import Access
from .unit import LogicalUnit

ACTIVE_OPTIMIZED, ACTIVE_NON_OPTIMIZED, STANDBY, UNAVAILABLE, TRANSITIONING = 0, 1, 2, 3, 0xF
SUPPORTED_STATES = 0x80 | 0x08 | 0x04 | 0x02 | 0x01  # T_SUP, U_SUP, S_SUP, AN_SUP, AO_SUP
_ALTERED_BY_SET = 0x01

_ALWAYS = frozenset((0x03, 0x12, 0xA0, 0xA3, 0xA4))
"""REQUEST SENSE, INQUIRY, REPORT LUNS, MAINTENANCE IN and OUT."""

_STANDBY = _ALWAYS | {0x15, 0x1A, 0x55, 0x5A, 0x5E, 0x5F}
"""And mode pages and persistent reservations (SPC-4 5.15.2.4.4)."""

_REFUSALS = {
    STANDBY: (_STANDBY, PORT_IN_STANDBY_STATE),
    UNAVAILABLE: (_ALWAYS, PORT_IN_UNAVAILABLE_STATE),
    TRANSITIONING: (_ALWAYS, ACCESS_STATE_TRANSITION),
}


def check_access_state(unit: LogicalUnit, nexus: Nexus, opcode: int) -> None:
    """Raise the condition that keeps a command from being done through this port now."""
    answered, refusal = _REFUSALS.get(unit.access_state(nexus), (None, None))
    if refusal is not None and answered is not None and opcode not in answered:
        raise Condition(refusal)


@command(0xA3, "3f 00 00 00 00 ff ff ff ff 00 07", service_action=0x0A, access=Access.ALWAYS)
def report_target_port_groups(unit: LogicalUnit, command: Command) -> Result:
    """REPORT TARGET PORT GROUPS, with the extended header where it is asked for."""
    states = unit.access_states or {command.nexus.target_portal_group_tag: ACTIVE_OPTIMIZED}
    header = bytes((0x10, 0, 0, 0)) if command.cdb[1] & 0x20 else b""
    body = header + b"".join(
        bytes((state, SUPPORTED_STATES))
        + group.to_bytes(2, "big")
        + bytes((0, _ALTERED_BY_SET if unit.explicit_access_states else 0, 0, 1))
        + bytes(2)
        + group.to_bytes(2, "big")
        for group, state in sorted(states.items())
    )
    data = len(body).to_bytes(4, "big") + body
    return Result(data=data[: int.from_bytes(command.cdb[6:10], "big")])


def _parameter_list_length(_unit: LogicalUnit, cdb: bytes) -> int:
    return int.from_bytes(cdb[6:10], "big")


@command(
    0xA4,
    "1f 00 00 00 00 ff ff ff ff 00 07",
    service_action=0x0A,
    access=Access.WRITE,
    data_out_length=_parameter_list_length,
)
def set_target_port_groups(unit: LogicalUnit, command: Command) -> Result:
    """SET TARGET PORT GROUPS: all of it, or nothing."""
    if not unit.explicit_access_states:
        raise Condition(INVALID_FIELD_IN_CDB)
    data = bytes(command.data_out)
    if len(data) < 4 or len(data) % 4 or len(data) != _parameter_list_length(unit, command.cdb):
        raise Condition(PARAMETER_LIST_LENGTH_ERROR)
    wanted = {
        int.from_bytes(data[at + 2 : at + 4], "big"): data[at] & 0x0F
        for at in range(4, len(data), 4)
    }
    for group, state in wanted.items():
        if group not in unit.access_states or state > UNAVAILABLE:
            raise Condition(INVALID_FIELD_IN_PARAMETER_LIST)
    for group, state in wanted.items():
        unit.set_access_state(group, state, by=command.nexus)
    return Result()
