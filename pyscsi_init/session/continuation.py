# SPDX-License-Identifier: Apache-2.0
"""Error recovery level 2: the session outlives its connection (RFC 7143 7.1.4.3, 7.2.2, 6.3.4).

Theory of operation. When the connection dies for no fault of the session, the tasks stay in flight
and a ``Continuation`` remembers what the next login needs. That login carries the session's TSIH
and the CID of the dead connection: it logs that connection out implicitly. Its response tells
ExpCmdSN, and so which commands the target has. Those are given to the new connection with TASK
REASSIGN and go on where they stood; the others are sent again with the CmdSN and the tag that they
have, for the first time as far as the target knows. Nothing is done twice, so nothing has to be
held back: the barrier of the session recovery is not for this way.

Where the target refuses, or its time to retain the tasks is over, the session recovery follows with
all that belongs to it. So it does where a write was cancelled and nobody knows whether it will
land: only the barrier settles that. A task management request and a text exchange do not survive
the connection (7.14); the gaps they leave in CmdSN are plugged.

A target exists that answers TASK REASSIGN with "function rejected" and then does what it was asked.
So that answer is believed only when nothing follows it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..connection import ConnectionMachine
from ..errors import ConnectionLost, IscsiError, ProtocolError
from ..pdu import TaskManagementFunction
from ..serial import serial_sub
from .deadlines import arm_scan
from .events import Continued
from .retry import plug
from .task import NO_DEADLINE, ManagementTask, ScsiTask, TaskState
from .tasks import MAX_ATTEMPTS

if TYPE_CHECKING:
    from .machine import SessionMachine

MAX_GAP = 65536
"""Commands that a target may not have received: no window is wider."""

MAX_REASSIGNMENTS = 32
"""TASK REASSIGN requests under way at once: they are immediate, and a target may refuse immediate
requests beyond what it has room for (RFC 7143 11.17.1, reason 06h)."""

PROOF_AFTER = 5.0
"""Seconds within which something must follow a reassignment that was "rejected"."""

FUNCTION_COMPLETE = 0
FUNCTION_REJECTED = 255
"""RFC 7143 11.6.1."""


@dataclass(frozen=True, slots=True)
class Continuation:
    """What is kept of a connection until its tasks have another one."""

    connection: ConnectionMachine
    """The dead one, in CLEANUP_WAIT: its CID is asked for again, and its ExpStatSN acknowledges
    what came on it (RFC 7143 6.3.4, 11.12.9)."""
    until: float
    """Time2Wait and Time2Retain are over: the target need not know the tasks any more."""


def may_continue(session: SessionMachine, error: IscsiError | None) -> bool:
    """Whether the tasks of a connection that has just died may wait for the next one."""
    return (
        error is not None
        and session.parameters.error_recovery_level == 2
        and not session.closing
        and not session.held
        and not session.discovery
        and session.refusing is None
        and all(
            task.attempts < MAX_ATTEMPTS
            and not (task.state is TaskState.ABORTING and task.modifies)
            for task in session.tasks.in_flight.values()
        )
    )


def keep_tasks(
    session: SessionMachine, connection: ConnectionMachine, now: float, wait: float, retain: float
) -> None:
    """The connection is gone, its tasks are not."""
    session.continuation = Continuation(connection, now + wait + retain)
    session.deadlines_moved = True


def abandon(session: SessionMachine, error: IscsiError) -> None:
    """The session will not be continued: what was in flight waits for the session recovery. A login
    that is under way was to go on with it, and is given up."""
    if session.continuation is None:
        return
    session.continuation.connection.cleaned_up()
    session.continuation = None
    finished = session.tasks.connection_lost(error)
    session.lose(error)
    for finish in finished:
        finish()


def continue_tasks(session: SessionMachine, connection: ConnectionMachine, now: float) -> None:
    """The connection is reinstated: reassign what the target has, send again what it has not.

    Raises:
        ProtocolError: its ExpCmdSN cannot be.
    """
    window = session.window
    missing = serial_sub(window.cmd_sn, window.exp_cmd_sn)
    if not 0 <= missing <= MAX_GAP:
        raise ProtocolError(f"ExpCmdSN {window.exp_cmd_sn} after CmdSN {window.cmd_sn}")
    known: deque[ScsiTask] = deque()
    for task in session.tasks.in_flight.values():
        task.attempts += 1
        task.deadline = NO_DEADLINE
        task.queue_mark = 0
        if not window.is_unacknowledged(task.cmd_sn):
            known.append(task)
    session.emit(Continued(len(known), missing))
    _Reassignment(session, connection, known, now).go_on()
    while missing and session.connection is connection:
        plug(session, connection, (window.cmd_sn - missing) & 0xFFFFFFFF)
        missing -= 1
    arm_scan(session, now)


class _Reassignment:
    """TASK REASSIGN for several tasks, some at a time."""

    def __init__(
        self,
        session: SessionMachine,
        connection: ConnectionMachine,
        tasks: deque[ScsiTask],
        now: float,
    ) -> None:
        self._session = session
        self._connection = connection
        self._tasks = tasks
        self._now = now
        self._outstanding = 0

    def go_on(self) -> None:
        """Send as many requests as may be under way."""
        session = self._session
        while self._tasks and self._outstanding < MAX_REASSIGNMENTS:
            task = self._tasks.popleft()
            if session.tasks.in_flight.get(task.initiator_task_tag) is task:
                self._outstanding += 1
                self._reassign(task)

    def _reassign(self, task: ScsiTask) -> None:
        session = self._session
        assert session.repair is not None  # noqa: S101  (for mypy: there is one above level 0)
        transfer = session.repair.transfer(task)
        transfer.reassigned = True
        # ExpDataSN acknowledges what is here (RFC 7143 11.5.6).
        transfer.acknowledged, transfer.acknowledged_bytes = task.data_sn, task.received
        tag = task.initiator_task_tag

        def answered(request: ManagementTask) -> None:
            self._outstanding -= 1
            if session.connection is not self._connection:
                return
            here = session.tasks.in_flight.get(tag) is task
            if request.error is None and request.response == FUNCTION_REJECTED:
                transfer.proof = (task.data_sn, task.r2t_sn, self._now + PROOF_AFTER)
            elif here and (request.error is not None or request.response != FUNCTION_COMPLETE):
                session.lose(
                    ConnectionLost(
                        f"the target does not continue {task!r} "
                        f"(response {request.response}, RFC 7143 11.6.1)"
                    )
                )
                return
            self.go_on()

        session.manage(
            ManagementTask(
                TaskManagementFunction.TASK_REASSIGN,
                task.lun,
                answered,
                referenced=task,
                timeout=session.settings.task_management_timeout,
            ),
            self._now,
        )
