# SPDX-License-Identifier: Apache-2.0
"""The barrier as a sequence: what comes before the first replayed command, and in which order."""

from __future__ import annotations

import pytest

from pyscsi_init.device.identity import ContentWitness, Identity
from pyscsi_init.device.probe import probe_identity, read_head
from pyscsi_init.device.recovery import barrier
from pyscsi_init.device.steps import Command, ResetUnit, Steps
from pyscsi_init.errors import (
    CapacityShrunk,
    DeliveryFailure,
    IdentityMismatch,
    MediumError,
)
from tests.pyscsi_init.device.canned import (
    POWER_ON,
    READ_10,
    READ_CAPACITY_16,
    TEST_UNIT_READY,
    Change,
    Outcome,
    Unit,
    capacity_16,
    check,
    inquiry_data,
    naa,
    page,
)
from tests.pyscsi_init.device.test_identity import UUID_A, UUID_B, ext

LENGTH = 69632


def known(unit: Unit) -> tuple[Identity, ContentWitness]:
    offset, block = ext(UUID_A)
    unit.content[offset : offset + len(block)] = block
    identity = unit.run(probe_identity("LUN 0"))
    witness = ContentWitness(unit.run(read_head(512, LENGTH)))
    unit.log.clear()
    return identity, witness


def pass_barrier(
    identity: Identity, witness: ContentWitness, *, unknown: bool = True, read_only: bool = False
) -> Steps[Identity]:
    return barrier("LUN 0", identity, witness, unknown_outcome=unknown, read_only=read_only)


def test_the_order() -> None:
    """Reset, unit attentions, identity, content; nothing that writes."""
    unit = Unit()
    identity, witness = known(unit)
    unit.first = [POWER_ON, POWER_ON]
    now = unit.run(pass_barrier(identity, witness))
    assert now == identity
    assert isinstance(unit.log[0], ResetUnit)
    assert unit.resets == 1
    sent = unit.sent
    assert sent[0] == TEST_UNIT_READY
    assert sent.index(READ_CAPACITY_16) < sent.index(READ_10)
    assert sent[-1] == READ_10
    assert {0x2A, 0x8A, 0x35}.isdisjoint(sent)


@pytest.mark.parametrize(
    ("unknown", "read_only", "resets"),
    [(True, False, 1), (False, False, 0), (True, True, 0), (False, True, 0)],
)
def test_the_reset_is_for_writes_of_unknown_outcome(
    unknown: bool, read_only: bool, resets: int
) -> None:
    """Others that use the unit are not disturbed without need."""
    unit = Unit()
    identity, witness = known(unit)
    unit.run(pass_barrier(identity, witness, unknown=unknown, read_only=read_only))
    assert unit.resets == resets


def _other_serial(unit: Unit) -> None:
    unit.pages[0x80] = page(0x80, b"SER-2")


def _other_designator(unit: Unit) -> None:
    unit.pages[0x83] = naa(2)


def _other_product(unit: Unit) -> None:
    unit.standard = inquiry_data(product=b"OTHER")


def _other_content(unit: Unit) -> None:
    offset, block = ext(UUID_B)
    unit.content[offset : offset + len(block)] = block


def _no_content(unit: Unit) -> None:
    unit.content[:] = bytes(len(unit.content))


@pytest.mark.parametrize(
    "change", [_other_serial, _other_designator, _other_product, _other_content, _no_content]
)
def test_another_unit_stops_everything(change: Change) -> None:
    unit = Unit()
    identity, witness = known(unit)
    change(unit)
    with pytest.raises(IdentityMismatch):
        unit.run(pass_barrier(identity, witness))


def test_growth_is_accepted_and_shrinking_is_not() -> None:
    unit = Unit(blocks=2048)
    identity, witness = known(unit)
    unit.answers[READ_CAPACITY_16] = capacity_16(4096)
    assert unit.run(pass_barrier(identity, witness)).size_bytes == 4096 * 512
    unit.answers[READ_CAPACITY_16] = capacity_16(2047)
    with pytest.raises(CapacityShrunk):
        unit.run(pass_barrier(identity, witness))


def test_what_may_pass_is_no_verdict() -> None:
    """A unit that cannot be read now is not another one: the barrier is tried again."""
    unit = Unit()
    identity, witness = known(unit)
    unit.answers[READ_10] = check(3, 0x11)
    with pytest.raises(MediumError):
        unit.run(pass_barrier(identity, witness))


@pytest.mark.conformance("SCSI-008")
def test_a_unit_reserved_for_others_is_passed() -> None:
    """What waits behind the barrier has to meet the conflict itself, and not to wait for ever."""
    unit = Unit()
    identity, witness = known(unit)
    unit.answers[READ_10] = Outcome(0x18)
    now = unit.run(pass_barrier(identity, witness))
    assert now == identity
    assert witness.stale
    unit.pages[0x83] = naa(2)
    with pytest.raises(IdentityMismatch):
        unit.run(pass_barrier(identity, witness))


def test_a_refused_reset_ends_it() -> None:
    unit = Unit()
    identity, witness = known(unit)
    steps = pass_barrier(identity, witness)
    assert isinstance(next(steps), ResetUnit)
    with pytest.raises(DeliveryFailure):
        steps.throw(DeliveryFailure("no", response=5))
    assert not any(isinstance(step, Command) for step in unit.log)


def test_a_start_in_doubt_is_read_anew_on_the_way() -> None:
    """Nothing writes behind the barrier, so what was read is what is there."""
    unit = Unit()
    identity, witness = known(unit)
    witness.forget()
    assert witness.stale
    unit.run(pass_barrier(identity, witness))
    assert not witness.stale
    _other_content(unit)
    with pytest.raises(IdentityMismatch):
        unit.run(pass_barrier(identity, witness))
