# SPDX-License-Identifier: Apache-2.0
"""One SCSI command from its CDB to its result, in the order in which SAM checks things.

Logical unit, unit attention, operation code, access state, reservation, medium, write protection,
and then the handler. Whatever a handler raises ends here as status and sense. Knows no PDU and no
session.
"""

from __future__ import annotations

from collections.abc import Callable

from . import block, mode, ports, primary, provisioning, reserve
from .commands import Command, find, lookup
from .conditions import (
    CHECK_CONDITION,
    INITIALIZING_COMMAND_REQUIRED,
    INTERNAL_TARGET_FAILURE,
    LOGICAL_UNIT_NOT_SUPPORTED,
    RESERVATION_CONFLICT,
    WRITE_PROTECTED,
    Condition,
    Conflict,
    Result,
    SenseCode,
)
from .faults import WRITES
from .inquiry import inquire
from .sense import encode_sense
from .unit import LogicalUnit

HANDLER_MODULES = (block, mode, ports, primary, provisioning, reserve)
"""Importing them fills the registry."""

CHANGES_MEDIUM = WRITES | {0x8B}
INQUIRY, REQUEST_SENSE, REPORT_LUNS = 0x12, 0x03, 0xA0


def data_out_length(unit: LogicalUnit | None, cdb: bytes) -> int:
    """How many bytes of data-out the CDB means; 0 where nothing is known of it."""
    entry = find(cdb)
    if unit is None or entry is None or entry.data_out_length is None:
        return 0
    return entry.data_out_length(unit, cdb)


def check_condition(
    code: SenseCode | tuple[int, int, int],
    *,
    information: int | None = None,
    descriptor: bool = False,
) -> Result:
    """A CHECK CONDITION with this sense."""
    sense = encode_sense(*code, information=information, descriptor=descriptor)
    return Result(status=CHECK_CONDITION, sense=sense)


def execute(unit: LogicalUnit | None, command: Command, *, descriptor: bool = False) -> Result:
    """Carry out one command; ``descriptor`` asks for sense data in descriptor format."""
    return admit(unit, command, descriptor=descriptor) or perform(
        unit, command, descriptor=descriptor
    )


def admit(unit: LogicalUnit | None, command: Command, *, descriptor: bool = False) -> Result | None:
    """Let a command enter the task set, or end it with a result.

    A unit attention is used up by it. What is admitted may be performed later: a reset or a
    reservation that comes in between does not undo it, as it would not in a disk.
    """
    return None if unit is None else _guarded(unit, descriptor, lambda: _admit(unit, command))


def perform(unit: LogicalUnit | None, command: Command, *, descriptor: bool = False) -> Result:
    """Carry out a command that was admitted."""
    if unit is None:
        result = _guarded(unit, descriptor, lambda: _without_unit(command))
    else:
        result = _guarded(unit, descriptor, lambda: lookup(command.cdb).handler(unit, command))
    return result or Result()


def _guarded(
    unit: LogicalUnit | None, descriptor: bool, work: Callable[[], Result | None]
) -> Result | None:
    """Turn what is raised into status and sense."""
    descriptor = descriptor or (unit is not None and unit.descriptor_sense)
    try:
        return work()
    except Condition as condition:
        return check_condition(
            condition.code, information=condition.information, descriptor=descriptor
        )
    except Conflict:
        return Result(status=RESERVATION_CONFLICT)
    except OSError:
        return check_condition(INTERNAL_TARGET_FAILURE, descriptor=descriptor)


def _without_unit(command: Command) -> Result:
    """A LUN without a logical unit still answers three commands."""
    opcode = command.cdb[0]
    if opcode == INQUIRY:
        return inquire(None, command)
    if opcode == REQUEST_SENSE:
        sense = encode_sense(*LOGICAL_UNIT_NOT_SUPPORTED, descriptor=bool(command.cdb[1] & 1))
        return Result(data=sense[: command.cdb[4]])
    if opcode == REPORT_LUNS:
        return primary.report_luns_of(command)
    raise Condition(LOGICAL_UNIT_NOT_SUPPORTED)


def _admit(unit: LogicalUnit, command: Command) -> None:
    entry = find(command.cdb)
    if entry is None or not entry.passes_attention:
        attention = unit.next_attention(command.nexus)
        if attention is not None:
            raise Condition(attention)
    entry = lookup(command.cdb)
    unit.commands[entry.opcode] += 1
    ports.check_access_state(unit, command.nexus, entry.opcode)
    unit.reservations.check(command.nexus, entry.access)
    if entry.needs_medium and not unit.started:
        raise Condition(INITIALIZING_COMMAND_REQUIRED)
    if unit.write_protected and entry.opcode in CHANGES_MEDIUM:
        raise Condition(WRITE_PROTECTED)
