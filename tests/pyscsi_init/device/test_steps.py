# SPDX-License-Identifier: Apache-2.0
"""Asking a unit until the answer is about the question."""

from __future__ import annotations

import pytest

from pyscsi_init.device.steps import (
    MAX_NOT_READY,
    MAX_UNIT_ATTENTIONS,
    Command,
    Outcome,
    ask,
    attempt,
    demand,
)
from pyscsi_init.errors import (
    DeviceBusy,
    IllegalRequest,
    MediumError,
    NotReady,
    ReservationConflict,
    ScsiError,
    UnitAttention,
)
from pyscsi_init.scsi import test_unit_ready as unit_ready
from tests.pyscsi_init.device.canned import INVALID_FIELD, POWER_ON, Unit, check

READY = Command(unit_ready(), 0, "TEST UNIT READY")
BECOMING = check(2, 0x04, 0x01)


@pytest.mark.conformance("SCSI-004")
@pytest.mark.parametrize("count", [0, 1, 3, MAX_UNIT_ATTENTIONS])
def test_scsi_004_unit_attentions_are_taken(count: int) -> None:
    unit = Unit()
    unit.first = [POWER_ON, check(6, 0x2A, 0x09), check(6, 0x3F, 0x0E)] * 6
    unit.first = unit.first[:count]
    assert unit.run(demand(READY)) == b""
    assert len(unit.sent) == count + 1


@pytest.mark.conformance("SCSI-004")
def test_scsi_004_but_not_for_ever() -> None:
    unit = Unit()
    unit.first = [POWER_ON] * 1000
    with pytest.raises(UnitAttention):
        unit.run(demand(READY))
    assert len(unit.sent) == MAX_UNIT_ATTENTIONS + 1


@pytest.mark.conformance("SCSI-003")
def test_scsi_003_a_deferred_error_is_of_another_command() -> None:
    unit = Unit()
    unit.first = [check(3, 0x11, deferred=True)]
    assert unit.run(ask(READY)) == Outcome()


@pytest.mark.conformance("SCSI-007")
@pytest.mark.parametrize("status", [0x08, 0x28])
def test_scsi_007_busy_is_waited_for(status: int) -> None:
    unit = Unit()
    unit.first = [Outcome(status)] * 3
    unit.run(demand(READY))
    assert len(unit.pauses) == 3
    assert unit.pauses == sorted(unit.pauses)
    unit.first = [Outcome(status)] * 1000
    with pytest.raises(DeviceBusy):
        unit.run(demand(READY))
    assert len(unit.pauses) == 3 + MAX_NOT_READY


@pytest.mark.conformance("SCSI-010")
def test_scsi_010_becoming_ready_is_waited_for() -> None:
    unit = Unit()
    unit.first = [BECOMING] * 5
    unit.run(demand(READY))
    assert unit.pauses == [1.0] * 5
    unit.first = [BECOMING] * 1000
    with pytest.raises(NotReady):
        unit.run(demand(READY))


def test_a_task_that_another_initiator_aborted_is_asked_again() -> None:
    unit = Unit()
    unit.first = [Outcome(0x40)] * 2
    unit.run(demand(READY))
    assert len(unit.sent) == 3


def test_recovered_errors_are_successes() -> None:
    unit = Unit()
    unit.first = [check(1, 0x17)]
    assert unit.run(ask(READY)).status == 0


@pytest.mark.parametrize(
    ("outcome", "error"),
    [
        (INVALID_FIELD, IllegalRequest),
        (check(3, 0x11), MediumError),
        (Outcome(0x18), ReservationConflict),
        (Outcome(0x77), ScsiError),
        (Outcome(0x02, b""), ScsiError),
    ],
)
def test_other_answers_are_told(outcome: Outcome, error: type[ScsiError]) -> None:
    unit = Unit()
    unit.first = [outcome]
    with pytest.raises(error, match="TEST UNIT READY"):
        unit.run(demand(READY))
    assert len(unit.sent) == 1


@pytest.mark.conformance("SCSI-012")
def test_scsi_012_only_what_is_not_known_is_an_absence() -> None:
    """Any other failure may pass; taken for "no such page" it would make another unit of this."""
    unit = Unit()
    unit.first = [INVALID_FIELD]
    assert unit.run(attempt(READY)) is None
    for outcome in (check(4, 0x44), check(0xB, 0x47), Outcome(0x18)):
        unit.first = [outcome] * 1000
        with pytest.raises(ScsiError):
            unit.run(attempt(READY))
