# SPDX-License-Identifier: Apache-2.0
"""RESERVE(6), RELEASE(6), PERSISTENT RESERVE IN and OUT: the commands before reservations.py."""

from __future__ import annotations

from .commands import Command, command
from .conditions import INVALID_FIELD_IN_CDB, PARAMETER_LIST_LENGTH_ERROR, Condition, Result
from .reservations import Access
from .unit import LogicalUnit


@command(0x16, "00 00 00 00 07", access=Access.EXCLUDED)
def reserve_6(unit: LogicalUnit, command: Command) -> Result:
    """RESERVE(6)."""
    unit.reservations.reserve(command.nexus)
    return Result()


@command(0x17, "00 00 00 00 07", access=Access.ALWAYS)
def release_6(unit: LogicalUnit, command: Command) -> Result:
    """RELEASE(6)."""
    unit.reservations.release(command.nexus)
    return Result()


def _persistent_reserve_in(unit: LogicalUnit, command: Command) -> Result:
    data = unit.reservations.read(command.cdb[1] & 0x1F)
    return Result(data=data[: int.from_bytes(command.cdb[7:9], "big")])


def _parameter_list_length(_unit: LogicalUnit, cdb: bytes) -> int:
    return int.from_bytes(cdb[5:9], "big")


def _persistent_reserve_out(unit: LogicalUnit, command: Command) -> Result:
    if len(command.data_out) != _parameter_list_length(unit, command.cdb):
        raise Condition(PARAMETER_LIST_LENGTH_ERROR)
    if command.cdb[2] >> 4:
        raise Condition(INVALID_FIELD_IN_CDB)
    unit.reservations.write(
        command.nexus, command.cdb[1] & 0x1F, command.cdb[2], bytes(command.data_out)
    )
    return Result()


for _action in range(4):
    command(0x5E, "1f 00 00 00 00 00 ff ff 07", service_action=_action, access=Access.ALWAYS)(
        _persistent_reserve_in
    )
for _action in range(8):
    command(
        0x5F,
        "1f ff 00 00 ff ff ff ff 07",
        service_action=_action,
        access=Access.ALWAYS,
        data_out_length=_parameter_list_length,
    )(_persistent_reserve_out)
