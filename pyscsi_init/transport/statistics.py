# SPDX-License-Identifier: Apache-2.0
"""What a session has been through, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class SessionStatistics:
    """Counts since the session was opened."""

    logins: int = 0
    recoveries: int = 0
    """Losses that were recovered from."""
    losses: int = 0
    login_failures: int = 0
    continuations: int = 0
    """Losses after which the session itself went on (error recovery level 2) ..."""
    reassigned: int = 0
    """... tasks that did so with it ..."""
    sent_again: int = 0
    """... and commands that had never arrived and were sent again with the same CmdSN."""
