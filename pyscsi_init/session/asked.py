# SPDX-License-Identifier: Apache-2.0
"""The target wants us to log out: by an asynchronous message, or by rejecting what we send.

No new command leaves; what is in flight has some time; then the logout goes, and the session comes
back (RFC 7143 11.9.1). What the target does not carry out meanwhile is sent in the next session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..connection import ConnectionMachine, ConnectionState
from ..pdu import Reject, RejectReason
from .flow import pump
from .reject import rejected
from .task import ScsiTask, TaskState
from .tasks import MAX_ATTEMPTS

if TYPE_CHECKING:
    from .machine import SessionMachine

_ILLEGAL_REQUEST = 0x5
_UNIT_NOT_SUPPORTED = 0x25
_DESCRIPTOR = (0x72, 0x73)


def asked_to_log_out(
    session: SessionMachine, connection: ConnectionMachine, seconds: float, now: float
) -> None:
    """No new commands, log out within ``seconds``, come back."""
    connection.logout_requested()
    if connection.state is not ConnectionState.S7_LOGOUT_REQUESTED:
        return  # our logout is on its way already
    session.fast.review()
    # Half the time is for what is in flight; a target that says 0 gets its logout at once.
    limit = now + min(seconds / 2, session.settings.command_timeout)
    session.logout_by = limit if session.logout_by is None else min(session.logout_by, limit)
    session.deadlines_moved = True
    pump(session, now)


def reject_received(
    session: SessionMachine, connection: ConnectionMachine, reject: Reject, now: float
) -> None:
    """See reject.py; with reason 0Ch nothing but a logout is taken any more.

    Raises:
        ProtocolError: the Reject does not say what it is about, or there are too many.
    """
    rejected(session, reject)
    if reject.reason == RejectReason.WAITING_FOR_LOGOUT and session.connection is connection:
        asked_to_log_out(session, connection, 0, now)


def unit_has_moved(connection: ConnectionMachine, task: ScsiTask) -> bool:
    """Between the demand for a logout and the logout LOGICAL UNIT NOT SUPPORTED (05/25) says that
    the unit is elsewhere by now, and that the command was not carried out: EqualLogic ends commands
    so while it moves a volume."""
    if connection.state not in (
        ConnectionState.S7_LOGOUT_REQUESTED,
        ConnectionState.S6_IN_LOGOUT,
    ):
        return False
    sense = task.sense
    if sense[:1] and sense[0] & 0x7F in _DESCRIPTOR:
        key, code = sense[1:2], sense[2:3]
    else:
        key, code = sense[2:3], sense[12:13]
    return (
        task.state is TaskState.SENT
        and not task.control
        and task.attempts < MAX_ATTEMPTS
        and bool(key and code)
        and key[0] & 0xF == _ILLEGAL_REQUEST
        and code[0] == _UNIT_NOT_SUPPORTED
    )
