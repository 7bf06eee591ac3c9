# SPDX-License-Identifier: Apache-2.0
"""When a process that died is started again: at once, but not for ever at once.

A worker that served for a while and was killed is back at once: every millisecond is one in which
I/O stands still. One that dies as soon as it serves would burn the processor and the target, so it
waits, longer each time. Time goes in, a delay comes out; no clock is read here.

INVARIANT: nothing but the standard library, because the holder imports this.
"""

from __future__ import annotations

DELAYS_S = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""After the first, second, ... death in a row; the last one for all that follow."""

HEALTHY_S = 1.0
"""Who served this long has not died of what it found at its start: requests that a successor
replays are submitted, and answered, within milliseconds."""


class Restarts:
    """The deaths of one volume's workers, or of the zygotes."""

    def __init__(self, count: int = 0) -> None:
        self.count = count
        """Successors that were asked for, ever."""
        self._in_a_row = 0

    def died(self, now: float, ready_at: float | None) -> float:
        """How many seconds to wait before the next one starts. ``ready_at``: when the dead one
        began to serve, None if it never did."""
        if ready_at is not None and now - ready_at >= HEALTHY_S:
            self._in_a_row = 0
        delay = DELAYS_S[min(self._in_a_row, len(DELAYS_S) - 1)]
        self._in_a_row += 1
        self.count += 1
        return delay
