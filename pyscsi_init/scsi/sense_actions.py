# SPDX-License-Identifier: Apache-2.0
"""What a sense makes us do: one table, from (sense key, ASC, ASCQ) to an :class:`Action`.

The table is the policy, so each row says why. An action says what a sense means, not how often:
bounds, delays, and whether a command of unknown outcome may be repeated at all belong to the
caller. ``REPEATABLE`` are the actions after which the command is known not to have been executed
and is sent again, as a new task, at most a bounded number of times.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .sense import Sense, SenseKey


class Action(enum.Enum):
    """What the caller does with a command that ended with sense data."""

    COMPLETE_ERROR = "complete error"
    """Give the error to whoever asked; a repetition would not help."""
    COMPLETE_GOOD = "complete good"
    """The command succeeded after recovery by the device; its data are good."""
    RETRY = "retry"
    """Send it again."""
    RETRY_DELAYED = "retry delayed"
    """Send it again after a while: the logical unit is on its way."""
    OUT_OF_RANGE = "out of range"
    """Complete with an error, and read the capacity again: it is not what was believed."""
    REREAD_CAPACITY = "reread capacity"
    """Read the capacity again, then send the command again."""
    RESCAN_LUNS = "rescan luns"
    """The list of LUNs changed, not this one: report it, send the command again."""
    REREAD_IDENTITY = "reread identity"
    """It may be another device: check its identity before anything is sent again."""
    RESERVATIONS_LOST = "reservations lost"
    """Another initiator took the reservation: whoever relied on it must stop writing."""
    PATH_ERROR = "path error"
    """Not through this port: another path may work."""
    UNIT_ATTENTION_CLEARED = "unit attention cleared"
    """Something happened, this command was not executed: report it, send the command again."""
    DEFERRED = "deferred"
    """The error is of an earlier command; report it, send this one again."""


REPEATABLE = frozenset(
    {
        Action.RETRY,
        Action.RETRY_DELAYED,
        Action.REREAD_CAPACITY,
        Action.RESCAN_LUNS,
        Action.REREAD_IDENTITY,
        Action.UNIT_ATTENTION_CLEARED,
        Action.DEFERRED,
    }
)


@dataclass(frozen=True, slots=True)
class SenseRow:
    """One row; None stands for any code."""

    sense_key: int
    asc: int | None
    ascq: int | None
    action: Action
    why: str


_K = SenseKey
_A = Action

SENSE_ACTIONS: tuple[SenseRow, ...] = (
    SenseRow(_K.RECOVERED_ERROR, None, None, _A.COMPLETE_GOOD, "SPC-4: completed, with recovery"),
    SenseRow(_K.COMPLETED, None, None, _A.COMPLETE_GOOD, "SPC-4: completed; sense only informs"),
    # NOT READY: on its way, or not through this port, or waiting for a person.
    SenseRow(_K.NOT_READY, 0x04, 0x01, _A.RETRY_DELAYED, "becoming ready by itself"),
    SenseRow(_K.NOT_READY, 0x04, 0x04, _A.RETRY_DELAYED, "ends with the format"),
    SenseRow(_K.NOT_READY, 0x04, 0x07, _A.RETRY_DELAYED, "ends with the operation in progress"),
    SenseRow(_K.NOT_READY, 0x04, 0x09, _A.RETRY_DELAYED, "ends with the self-test"),
    SenseRow(_K.NOT_READY, 0x04, 0x0A, _A.RETRY_DELAYED, "ALUA: between two states, for seconds"),
    SenseRow(_K.NOT_READY, 0x04, 0x0B, _A.PATH_ERROR, "ALUA: this port is standby"),
    SenseRow(_K.NOT_READY, 0x04, 0x0C, _A.PATH_ERROR, "ALUA: this port is unavailable"),
    SenseRow(_K.NOT_READY, 0x04, 0x14, _A.RETRY_DELAYED, "thin pool is being extended"),
    SenseRow(_K.NOT_READY, 0x04, 0x02, _A.COMPLETE_ERROR, "waits for START STOP UNIT"),
    SenseRow(_K.NOT_READY, 0x3E, 0x00, _A.RETRY_DELAYED, "has not configured itself yet"),
    SenseRow(_K.NOT_READY, 0x3A, None, _A.COMPLETE_ERROR, "no medium: nothing comes by waiting"),
    SenseRow(_K.NOT_READY, None, None, _A.COMPLETE_ERROR, "needs somebody"),
    # The device has tried; another try costs time and wears a dying medium.
    SenseRow(_K.MEDIUM_ERROR, None, None, _A.COMPLETE_ERROR, "the device has retried itself"),
    SenseRow(_K.HARDWARE_ERROR, None, None, _A.COMPLETE_ERROR, "not recoverable, says SPC-4"),
    # ILLEGAL REQUEST: the same bytes get the same answer; fallbacks belong to who asked.
    SenseRow(_K.ILLEGAL_REQUEST, 0x21, 0x00, _A.OUT_OF_RANGE, "smaller than it was"),
    SenseRow(_K.ILLEGAL_REQUEST, 0x94, 0x01, _A.PATH_ERROR, "RDAC: the other controller owns it"),
    SenseRow(_K.ILLEGAL_REQUEST, None, None, _A.COMPLETE_ERROR, "never right by repetition"),
    # UNIT ATTENTION: the command was not executed (SAM-5 5.14) and the condition is now cleared.
    SenseRow(_K.UNIT_ATTENTION, 0x28, None, _A.REREAD_IDENTITY, "medium may have changed"),
    SenseRow(_K.UNIT_ATTENTION, 0x29, None, _A.UNIT_ATTENTION_CLEARED, "power on or reset"),
    SenseRow(_K.UNIT_ATTENTION, 0x2A, 0x03, _A.RESERVATIONS_LOST, "reservations preempted"),
    SenseRow(_K.UNIT_ATTENTION, 0x2A, 0x04, _A.RESERVATIONS_LOST, "reservations released"),
    SenseRow(_K.UNIT_ATTENTION, 0x2A, 0x05, _A.RESERVATIONS_LOST, "registrations preempted"),
    SenseRow(_K.UNIT_ATTENTION, 0x2A, 0x09, _A.REREAD_CAPACITY, "capacity data has changed"),
    SenseRow(_K.UNIT_ATTENTION, 0x2F, None, _A.UNIT_ATTENTION_CLEARED, "commands were cleared"),
    SenseRow(_K.UNIT_ATTENTION, 0x38, 0x07, _A.UNIT_ATTENTION_CLEARED, "thin threshold: a warning"),
    SenseRow(_K.UNIT_ATTENTION, 0x3F, 0x02, _A.REREAD_IDENTITY, "operating definition changed"),
    SenseRow(_K.UNIT_ATTENTION, 0x3F, 0x03, _A.REREAD_IDENTITY, "INQUIRY data changed"),
    SenseRow(_K.UNIT_ATTENTION, 0x3F, 0x05, _A.REREAD_IDENTITY, "device identifier changed"),
    SenseRow(_K.UNIT_ATTENTION, 0x3F, 0x0E, _A.RESCAN_LUNS, "reported LUNs data changed"),
    SenseRow(_K.UNIT_ATTENTION, 0x47, 0x7F, _A.UNIT_ATTENTION_CLEARED, "RFC 7143 11.14.5: cleared"),
    SenseRow(_K.UNIT_ATTENTION, None, None, _A.UNIT_ATTENTION_CLEARED, "not executed"),
    SenseRow(_K.DATA_PROTECT, None, None, _A.COMPLETE_ERROR, "write protected, or no space"),
    SenseRow(_K.COPY_ABORTED, None, None, _A.COMPLETE_ERROR, "a copy is not idempotent"),
    # ABORTED COMMAND: the device gave up for a reason outside of the command, except:
    SenseRow(_K.ABORTED_COMMAND, 0x10, None, _A.COMPLETE_ERROR, "protection information is wrong"),
    SenseRow(_K.ABORTED_COMMAND, 0x4E, None, _A.COMPLETE_ERROR, "a tag was used twice"),
    SenseRow(_K.ABORTED_COMMAND, None, None, _A.RETRY, "SPC-4: may be recovered by trying again"),
    SenseRow(_K.MISCOMPARE, None, None, _A.COMPLETE_ERROR, "this is the result that was asked for"),
)
"""In the order in which SPC-4 counts its keys; the most specific row wins."""

_BY_CODE = {(row.sense_key, row.asc, row.ascq): row.action for row in SENSE_ACTIONS}


def sense_action(sense: Sense) -> Action:
    """The action for a sense; what no row knows is an error to be reported."""
    if not sense.known:
        return Action.COMPLETE_ERROR
    if sense.deferred:
        return Action.DEFERRED
    key, asc, ascq = sense.code
    for code in ((key, asc, ascq), (key, asc, None), (key, None, None)):
        action = _BY_CODE.get(code)
        if action is not None:
            return action
    return Action.COMPLETE_ERROR
