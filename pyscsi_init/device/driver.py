# SPDX-License-Identifier: Apache-2.0
"""Drives step sequences (steps.py) over a session."""

from __future__ import annotations

from typing import TypeVar

import anyio

from ..errors import DeliveryFailure, IscsiError
from ..session import Replay, TaskManagementFunction
from ..transport import Session, run_command, run_management
from .steps import Command, Outcome, Pause, ResetUnit, Step, Steps

T = TypeVar("T")


async def drive(steps: Steps[T], session: Session, lun: bytes, *, control: bool = False) -> T:
    """Run a sequence to its end; ``control`` lets its commands pass while other I/O is held back.

    Raises:
        IscsiError: what the sequence raises, or what befell a command and it did not catch.
    """
    try:
        step = next(steps)
        while True:
            try:
                outcome = await _perform(step, session, lun, control)
            except IscsiError as error:
                step = steps.throw(error)
            else:
                step = steps.send(outcome)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        steps.close()


async def _perform(step: Step, session: Session, lun: bytes, control: bool) -> Outcome:
    if isinstance(step, Pause):
        await anyio.sleep(step.seconds)
        return Outcome()
    if isinstance(step, ResetUnit):
        await reset_unit(session, lun)
        return Outcome()
    assert isinstance(step, Command)  # noqa: S101  (for mypy: there is no fourth kind)
    result = await run_command(
        session,
        lun,
        step.cdb,
        data_out=step.data_out,
        data_in_length=step.data_in_length,
        seconds=step.seconds,
        modifies=step.modifies,
        # What a sequence asks may be asked again after a loss, except by the recovery itself: it
        # starts over.
        replay=Replay.NEVER if control else step.replay,
        control=control,
    )
    return Outcome(result.status, result.sense, result.data)


async def reset_unit(session: Session, lun: bytes) -> None:
    """LOGICAL UNIT RESET, or TARGET WARM RESET where the target does not know it.

    Raises:
        DeliveryFailure: the target does neither; nothing may be replayed on it.
    """
    # The answer comes when everything old is done, and a slow store is why we are here: the time is
    # that of a flush, not of a task management request.
    seconds = max(session.settings.flush_timeout, session.settings.task_management_timeout)
    response = 0
    for function in (
        TaskManagementFunction.LOGICAL_UNIT_RESET,
        TaskManagementFunction.TARGET_WARM_RESET,
    ):
        response = await run_management(session, function, lun, seconds=seconds)
        if response == 0:
            return
    raise DeliveryFailure(
        f"the target refuses LOGICAL UNIT RESET (response {response:02x}h); without it a lost "
        f"write could still land on top of a newer one, so nothing is sent again",
        response=response,
    )
