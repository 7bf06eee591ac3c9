# SPDX-License-Identifier: Apache-2.0
"""What a session does when time passes: login, logout, keepalive, commands without an answer.

Command deadlines are tens of seconds long, so they are not timers of their own: while anything is
outstanding, all of it is looked at once a second. A command that left without reading the clock
gets its deadline at the first look.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..connection import ConnectionMachine, ConnectionState, Due
from ..errors import ConnectionLost, LoginTimeout, ProtocolError, TaskTimeout
from ..pdu import RESERVED_TAG, NopOut
from .task import NO_DEADLINE, TaskState
from .tasks import Ping

if TYPE_CHECKING:
    from .machine import SessionMachine
    from .repair import Repair

SCAN_INTERVAL = 1.0


def arm_scan(session: SessionMachine, now: float) -> None:
    """Something is outstanding: look at it from now on."""
    if session.scan_at is None:
        session.scan_at = now + SCAN_INTERVAL
        session.deadlines_moved = True


def handle_deadline(session: SessionMachine, now: float) -> None:
    """Act on what is due."""
    session.deadlines_moved = True
    connection = session.connection
    settings = session.settings
    if connection is None:
        session.scan_at = session.logout_by = None
        if session.continuation is not None and now >= session.continuation.until:
            session.abandon(ConnectionLost("the connection was not reinstated in time"))
        return
    if connection.state is ConnectionState.S4_IN_LOGIN:
        if now >= connection.login_deadline:
            session.lose(
                LoginTimeout(
                    f"the login phase was not over after {settings.login_timeout:g} s; "
                    f"something listens there, but it does not answer as an iSCSI target"
                )
            )
        return
    if connection.logout_deadline is not None:
        if now >= connection.logout_deadline:
            session.lose(ConnectionLost("no logout response in time"))
        return
    if session.logout_by is not None and now >= session.logout_by:
        session.logout_by = None
        session.log_out_now(now)
        return
    due = connection.keepalive.due(now)
    if due is Due.DEAD:
        session.lose(
            ConnectionLost(
                f"no answer to a NOP-Out for {settings.noop_timeout:g} s: "
                f"the target or the network is gone"
            ),
            now,
        )
        return
    if due is Due.PING:
        session.ping(now)
    if connection.must_acknowledge(now):
        _acknowledge(session, connection)
    if session.scan_at is not None and now >= session.scan_at:
        _scan(session, now)


def _acknowledge(session: SessionMachine, connection: ConnectionMachine) -> None:
    """Tell the target our ExpStatSN and nothing else (RFC 7143 11.18): it may forget what it keeps
    for the case that we ask again."""
    connection.send(
        NopOut(
            immediate=True,
            initiator_task_tag=RESERVED_TAG,
            target_transfer_tag=RESERVED_TAG,
            cmd_sn=session.window.cmd_sn,
        )
    )


def _scan(session: SessionMachine, now: float) -> None:
    tasks = session.tasks
    connection = session.connection
    for task in tasks.in_flight.values():
        if task.deadline == NO_DEADLINE:
            task.deadline = now + task.timeout
    for task in [task for task in tasks.in_flight.values() if task.deadline <= now]:
        if task.state is TaskState.SENT:
            session.time_out(task, TaskTimeout(f"no status within {task.timeout:g} s"), now)
        elif task.state is TaskState.ABORTING:
            session.lose(ConnectionLost("no status of a command, and its ABORT TASK was refused"))
        if session.connection is not connection:
            return
    for request in tasks.requests.values():
        if not isinstance(request, Ping) and request.deadline <= now:
            session.lose(ConnectionLost("no answer to a task management or text request"))
            return
    repair = session.repair
    if repair is not None and not _repaired(session, repair, now):
        return
    stalled = session.stalled_since
    if stalled is not None and now - stalled >= session.settings.command_timeout:
        session.lose(
            ConnectionLost(
                f"the target kept its command window closed for {now - stalled:.0f} s with "
                f"nothing under way (MaxCmdSN, RFC 7143 4.2.2.1)"
            )
        )
        return
    busy = tasks.outstanding or stalled is not None or (repair is not None and repair.busy)
    session.scan_at = now + SCAN_INTERVAL if busy else None


def _repaired(session: SessionMachine, repair: Repair, now: float) -> bool:
    """Ask again for what is missing; False where the connection had to be given up."""
    connection = session.connection
    try:
        repair.scan(now)
    except ProtocolError as error:
        session.lose(error)
    return session.connection is connection
