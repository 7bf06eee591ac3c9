# SPDX-License-Identifier: Apache-2.0
"""The connection states of RFC 7143 8.1.3 for an initiator, as the standard's own table.

A key that is absent is a transition that the standard does not know: ``next_state`` turns it into a
ProtocolError that names both. The diagram in the documentation is drawn from ``TRANSITIONS``.
"""

from __future__ import annotations

import enum

from ..errors import ProtocolError


class ConnectionState(enum.Enum):
    """RFC 7143 8.1.1. The value is a sentence for a person."""

    S1_FREE = "no connection"
    S2_XPT_WAIT = "waiting for the TCP connection"
    S4_IN_LOGIN = "in the login phase"
    S5_LOGGED_IN = "in full feature phase"
    S6_IN_LOGOUT = "waiting for the logout response"
    S7_LOGOUT_REQUESTED = "the target asked for a logout"
    S8_CLEANUP_WAIT = "failed, waiting for recovery or time-out"


class Transition(enum.Enum):
    """RFC 7143 8.1.2, initiator side. The value says what happened."""

    T1_CONNECT_REQUESTED = "TCP connect request sent"
    T2_CONNECT_FAILED = "TCP connect failed or timed out"
    T4_CONNECTED = "TCP connection established"
    T5_LOGIN_DONE = "final login response with success"
    T7_LOGIN_FAILED = "login refused, timed out or torn"
    T8_SESSION_CLOSED = "the session was logged out on another connection"
    T9_LOGOUT_SENT = "logout request sent"
    T10_LOGOUT_SENT = "logout request sent as the target asked"
    T11_LOGOUT_REQUESTED = "asynchronous message requests logout"
    T12_LOGOUT_REQUESTED_AGAIN = "asynchronous message requests logout again"
    T13_LOGOUT_DONE = "logout response with success"
    T14_LOGOUT_REQUESTED_LATE = "asynchronous message requests logout while in logout"
    T15_LOST = "connection lost"
    T16_LOST = "connection lost before the requested logout"
    T17_LOGOUT_FAILED = "logout refused, timed out or torn"
    T18_SESSION_CLOSED = "the session was logged out on another connection, as the target asked"
    M1_CLEANED_UP = "recovery is over or timed out"


_S = ConnectionState
_T = Transition

TRANSITIONS: dict[tuple[ConnectionState, Transition], ConnectionState] = {
    (_S.S1_FREE, _T.T1_CONNECT_REQUESTED): _S.S2_XPT_WAIT,
    (_S.S2_XPT_WAIT, _T.T2_CONNECT_FAILED): _S.S1_FREE,
    (_S.S2_XPT_WAIT, _T.T4_CONNECTED): _S.S4_IN_LOGIN,
    (_S.S4_IN_LOGIN, _T.T5_LOGIN_DONE): _S.S5_LOGGED_IN,
    (_S.S4_IN_LOGIN, _T.T7_LOGIN_FAILED): _S.S1_FREE,
    (_S.S5_LOGGED_IN, _T.T8_SESSION_CLOSED): _S.S1_FREE,
    (_S.S5_LOGGED_IN, _T.T9_LOGOUT_SENT): _S.S6_IN_LOGOUT,
    (_S.S5_LOGGED_IN, _T.T11_LOGOUT_REQUESTED): _S.S7_LOGOUT_REQUESTED,
    (_S.S5_LOGGED_IN, _T.T15_LOST): _S.S8_CLEANUP_WAIT,
    (_S.S6_IN_LOGOUT, _T.T13_LOGOUT_DONE): _S.S1_FREE,
    (_S.S6_IN_LOGOUT, _T.T14_LOGOUT_REQUESTED_LATE): _S.S6_IN_LOGOUT,
    (_S.S6_IN_LOGOUT, _T.T17_LOGOUT_FAILED): _S.S8_CLEANUP_WAIT,
    (_S.S7_LOGOUT_REQUESTED, _T.T10_LOGOUT_SENT): _S.S6_IN_LOGOUT,
    (_S.S7_LOGOUT_REQUESTED, _T.T12_LOGOUT_REQUESTED_AGAIN): _S.S7_LOGOUT_REQUESTED,
    (_S.S7_LOGOUT_REQUESTED, _T.T16_LOST): _S.S8_CLEANUP_WAIT,
    (_S.S7_LOGOUT_REQUESTED, _T.T18_SESSION_CLOSED): _S.S1_FREE,
    (_S.S8_CLEANUP_WAIT, _T.M1_CLEANED_UP): _S.S1_FREE,
}

LOST: dict[ConnectionState, tuple[Transition, ...]] = {
    _S.S1_FREE: (),
    _S.S2_XPT_WAIT: (_T.T2_CONNECT_FAILED,),
    _S.S4_IN_LOGIN: (_T.T7_LOGIN_FAILED,),
    _S.S5_LOGGED_IN: (_T.T15_LOST, _T.M1_CLEANED_UP),
    _S.S6_IN_LOGOUT: (_T.T17_LOGOUT_FAILED, _T.M1_CLEANED_UP),
    _S.S7_LOGOUT_REQUESTED: (_T.T16_LOST, _T.M1_CLEANED_UP),
    _S.S8_CLEANUP_WAIT: (_T.M1_CLEANED_UP,),
}
"""Which transitions the loss of the TCP connection is, in each state. At error recovery level 0
CLEANUP_WAIT is passed through at once: session recovery needs nothing of the old connection
(RFC 7143 7.1.4.4). Connection recovery waits in it (6.3.4)."""


def next_state(state: ConnectionState, transition: Transition) -> ConnectionState:
    """The state after ``transition``.

    Raises:
        ProtocolError: RFC 7143 8.1.3 has no such transition from ``state``.
    """
    try:
        return TRANSITIONS[state, transition]
    except KeyError:
        raise ProtocolError(
            f"{transition.name} ({transition.value}) cannot happen in {state.name} ({state.value})"
        ) from None
