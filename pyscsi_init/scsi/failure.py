# SPDX-License-Identifier: Apache-2.0
"""From a status and its sense data to one exception with one readable sentence.

The class says whom to blame (errors.py draws the tree), the sentence what happened to which
command, in the words of the standard with the codes beside them, and what helps where something is
known to help. It decides nothing: retries have been made before.
"""

from __future__ import annotations

from ..errors import (
    AbortedCommand,
    CheckCondition,
    DataProtect,
    DeviceBusy,
    HardwareError,
    IllegalRequest,
    MediumError,
    Miscompare,
    NotReady,
    ReservationConflict,
    ScsiError,
    SpaceExhausted,
    UnexpectedStatus,
    UnitAttention,
)
from .layout import BytesLike
from .sense import Sense, SenseKey, parse_sense
from .status import Status, status_name

SENSE_KEY_CLASSES: dict[int, type[CheckCondition]] = {
    0x2: NotReady,
    0x3: MediumError,
    0x4: HardwareError,
    0x5: IllegalRequest,
    0x6: UnitAttention,
    0x7: DataProtect,
    0xB: AbortedCommand,
    0xE: Miscompare,
}
"""Sense key -> class; a key without a row is a plain CheckCondition."""

_SPACE_EXHAUSTED = (SenseKey.DATA_PROTECT, 0x27, 0x07)

_REMEDIES: dict[tuple[int, int, int], str] = {
    _SPACE_EXHAUSTED: "the pool of the target is full: extend it or free space",
    (SenseKey.NOT_READY, 0x04, 0x02): "the logical unit is stopped: start it on the target",
    (SenseKey.ILLEGAL_REQUEST, 0x25, 0x00): "the target has no such LUN for this initiator",
}


def _details(sense: Sense) -> list[str]:
    details: list[str] = []
    if sense.information is not None:
        if sense.sense_key in (SenseKey.MEDIUM_ERROR, SenseKey.HARDWARE_ERROR):
            details.append(f"first bad LBA {sense.information}")
        elif sense.sense_key == SenseKey.MISCOMPARE:
            details.append(f"first difference at byte {sense.information}")
    if sense.field_pointer is not None:
        in_cdb, byte = sense.field_pointer
        details.append(f"byte {byte} of the {'CDB' if in_cdb else 'parameter data'}")
    return details


def _check_condition(sense: Sense, what: str) -> CheckCondition:
    text = ", ".join([str(sense), *_details(sense)])
    if sense.deferred:
        text = f"deferred error of an earlier command: {text}"
    remedy = _REMEDIES.get(sense.code)
    kind = SENSE_KEY_CLASSES.get(sense.sense_key, CheckCondition)
    if sense.code == _SPACE_EXHAUSTED:
        kind = SpaceExhausted
    return kind(
        f"{what}: {text}; {remedy}" if remedy else f"{what}: {text}",
        sense_key=sense.sense_key,
        asc=sense.asc,
        ascq=sense.ascq,
        information=sense.information,
    )


def scsi_error(status: int, sense: BytesLike | Sense, what: str) -> ScsiError:
    """The exception for a command that did not end with GOOD.

    ``what`` names the command: ``READ(16) of 8 blocks at LBA 4096``. ``sense`` is only looked at
    for CHECK CONDITION, where no sense data at all is an error too.
    """
    if status == Status.CHECK_CONDITION:
        return _check_condition(sense if isinstance(sense, Sense) else parse_sense(sense), what)
    name = status_name(status)
    if status == Status.RESERVATION_CONFLICT:
        return ReservationConflict(
            f"{what}: {name}, another initiator holds a reservation", status=status
        )
    if status in (Status.BUSY, Status.TASK_SET_FULL):
        return DeviceBusy(f"{what}: {name}, the logical unit is overloaded", status=status)
    return UnexpectedStatus(f"{what}: ended with {name}", status=status)
