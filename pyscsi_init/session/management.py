# SPDX-License-Identifier: Apache-2.0
"""Task management: requests that act on other tasks (RFC 7143 11.5), and what their answers end.

ABORT TASK is how a caller's cancellation and a command's time-out reach the target; LOGICAL UNIT
RESET is the heart of the barrier after a lost connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ConnectionLost, IscsiError, LocalProtocolError, TaskAborted
from ..pdu import RESERVED_TAG, TaskManagementFunction, TaskManagementRequest
from ..serial import serial_lt
from . import fast_abort
from .deadlines import arm_scan
from .task import NO_LUN, ManagementTask, ScsiTask, TaskState
from .tasks import may_be_sent_again

if TYPE_CHECKING:
    from .machine import SessionMachine

FUNCTION_COMPLETE = 0x00
TASK_DOES_NOT_EXIST = 0x01
"""RFC 7143 11.6.1."""

_UNIT_SCOPE = frozenset(
    {
        TaskManagementFunction.ABORT_TASK_SET,
        TaskManagementFunction.CLEAR_TASK_SET,
        TaskManagementFunction.LOGICAL_UNIT_RESET,
    }
)
_TARGET_SCOPE = frozenset(
    {TaskManagementFunction.TARGET_WARM_RESET, TaskManagementFunction.TARGET_COLD_RESET}
)
_SESSION_SCOPE = _TARGET_SCOPE | {TaskManagementFunction.I_T_NEXUS_RESET}
"""All tasks of ours end with them."""
_WITHOUT_LUN = _SESSION_SCOPE | {TaskManagementFunction.TASK_REASSIGN}
"""RFC 7143 11.5.3: the LUN field is reserved in these."""
_LAST_OF_LEVEL_1 = TaskManagementFunction.TASK_REASSIGN


def send_management(session: SessionMachine, request: ManagementTask, now: float) -> None:
    """Queue the request, immediate: a closed command window does not hold it up."""
    connection = session.connection
    if connection is None or not connection.full_feature:
        request.finish(ConnectionLost("the session is not logged in"))
        return
    level = session.parameters.iscsi_protocol_level
    if request.function > _LAST_OF_LEVEL_1 and level < 2:
        request.finish(
            LocalProtocolError(
                f"{_name(request)} needs iSCSIProtocolLevel 2 (RFC 7144 6.3), the session has "
                f"{level}: offer it with Settings(iscsi_protocol_level=2)"
            )
        )
        return
    tag = request.initiator_task_tag = session.tasks.new_tag()
    request.cmd_sn = session.window.cmd_sn
    request.deadline = now + request.timeout
    session.tasks.requests[tag] = request
    task = request.referenced
    reassign = request.function is TaskManagementFunction.TASK_REASSIGN
    connection.send(
        TaskManagementRequest(
            immediate=True,
            function=request.function,
            lun=NO_LUN if request.function in _WITHOUT_LUN else request.lun,
            initiator_task_tag=tag,
            referenced_task_tag=RESERVED_TAG if task is None else task.initiator_task_tag,
            cmd_sn=request.cmd_sn,
            # RFC 7143 11.5.5: the CmdSN of the task to be aborted, else reserved.
            ref_cmd_sn=0 if task is None or reassign else task.cmd_sn,
            # RFC 7143 11.5.6: the first DataSN of a read that is not here.
            exp_data_sn=task.data_sn if reassign and task is not None and task.data_in else 0,
        )
    )
    if fast_abort.in_force(session):
        affected = _affected(session, request)
        if task is not None and request.function is TaskManagementFunction.ABORT_TASK:
            # RFC 7143 4.2.3.4 is about functions that end several tasks; the setting is not.
            affected = [task] if session.settings.fast_abort else []
        request.stopped = fast_abort.stop_data(affected)
    arm_scan(session, now)


def _name(request: ManagementTask) -> str:
    return request.function.name.replace("_", " ")


def _affected(session: SessionMachine, request: ManagementTask) -> list[ScsiTask]:
    """The tasks in flight that the function ends if it is done (RFC 7143 4.2.3.2): those of its
    scope that were sent before it; what follows it is for the target to carry out."""
    of_all = request.function in _SESSION_SCOPE
    if not of_all and request.function not in _UNIT_SCOPE:
        return []
    return [
        task
        for task in session.tasks.in_flight.values()
        if (of_all or task.lun == request.lun) and serial_lt(task.cmd_sn, request.cmd_sn)
    ]


def conclude(session: SessionMachine, request: ManagementTask) -> None:
    """The response came: end the tasks in its scope (RFC 7143 4.2.3.2), then the request."""
    if request.response == FUNCTION_COMPLETE:
        function = request.function
        for task in _affected(session, request):
            # A completion may do anything, even drop the connection and with it the rest.
            if session.tasks.in_flight.get(task.initiator_task_tag) is task:
                session.end(task, TaskAborted(f"ended by {_name(request)}"))
        if function is TaskManagementFunction.LOGICAL_UNIT_RESET:
            session.tasks.unknown_outcome.discard(request.lun)
        elif function in _TARGET_SCOPE:
            session.tasks.unknown_outcome.clear()
    request.finish()
    fast_abort.go_on(session, request.stopped)


def abort(session: SessionMachine, task: ScsiTask, error: IscsiError, now: float) -> None:
    """ABORT TASK for a task in flight; ``error`` is what it ends with if nothing better comes.

    A refusal leaves a task that its caller cancelled alone: its status will come, or its deadline
    ends the connection (deadlines.py). A command that timed out has no such hope.
    """
    timed_out = task.state is TaskState.SENT
    task.silences += timed_out
    # Its owner may use the task again for another command, with another tag.
    attempt, tag = task.attempts, task.initiator_task_tag
    task.deadline = now + 2 * session.settings.task_management_timeout

    def answered(request: ManagementTask) -> None:
        table = session.tasks
        if table.in_flight.get(tag) is not task or task.attempts != attempt:
            return  # its own response came first, or the connection died and took it along
        refused = request.error is not None or request.response not in (
            FUNCTION_COMPLETE,
            TASK_DOES_NOT_EXIST,
        )
        if timed_out and (refused or may_be_sent_again(task)):
            # Targets exist whose ABORT TASK does not stop a write: only the barrier after a new
            # login makes it safe to send the command again.
            session.lose(ConnectionLost(str(error)))
        elif not refused:
            if task.modifies:
                table.unknown_outcome.add(task.lun)
            session.end(task, error)

    send_management(
        session,
        ManagementTask(
            TaskManagementFunction.ABORT_TASK,
            task.lun,
            answered,
            referenced=task,
            timeout=session.settings.task_management_timeout,
        ),
        now,
    )
