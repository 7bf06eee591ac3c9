# SPDX-License-Identifier: Apache-2.0
"""How a connection of a session begins: the login, and what full feature phase finds.

A login with TSIH 0 begins the session, or begins it anew where the target still has an old one
(RFC 7143 6.3.5). One with the session's TSIH reinstates its connection (6.3.4): the command window
and the tasks stay, and only the keys of the connection are negotiated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..connection import ConnectionMachine
from ..errors import ConnectionLost
from ..login import LoginMachine, LoginResult
from ..secret import Chap
from .continuation import abandon, continue_tasks
from .events import LoggedIn
from .receive import receive
from .repair import Repair, receive_and_repair
from .states import SessionState, SessionTransition, next_session_state
from .window import CommandWindow

if TYPE_CHECKING:
    from .machine import SessionMachine


def begin_login(session: SessionMachine, now: float, chap: Chap | None) -> None:
    """TCP is up: send the first Login Request."""
    kept = session.continuation
    if kept is not None and now >= kept.until:
        abandon(session, ConnectionLost("the target need not keep the tasks any longer"))
        kept = None
    if kept is None:
        session.window = CommandWindow(int.from_bytes(session.random_bytes(4), "big"))
    old = None if kept is None else kept.connection
    login = LoginMachine(
        session.settings,
        initiator_name=session.initiator_name,
        target_name=session.target_name,
        discovery=session.discovery,
        chap=chap,
        isid=session.isid,
        tsih=0 if old is None else session.tsih,
        cid=0 if old is None else old.cid,
        cmd_sn=session.window.cmd_sn,
        initiator_task_tag=session.tasks.new_tag(),
        random_bytes=session.random_bytes,
        leading_parameters=None if old is None else session.parameters,
    )
    session.wait = session.retain = None
    session.connection = ConnectionMachine(
        login,
        session.settings,
        now,
        cid=0 if old is None else old.cid,
        exp_stat_sn=0 if old is None else old.exp_stat_sn,
    )
    session.deadlines_moved = True


def logged_in(
    session: SessionMachine, connection: ConnectionMachine, result: LoginResult, now: float
) -> None:
    """Full feature phase is reached.

    Raises:
        ProtocolError: the numbers of the response cannot be.
    """
    kept, session.continuation = session.continuation, None
    continued = kept is not None
    again = session.state is SessionState.Q4_FAILED
    if kept is not None:
        kept.connection.cleaned_up()
        session.state = next_session_state(session.state, SessionTransition.N4_CONTINUED)
    else:
        if again:
            # RFC 7143 6.3.5: a login with TSIH 0 and the same ISID reinstates the session.
            session.state = next_session_state(session.state, SessionTransition.N6_CLEARED)
        session.state = next_session_state(session.state, SessionTransition.N1_LEADING_LOGIN)
    session.tsih = result.tsih
    session.parameters = result.parameters
    session.held = again and not continued
    session.rejects = 0
    session.deadlines_moved = True
    if result.parameters.error_recovery_level and not session.discovery:
        session.repair = Repair(session, connection)
        session.take_frame = receive_and_repair
    else:
        session.repair = None
        session.take_frame = receive
    if not session.discovery:
        connection.start_keepalive(now)
    session.fast.review()
    session.emit(LoggedIn(result.parameters, result.tsih, session.held))
    session.window.update(result.response.exp_cmd_sn, result.response.max_cmd_sn)
    if continued:
        continue_tasks(session, connection, now)
