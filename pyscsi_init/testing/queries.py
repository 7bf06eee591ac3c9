# SPDX-License-Identifier: Apache-2.0
"""The task management functions of iSCSIProtocolLevel 2 (RFC 7144 6.3): three questions, and the
end of a nexus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..pdu import FunctionResponse, TaskManagementFunction, TaskManagementRequest
from ..pdu import TaskManagementResponse as Response
from .conditions import SenseCode
from .unit import LogicalUnit

if TYPE_CHECKING:
    from .session import Session

ONE, SEVERAL = 1, 2
"""UADE DEPTH (SAM-5, QUERY ASYNCHRONOUS EVENT)."""


def carry_out_query(
    session: Session, unit: LogicalUnit | None, request: TaskManagementRequest
) -> None:
    """Answer one function. Function succeeded: there is one; function complete: there is none."""
    function, response = request.function, Response()
    response.initiator_task_tag = request.initiator_task_tag
    if function == TaskManagementFunction.I_T_NEXUS_RESET:
        _reset_nexus(session, response)
        return
    if unit is None:
        response.response = FunctionResponse.LUN_DOES_NOT_EXIST
    elif function == TaskManagementFunction.QUERY_TASK:
        if request.referenced_task_tag in session.tasks:
            response.response = FunctionResponse.FUNCTION_SUCCEEDED
    elif function == TaskManagementFunction.QUERY_TASK_SET:
        if any(task.unit is unit for task in session.tasks.values()):
            response.response = FunctionResponse.FUNCTION_SUCCEEDED
    elif function == TaskManagementFunction.QUERY_ASYNCHRONOUS_EVENT:
        waiting = unit.nexuses.get(session.nexus)
        if waiting:
            response.response = FunctionResponse.FUNCTION_SUCCEEDED
            response.additional_response_information = _event(waiting)
    else:
        response.response = FunctionResponse.TASK_MANAGEMENT_FUNCTION_NOT_SUPPORTED
    session.send(response)


def _event(waiting: list[SenseCode]) -> int:
    first = waiting[0]
    depth = ONE if len(waiting) == 1 else SEVERAL
    return (depth << 4 | first.sense_key) << 16 | first.asc << 8 | first.ascq


def _reset_nexus(session: Session, response: Response) -> None:
    """As if the nexus were lost: its commands end, and the session with it."""
    session.abort_tasks(lambda _: True, cancel=session.settings.abort_stops_writes)
    session.send(response)
    session.connection.close_gently()
    session.end()
