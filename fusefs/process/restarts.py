# SPDX-License-Identifier: Apache-2.0
"""When a process that died is started again: at once, but not for ever at once.

A worker that served and was killed is back at once: every millisecond is one in which I/O stands
still. One that dies of what it finds at its start would burn the processor and the target, so it
waits, longer each time. What tells them apart is how long they served: each second of service buys
one restart at once, and a few are there from the beginning. Time goes in, a delay comes out; no
clock is read here.

INVARIANT: nothing but the standard library, because the holder imports this.
"""

from __future__ import annotations

DELAYS_S = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""After the first, second, ... death in a row that nothing was left for; the last one for all that
follow."""

AT_ONCE = 3
"""As many as come in one burst: more than a person kills by hand, and soon over in a loop."""
SERVICE_S = 1.0
"""This long a service is worth one restart at once: a worker that dies of a request that was left
to it dies within milliseconds, since all of them are submitted before it reads another."""


class Restarts:
    """The deaths of one volume's workers, or of the zygotes."""

    def __init__(self, count: int = 0, *, longest_after_service_s: float = DELAYS_S[-1]) -> None:
        """``longest_after_service_s``: the most that follows the death of one that had begun to
        serve. A worker may die of what it serves; a zygote serves nothing it could die of, and
        every volume whose worker dies waits for it."""
        self.count = count
        """Successors that were asked for, ever."""
        self._longest_after_service_s = longest_after_service_s
        self._credit = float(AT_ONCE)
        self._in_a_row = 0

    def died(self, now: float, ready_at: float | None) -> float:
        """How many seconds to wait before the next one starts. ``ready_at``: when the dead one
        began to serve, None if it never did."""
        self.count += 1
        if ready_at is not None:
            self._credit = min(AT_ONCE, self._credit + (now - ready_at) / SERVICE_S)
        if self._credit >= 1:
            self._credit -= 1
            self._in_a_row = 0
            return 0.0
        delay = DELAYS_S[min(self._in_a_row, len(DELAYS_S) - 1)]
        self._in_a_row += 1
        return delay if ready_at is None else min(delay, self._longest_after_service_s)
