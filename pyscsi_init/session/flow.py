# SPDX-License-Identifier: Apache-2.0
"""What may leave now: queued commands as far as the window allows, and the logout after the last.

Control tasks go first and pass while other I/O is held back behind the barrier. A queue that cannot
move although nothing is under way is noted here: then only the target can open the window, and
deadlines.py sees to it that it does not take for ever.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from ..connection import ConnectionMachine
from .data_out import send_command
from .deadlines import arm_scan
from .requests import send_logout
from .task import ScsiTask, TaskState

if TYPE_CHECKING:
    from .machine import SessionMachine


def pump(session: SessionMachine, now: float) -> None:
    """Send what may be sent."""
    connection = session.connection
    if connection is None:
        return
    tasks = session.tasks
    if connection.full_feature:
        if tasks.control:
            _drain(session, connection, tasks.control, now)
        if tasks.waiting and not session.held:
            _drain(session, connection, tasks.waiting, now)
        _note_stall(session, now)
    if session.logout_by is not None and not tasks.in_flight:
        session.logout_by = None
        send_logout(session, connection, now)


def _drain(
    session: SessionMachine, connection: ConnectionMachine, queue: deque[ScsiTask], now: float
) -> None:
    window = session.window
    tasks = session.tasks
    in_flight = tasks.in_flight
    slots = min(window.open_slots, session.settings.queue_depth - len(in_flight))
    while slots > 0 and queue:
        slots -= 1
        task = queue.popleft()
        tag = task.initiator_task_tag = tasks.new_tag()
        task.cmd_sn = window.take()
        task.state = TaskState.SENT
        task.attempts += 1
        task.deadline = now + task.timeout
        in_flight[tag] = task
        send_command(connection, session.parameters, task)
    arm_scan(session, now)


def _note_stall(session: SessionMachine, now: float) -> None:
    tasks = session.tasks
    if tasks.in_flight or not (tasks.control or (tasks.waiting and not session.held)):
        session.stalled_since = None
    elif session.stalled_since is None:
        session.stalled_since = now
        arm_scan(session, now)
