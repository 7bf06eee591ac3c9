# SPDX-License-Identifier: Apache-2.0
"""What a session has to say for itself: rare events, never one per command.

Frozen records in the past tense. The answer to a command goes to the completion of its task; what
is here concerns the session as a whole, and the one who drives it acts on it.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import IscsiError
from ..login import Parameters


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """Full feature phase was reached. I/O is held back until ``resume`` where ``again`` is true."""

    parameters: Parameters
    tsih: int
    again: bool


@dataclass(frozen=True, slots=True)
class Continued:
    """The session goes on over a new connection (error recovery level 2): so many tasks were
    reassigned to it, and so many commands that had never arrived were sent again."""

    reassigned: int
    sent_again: int


@dataclass(frozen=True, slots=True)
class LoginEnded:
    """The login phase failed; the TCP connection is to be closed."""

    error: IscsiError


@dataclass(frozen=True, slots=True)
class ConnectionEnded:
    """The connection is over, to be closed. ``error`` is None after a logout.

    ``wait`` is the time in seconds before the next login that the target asked for (RFC 7143 7.5);
    ``again`` is false where the session was closed on purpose.
    """

    error: IscsiError | None
    wait: float
    again: bool


@dataclass(frozen=True, slots=True)
class AsyncEventReceived:
    """A SCSI asynchronous event (code 0), or a vendor's (248..255), for whom it may concern."""

    code: int
    lun: bytes
    sense: bytes


@dataclass(frozen=True, slots=True)
class Warned:
    """The peer did something odd that we tolerate; for the log."""

    text: str


Event = LoggedIn | Continued | LoginEnded | ConnectionEnded | AsyncEventReceived | Warned
