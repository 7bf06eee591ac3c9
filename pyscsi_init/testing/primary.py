# SPDX-License-Identifier: Apache-2.0
"""Primary commands (SPC-4 clause 6): what every logical unit answers, disk or not.

INQUIRY with its pages is in inquiry.py, mode pages are in mode.py, reservations in reserve.py.
"""

from __future__ import annotations

from ..scsi import encode_lun
from .commands import REGISTRY, SERVICE_ACTION_OPCODES, Command, Entry, command
from .conditions import (
    INITIALIZING_COMMAND_REQUIRED,
    INVALID_FIELD_IN_CDB,
    Condition,
    Result,
)
from .reservations import Access
from .sense import encode_sense
from .unit import LogicalUnit


@command(0x00, "00 00 00 00 07", access=Access.ALWAYS)
def unit_ready(unit: LogicalUnit, _: Command) -> Result:
    """TEST UNIT READY."""
    if not unit.started:
        raise Condition(INITIALIZING_COMMAND_REQUIRED)
    return Result()


@command(0x03, "01 00 00 ff 07", access=Access.ALWAYS, passes_attention=True)
def request_sense(unit: LogicalUnit, command: Command) -> Result:
    """REQUEST SENSE: a waiting unit attention, or NO SENSE."""
    code = unit.next_attention(command.nexus) or (0, 0, 0)
    sense = encode_sense(*code, descriptor=bool(command.cdb[1] & 1))
    return Result(data=sense[: command.cdb[4]])


@command(0xA0, "00 ff 00 00 00 ff ff ff ff 00 07", access=Access.ALWAYS, passes_attention=True)
def report_luns(_unit: LogicalUnit, command: Command) -> Result:
    """REPORT LUNS."""
    return report_luns_of(command)


def report_luns_of(command: Command) -> Result:
    """REPORT LUNS, which needs no logical unit to answer it."""
    select = command.cdb[2]
    allocation_length = int.from_bytes(command.cdb[6:10], "big")
    if select not in (0, 1, 2):
        raise Condition(INVALID_FIELD_IN_CDB)
    if allocation_length < 16:
        raise Condition(INVALID_FIELD_IN_CDB)
    luns = b"" if select == 1 else b"".join(encode_lun(lun) for lun in sorted(command.luns))
    data = len(luns).to_bytes(4, "big") + bytes(4) + luns
    return Result(data=data[:allocation_length])


def _descriptor(entry: Entry, timeouts: bool) -> bytes:
    flags = (0x01 if entry.service_action is not None else 0) | (0x02 if timeouts else 0)
    return (
        bytes((entry.opcode, 0))
        + (entry.service_action or 0).to_bytes(2, "big")
        + bytes((0, flags))
        + len(entry.usage).to_bytes(2, "big")
        + (_timeouts() if timeouts else b"")
    )


def _timeouts() -> bytes:
    """A command timeouts descriptor that gives no times."""
    return bytes((0, 0x0A)) + bytes(10)


def _usage(entry: Entry) -> bytes:
    if entry.service_action is None:
        return entry.usage
    # The usage data of a service action shows its value in its field.
    second = entry.usage[1] & 0xE0 | entry.service_action
    return entry.usage[:1] + bytes((second,)) + entry.usage[2:]


@command(0xA3, "1f 87 ff ff ff ff ff ff ff 00 07", service_action=0x0C)
def report_supported_operation_codes(_unit: LogicalUnit, command: Command) -> Result:
    """REPORT SUPPORTED OPERATION CODES: all, or one of them."""
    cdb = command.cdb
    timeouts = bool(cdb[2] & 0x80)
    options, opcode = cdb[2] & 0x07, cdb[3]
    action = int.from_bytes(cdb[4:6], "big")
    allocation_length = int.from_bytes(cdb[6:10], "big")
    if options == 0:
        entries = sorted(
            REGISTRY.values(), key=lambda entry: (entry.opcode, entry.service_action or 0)
        )
        body = b"".join(_descriptor(entry, timeouts) for entry in entries)
        return Result(data=(len(body).to_bytes(4, "big") + body)[:allocation_length])
    if options > 3:
        raise Condition(INVALID_FIELD_IN_CDB)
    has_actions = opcode in SERVICE_ACTION_OPCODES
    if (options == 1 and has_actions) or (options == 2 and not has_actions):
        raise Condition(INVALID_FIELD_IN_CDB)
    found = REGISTRY.get((opcode, action if has_actions else None))
    usage = b"" if found is None else _usage(found)
    support = 0x01 if found is None else 0x03
    data = bytes((0, support | (0x80 if timeouts else 0))) + len(usage).to_bytes(2, "big") + usage
    return Result(data=(data + (_timeouts() if timeouts else b""))[:allocation_length])


@command(
    0xA3,
    "1f 80 00 00 00 ff ff ff ff 00 07",
    service_action=0x0D,
    access=Access.ALWAYS,
)
def report_supported_task_management_functions(_unit: LogicalUnit, command: Command) -> Result:
    """REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS."""
    allocation_length = int.from_bytes(command.cdb[6:10], "big")
    # ABORT TASK, ABORT TASK SET, CLEAR TASK SET, LOGICAL UNIT RESET, TARGET RESET
    data = bytes((0x80 | 0x40 | 0x10 | 0x08 | 0x02, 0, 0, 0))
    if command.cdb[2] & 0x80:
        data = data[:3] + bytes((0x0C,)) + bytes(12)
    return Result(data=data[:allocation_length])
