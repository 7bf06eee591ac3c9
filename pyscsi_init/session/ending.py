# SPDX-License-Identifier: Apache-2.0
"""How a connection of a session ends, and what that makes of the session and its tasks.

At error recovery level 0 and 1 the session ends with its connection, and what can be done again
waits for the next session. At level 2 it goes on over another connection where the connection alone
is to blame, unless it was in the middle of a recovery: that starts from the top.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..connection import ConnectionMachine, ConnectionState
from ..errors import ConnectionLost, IscsiError, SessionFailed
from .continuation import keep_tasks, may_continue
from .events import ConnectionEnded, LoginEnded
from .states import SessionState, SessionTransition, next_session_state

if TYPE_CHECKING:
    from .machine import SessionMachine


def lose(session: SessionMachine, error: IscsiError, now: float | None) -> None:
    """The connection is unusable; ``now`` where another one may take its place."""
    connection = session.connection
    if connection is None:
        return
    in_login = connection.state is ConnectionState.S4_IN_LOGIN
    connection.lost(recover=now is not None)
    session.fast.drop()
    if in_login:
        session.connection = None
        session.scan_at = None
        if session.closing:
            end_session(session)
        session.emit(LoginEnded(error))
        return
    connection_over(session, connection, error, now)


def connection_over(
    session: SessionMachine,
    connection: ConnectionMachine,
    error: IscsiError | None,
    now: float | None,
) -> None:
    """Full feature phase is over: by a loss, or (``error`` None) by a logout."""
    again = not session.closing
    wait: float = session.parameters.default_time2wait if error is not None else 0
    if session.wait is not None:
        wait = session.wait
    retain = session.parameters.default_time2retain if session.retain is None else session.retain
    continues = now is not None and retain > 0 and may_continue(session, error)
    session.connection = session.repair = None
    session.scan_at = session.logout_by = session.stalled_since = None
    session.held = False
    if again:
        session.state = next_session_state(session.state, SessionTransition.N5_LOST)
    else:
        end_session(session)
    lost = error or ConnectionLost("the target asked for a logout")
    if continues and now is not None:
        keep_tasks(session, connection, now, wait, retain)
        finished = session.tasks.end_requests(lost)
    else:
        connection.cleaned_up()
        finished = session.tasks.connection_lost(lost)
    if not again:
        finished += session.tasks.end_waiting(
            session.refusing or SessionFailed("the session is closed")
        )
    session.emit(ConnectionEnded(error, float(wait), again))
    for finish in finished:
        finish()


def end_session(session: SessionMachine) -> None:
    """The session is over for good, in the terms of its states."""
    if session.state is SessionState.Q3_LOGGED_IN:
        session.state = next_session_state(session.state, SessionTransition.N3_LOGGED_OUT)
    elif session.state is SessionState.Q4_FAILED:
        session.state = next_session_state(session.state, SessionTransition.N6_CLEARED)
