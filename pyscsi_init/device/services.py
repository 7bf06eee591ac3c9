# SPDX-License-Identifier: Apache-2.0
"""Step sequences sent to a unit that is in use, and what its answers tell besides.

A sequence (steps.py) sees an answer when it is about its own command. What a unit says on the way
(it changed, it has another size) concerns the block device too, so it is passed on; and where it
may be another unit by now, that is found out before the sequence goes on. Which commands there are
is said in reservation.py and unit_services.py.
"""

from __future__ import annotations

import contextlib
from typing import TypeVar

from ..errors import CapacityShrunk, IscsiError
from ..scsi import Action, Status, parse_sense, sense_action
from .driver import drive
from .identity import check_same_unit
from .probe import probe_identity
from .scsi_block import ScsiBlockDevice
from .steps import Outcome, Steps

T = TypeVar("T")


async def carry_out(unit: ScsiBlockDevice, steps: Steps[T]) -> T:
    """Run a sequence on a unit that is in use."""
    return await drive(_listening(steps, unit), unit.session, unit.lun)


def _listening(steps: Steps[T], unit: ScsiBlockDevice) -> Steps[T]:
    try:
        if unit.watch.suspicious:
            yield from _same_unit(unit)
        step = next(steps)
        while True:
            try:
                outcome = yield step
            except IscsiError as error:
                step = steps.throw(error)
                continue
            yield from _hear(outcome, unit)
            step = steps.send(outcome)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        steps.close()


def _hear(outcome: Outcome, unit: ScsiBlockDevice) -> Steps[None]:
    if outcome.status == Status.RESERVATION_CONFLICT:
        unit.watch.doubt_fence()
    if outcome.status != Status.CHECK_CONDITION:
        return
    action = sense_action(parse_sense(outcome.sense))
    unit.watch.heard(action)
    if action is Action.REREAD_IDENTITY:
        # Before the command goes there again.
        yield from _same_unit(unit)


def _same_unit(unit: ScsiBlockDevice) -> Steps[None]:
    now = yield from probe_identity(unit.what)
    # One that became smaller is the same unit; what lies beyond its end will say so.
    with contextlib.suppress(CapacityShrunk):
        check_same_unit(unit.identity, now)
