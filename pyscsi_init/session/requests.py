# SPDX-License-Identifier: Apache-2.0
"""What a session sends besides commands and task management: pings, text, logout.

None of them touches a logical unit. Pings and the logout are immediate, so a closed command window
does not hold them up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..connection import ConnectionMachine, ConnectionState
from ..errors import ConnectionLost, LocalProtocolError
from ..pdu import RESERVED_TAG, LogoutRequest, NopOut
from .deadlines import arm_scan
from .task import TextTask
from .tasks import Ping
from .text import start_text

if TYPE_CHECKING:
    from .machine import SessionMachine

CLOSE_SESSION = 0
"""Logout reason (RFC 7143 11.14.1)."""

_OPEN = (ConnectionState.S5_LOGGED_IN, ConnectionState.S7_LOGOUT_REQUESTED)


def send_logout(session: SessionMachine, connection: ConnectionMachine, now: float) -> None:
    """Ask the target to close the session; nothing may follow on this connection."""
    if connection.state not in _OPEN:
        return
    connection.send(
        LogoutRequest(
            immediate=True,
            reason=CLOSE_SESSION,
            cid=connection.cid,
            initiator_task_tag=session.tasks.new_tag(),
            cmd_sn=session.window.cmd_sn,
        )
    )
    connection.logout_sent(now)
    session.scan_at = session.logout_by = session.stalled_since = None  # its own deadline rules
    session.deadlines_moved = True


def send_ping(session: SessionMachine, now: float) -> None:
    """Ask the target for a sign of life (RFC 7143 11.18). The last question is the one that counts:
    an older one that was never answered is forgotten."""
    connection = session.connection
    if connection is None or connection.state not in _OPEN:
        return
    for tag in [tag for tag, each in session.tasks.requests.items() if isinstance(each, Ping)]:
        del session.tasks.requests[tag]
    ping = Ping()
    ping.initiator_task_tag = session.tasks.new_tag()
    session.tasks.requests[ping.initiator_task_tag] = ping
    connection.send(
        NopOut(
            immediate=True,
            initiator_task_tag=ping.initiator_task_tag,
            target_transfer_tag=RESERVED_TAG,
            cmd_sn=session.window.cmd_sn,
        )
    )
    connection.keepalive.ping_sent(now)
    session.deadlines_moved = True


def start_text_task(session: SessionMachine, task: TextTask, now: float) -> None:
    """Start a text exchange; only one may be outstanding on a connection (RFC 7143 11.10)."""
    connection = session.connection
    if connection is None or not connection.full_feature:
        task.finish(ConnectionLost("the session is not logged in"))
        return
    if any(isinstance(request, TextTask) for request in session.tasks.requests.values()):
        task.finish(LocalProtocolError("a text exchange is outstanding already"))
        return
    task.initiator_task_tag = session.tasks.new_tag()
    task.deadline = now + task.timeout
    session.tasks.requests[task.initiator_task_tag] = task
    start_text(
        connection,
        session.window,
        task,
        session.parameters.target_max_recv_data_segment_length,
    )
    arm_scan(session, now)
