# SPDX-License-Identifier: Apache-2.0
"""Task management functions (RFC 7143 11.5, RFC 7144 6): what ends, and when that may be answered.

The rule that matters is the one of a reset: it is answered when no earlier write can reach the
medium any more. Writes that are under way are therefore waited for, also those of sessions that
are long gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import ProtocolError
from ..pdu import TaskManagementRequest, TaskManagementResponse
from ..scsi import decode_lun
from . import continuation
from .conditions import COMMANDS_CLEARED_BY_ANOTHER_INITIATOR
from .queries import carry_out_query
from .unit import LogicalUnit

if TYPE_CHECKING:
    from .session import Session
    from .target import Target

(
    ABORT_TASK,
    ABORT_TASK_SET,
    CLEAR_ACA,
    CLEAR_TASK_SET,
    LOGICAL_UNIT_RESET,
    TARGET_WARM_RESET,
    TARGET_COLD_RESET,
    TASK_REASSIGN,
) = range(1, 9)

COMPLETE = 0
TASK_DOES_NOT_EXIST = 1
LUN_DOES_NOT_EXIST = 2
NOT_SUPPORTED = 5
REJECTED = 255

OF_A_LUN = (ABORT_TASK_SET, CLEAR_TASK_SET, LOGICAL_UNIT_RESET)


def carry_out(session: Session, target: Target, request: TaskManagementRequest) -> None:
    """Carry out one function; the response is sent now, or when the writes have landed."""

    def answer(response: int) -> None:
        session.send(
            TaskManagementResponse(initiator_task_tag=request.initiator_task_tag, response=response)
        )

    function = request.function
    if function > TASK_REASSIGN and session.parameters.iscsi_protocol_level >= 2:
        carry_out_query(session, _unit(target, request.lun), request)
    elif function == ABORT_TASK:
        answer(_abort_task(session, request))
    elif function in OF_A_LUN:
        unit = _unit(target, request.lun)
        if unit is None:
            answer(LUN_DOES_NOT_EXIST)
        elif function == ABORT_TASK_SET:
            cancel = target.settings.abort_stops_writes
            session.abort_tasks(lambda task: task.unit is unit, cancel=cancel)
            answer(COMPLETE)
        elif function == CLEAR_TASK_SET:
            _clear_task_set(session, target, unit)
            answer(COMPLETE)
        else:
            _reset_unit(session, target, unit, lambda: answer(COMPLETE))
    elif function in (TARGET_WARM_RESET, TARGET_COLD_RESET):
        _reset_target(session, target, cold=function == TARGET_COLD_RESET, answer=answer)
    elif function == TASK_REASSIGN:
        response = continuation.reassign(session, request)
        answer(response)
        if response == COMPLETE:
            continuation.go_on(session, request)
    else:
        answer(NOT_SUPPORTED)


def _unit(target: Target, lun: bytes) -> LogicalUnit | None:
    try:
        number = decode_lun(lun)
    except ProtocolError:
        return None
    return target.luns.get(number) if isinstance(number, int) else None


def _abort_task(session: Session, request: TaskManagementRequest) -> int:
    task = session.tasks.get(request.referenced_task_tag)
    if task is not None:
        task.abort(cancel=session.settings.abort_stops_writes)
        return COMPLETE
    # RFC 7143 11.6.1 b): a command inside the window that has not come counts as received
    return COMPLETE if session.plug(request.ref_cmd_sn) else TASK_DOES_NOT_EXIST


def _clear_task_set(session: Session, target: Target, unit: LogicalUnit) -> None:
    cancel = target.settings.abort_stops_writes
    for other in _sessions(session, target, unit):
        ended = other.abort_tasks(lambda task: task.unit is unit, cancel=cancel)
        if ended and other is not session:
            unit.attention_for(other.nexus, COMMANDS_CLEARED_BY_ANOTHER_INITIATOR)


def _sessions(session: Session, target: Target, unit: LogicalUnit) -> list[Session]:
    """All sessions that reach the unit, by whatever target."""
    targets = {target, *(t for t in session.server.targets.values() if unit in t.luns.values())}
    return [other for one in targets for other in one.sessions]


def _reset_unit(
    session: Session, target: Target, unit: LogicalUnit, done: Callable[[], None]
) -> None:
    waits = target.settings.reset_waits_for_writes
    for other in _sessions(session, target, unit):
        other.abort_tasks(lambda task: task.unit is unit and task.changes_medium, cancel=False)
        other.abort_tasks(lambda task: task.unit is unit)
    to_all = target.settings.reset_unit_attention_to_all
    unit.reset(but=None if to_all else session.nexus)
    if waits:
        unit.when_idle(done)
    else:
        done()


def _reset_target(
    session: Session, target: Target, *, cold: bool, answer: Callable[[int], None]
) -> None:
    units = list(target.luns.values())
    remaining = len(units)

    def one_done() -> None:
        nonlocal remaining
        remaining -= 1
        if remaining <= 0:
            finish()

    def finish() -> None:
        answer(COMPLETE)
        if cold:
            # RFC 7143 11.5.1: the target ends all sessions, this one too
            for other in list(target.sessions):
                other.connection.close_gently()
                other.end()

    for unit in units:
        _reset_unit(session, target, unit, one_done)
    if not units:
        finish()
