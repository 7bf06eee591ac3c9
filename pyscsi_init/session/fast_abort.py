# SPDX-License-Identifier: Apache-2.0
"""No more write data for tasks that a task management function ends (RFC 7143 4.2.3.4).

With TaskReporting=FastAbort, or where ``Settings.fast_abort`` says so, R2Ts of the affected tasks
are not answered any more once the request is on its way. What was queued before it leaves before
it. While that lasts, ``r2t_sn`` of a task is not a number that an R2T can have, so the data path
has nothing to ask.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..connection import ConnectionMachine, ConnectionState
from ..errors import ConnectionLost, TaskAborted
from ..pdu import RESERVED_TAG, NopOut
from .data_out import NO_MORE_DATA
from .task import ScsiTask, TaskState

if TYPE_CHECKING:
    from .machine import SessionMachine

FAST_ABORT = "FastAbort"
"""A value of TaskReporting (RFC 7143 13.23)."""

Stopped = list[tuple[ScsiTask, int]]
"""Tasks, and the R2TSN that came next when they were stopped."""


def in_force(session: SessionMachine) -> bool:
    """Data of affected tasks stops with the request, not with its response."""
    return session.settings.fast_abort or session.parameters.task_reporting == FAST_ABORT


def stop_data(tasks: Iterable[ScsiTask]) -> Stopped:
    """Answer no R2T of these tasks any more."""
    stopped: Stopped = []
    for task in tasks:
        if task.data_out is not None and task.r2t_sn < NO_MORE_DATA:
            stopped.append((task, task.r2t_sn))
            task.r2t_sn = NO_MORE_DATA
    return stopped


def go_on(session: SessionMachine, stopped: Stopped) -> None:
    """The function is over. Tasks that it did not end live on; one whose R2T was not answered
    meanwhile would wait for ever, so then the connection is given up."""
    in_flight = session.tasks.in_flight
    alive = [each for each in stopped if in_flight.get(each[0].initiator_task_tag) is each[0]]
    ignored = [task for task, _ in alive if task.r2t_sn > NO_MORE_DATA]
    for task, r2t_sn in alive:
        task.r2t_sn = r2t_sn
    if ignored:
        session.lose(
            ConnectionLost(
                f"a task management function was refused after {len(ignored)} commands had been "
                f"denied their data (TaskReporting=FastAbort, RFC 7143 4.2.3.4)"
            )
        )


def tasks_terminated(
    session: SessionMachine, connection: ConnectionMachine, lun: bytes, now: float
) -> None:
    """Asynchronous Message 5: somebody else ended all tasks of a unit (RFC 7143 11.9.1).

    Their data stops, then a NOP-Out acknowledges it. They get no status any more, so they end as
    commands do whose time is over: aborted, and behind a barrier where they are sent again.
    """
    tasks = [task for task in session.tasks.in_flight.values() if task.lun == lun]
    stop_data(tasks)
    if connection.state is ConnectionState.S6_IN_LOGOUT:
        return  # nothing follows the logout
    connection.reply(
        NopOut(
            immediate=True,
            lun=lun,
            initiator_task_tag=RESERVED_TAG,
            target_transfer_tag=RESERVED_TAG,
            cmd_sn=session.window.cmd_sn,
        )
    )
    for task in tasks:
        if task.state is TaskState.SENT:
            session.time_out(
                task, TaskAborted("another initiator ended all tasks of the unit"), now
            )
