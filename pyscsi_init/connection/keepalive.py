# SPDX-License-Identifier: Apache-2.0
"""When silence on a connection becomes a question, and when it becomes the answer.

Any byte from the target proves that it lives. After ``interval`` seconds without one a NOP-Out ping
is due (RFC 7143 11.18); after ``timeout`` more the connection counts as lost. Reads no clock.
"""

from __future__ import annotations

import enum


class Due(enum.Enum):
    """What the silence calls for."""

    NOTHING = enum.auto()
    PING = enum.auto()
    DEAD = enum.auto()


class Keepalive:
    """The deadlines of one connection; an ``interval`` of 0 never pings."""

    __slots__ = ("interval", "last_received", "pinged", "timeout")

    def __init__(self, interval: float, timeout: float, now: float) -> None:
        self.interval = interval
        self.timeout = timeout
        self.last_received = now
        self.pinged: float | None = None

    def received(self, now: float) -> None:
        """Bytes came in."""
        self.last_received = now
        self.pinged = None

    def ping_sent(self, now: float) -> None:
        """A ping left; the next silence is deadly."""
        self.pinged = now

    def deadline(self) -> float | None:
        """When to ask ``due`` again."""
        if not self.interval:
            return None
        if self.pinged is not None:
            return self.pinged + self.timeout
        return self.last_received + self.interval

    def due(self, now: float) -> Due:
        """What is called for at ``now``."""
        deadline = self.deadline()
        if deadline is None or now < deadline:
            return Due.NOTHING
        return Due.PING if self.pinged is None else Due.DEAD
