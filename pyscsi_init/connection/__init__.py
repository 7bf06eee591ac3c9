# SPDX-License-Identifier: Apache-2.0
"""One TCP connection of a session, without the socket: states, framing, StatSN, keepalive."""

from .keepalive import Due, Keepalive
from .machine import Buffer, ConnectionMachine
from .states import TRANSITIONS, ConnectionState, Transition, next_state

__all__ = [
    "TRANSITIONS",
    "Buffer",
    "ConnectionMachine",
    "ConnectionState",
    "Due",
    "Keepalive",
    "Transition",
    "next_state",
]
