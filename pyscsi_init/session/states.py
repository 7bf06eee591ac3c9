# SPDX-License-Identifier: Apache-2.0
"""The session states of RFC 7143 8.3.1 for an initiator, as a table.

With one connection a session is what its connection makes of it: Q3 while that is in full feature
phase, Q4 between its loss and the next login. At error recovery levels 0 and 1 that login is a
session reinstatement: it clears the old instance (N6) and begins a new one (N1). At level 2 it may
be a session continuation (N4).
"""

from __future__ import annotations

import enum

from ..errors import ProtocolError


class SessionState(enum.Enum):
    """RFC 7143 8.3.3. The value is a sentence for a person."""

    Q1_FREE = "not logged in"
    Q3_LOGGED_IN = "logged in"
    Q4_FAILED = "connection lost, waiting to log in again"


class SessionTransition(enum.Enum):
    """RFC 7143 8.3.4, initiator side."""

    N1_LEADING_LOGIN = "the leading connection reached full feature phase"
    N3_LOGGED_OUT = "the last connection was logged out"
    N5_LOST = "the last connection failed"
    N4_CONTINUED = "a session continuation attempt succeeded"
    N6_CLEARED = "session reinstatement cleared the session, or recovery was given up"


_Q = SessionState
_N = SessionTransition

SESSION_TRANSITIONS: dict[tuple[SessionState, SessionTransition], SessionState] = {
    (_Q.Q1_FREE, _N.N1_LEADING_LOGIN): _Q.Q3_LOGGED_IN,
    (_Q.Q3_LOGGED_IN, _N.N3_LOGGED_OUT): _Q.Q1_FREE,
    (_Q.Q3_LOGGED_IN, _N.N5_LOST): _Q.Q4_FAILED,
    (_Q.Q4_FAILED, _N.N4_CONTINUED): _Q.Q3_LOGGED_IN,
    (_Q.Q4_FAILED, _N.N6_CLEARED): _Q.Q1_FREE,
}


def next_session_state(state: SessionState, transition: SessionTransition) -> SessionState:
    """The state after ``transition``; ProtocolError where RFC 7143 8.3.1 has none."""
    try:
        return SESSION_TRANSITIONS[state, transition]
    except KeyError:
        raise ProtocolError(
            f"{transition.name} ({transition.value}) cannot happen in {state.name} ({state.value})"
        ) from None
