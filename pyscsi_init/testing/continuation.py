# SPDX-License-Identifier: Apache-2.0
"""Error recovery level 2: a session without its connection, and the tasks that wait for another.

RFC 7143 6.3.4, 7.2.2 and 11.5.1. The connection's loss starts Time2Wait and Time2Retain; a login
with the session's TSIH and the CID logs the dead connection out and takes its place; TASK REASSIGN
gives a task to it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..pdu import TaskManagementRequest
from .negotiation import Negotiated
from .retained import Retained

if TYPE_CHECKING:
    from .connection import Connection
    from .session import Session

COMPLETE = 0
TASK_DOES_NOT_EXIST = 1
TASK_STILL_ALLEGIANT = 3
REASSIGNMENT_NOT_SUPPORTED = 4


def wait_for_reinstatement(session: Session) -> bool:
    """The connection is gone: keep the tasks for as long as was negotiated; False where nothing is
    kept."""
    parameters = session.parameters
    if parameters.error_recovery_level < 2 or not parameters.default_time2retain:
        return False
    detach(session)
    dead = session.connection

    def time_out() -> None:
        if session.detached and session.connection is dead:
            session.end()

    session.server.after(parameters.default_time2wait + parameters.default_time2retain, time_out)
    return True


def detach(session: Session) -> None:
    """No task is allegiant to a connection any more."""
    session.detached = True
    for task in (*session.tasks.values(), *session.answered.values()):
        task.allegiant = False


def reinstate(
    session: Session,
    connection: Connection,
    parameters: Negotiated,
    *,
    stat_sn: int,
    exp_stat_sn: int,
) -> None:
    """A login took the place of the connection; its first request acknowledged ``exp_stat_sn``."""
    session.server.count("connections_reinstated", session.target)
    detach(session)
    if session.retained is not None:
        session.retained.acknowledge(exp_stat_sn)
    old, session.connection = session.connection, connection
    old.close()
    session.parameters = parameters
    session.stat_sn = session.exp_stat_sn = stat_sn
    session.pings.clear()
    session.retained = Retained(session)
    session.detached = False


def reassign(session: Session, request: TaskManagementRequest) -> int:
    """Give a task to the present connection; the response to be sent. What follows it is sent by
    ``go_on``, because the response comes first (RFC 7143 7.2.2)."""
    if session.parameters.error_recovery_level < 2:
        return REASSIGNMENT_NOT_SUPPORTED
    tag = request.referenced_task_tag
    task = session.tasks.get(tag) or session.answered.get(tag)
    if task is None:
        return TASK_DOES_NOT_EXIST
    return TASK_STILL_ALLEGIANT if task.allegiant else COMPLETE


def go_on(session: Session, request: TaskManagementRequest) -> None:
    """The reassignment becomes effective."""
    tag = request.referenced_task_tag
    task = session.tasks.get(tag) or session.answered.get(tag)
    if task is not None:
        task.reassign(request.exp_data_sn)
