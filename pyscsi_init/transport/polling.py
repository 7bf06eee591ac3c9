# SPDX-License-Identifier: Apache-2.0
"""Whether to look once more for what is ready before sleeping, and for how long.

To fall asleep and be woken costs tens of microseconds where the processor halts, and most on a
virtual machine, where that takes two exits to the hypervisor. A target that answers within such a
time is heard sooner by who keeps looking. But who looks for what does not come burns a processor,
so the time is learned: it grows while wake-ups come so soon after falling asleep that looking would
have met them, and shrinks to nothing while they do not. Each look that finds nothing yields the
processor to whoever else wants it.

With many requests in flight there is nothing to gain: something is ready at almost every look, and
what comes during a sleep is handled together, which costs less. So it is done while few are.
"""

from __future__ import annotations

from collections.abc import Sized

UNDIVIDED_S = 500e-6
"""A slice for a process in which nothing is more urgent than the data path."""

FEW = 4
"""Requests in flight up to which looking again may pay."""

SHORTEST_S = 16e-6
"""The first step up from not looking at all, and the last on the way down."""


class BusyPolling:
    """The times of one reactor; all in seconds, on a clock that counts nanoseconds."""

    __slots__ = ("in_flight", "longest", "slept_at", "slice", "until", "window")

    def __init__(self) -> None:
        self.longest = 0.0
        """Never look longer than this for nothing; 0 to never do it."""
        self.slice = 10e-6
        """Look no longer than this without giving the event loop its turn."""
        self.window = 0.0
        """How long to look after the last that was found: what was learned."""
        self.until = 0.0
        """Look until then."""
        self.slept_at = 0.0
        """When looking ended and sleep began; 0 while that has not happened."""
        self.in_flight: list[Sized] = []
        """What waits for answers, by whoever drives it from this reactor."""

    def learn(self, now: float) -> None:
        """Something has ended the sleep. A wake-up without anything is none: an event loop makes it
        where it knew of what was found by a look in between."""
        slept, self.slept_at = now - self.slept_at, 0.0
        if slept < self.longest:
            self.window = min(max(2 * self.window, SHORTEST_S), self.longest)
        elif self.window > SHORTEST_S:
            self.window /= 2
        else:
            self.window = 0.0

    def watch(self, in_flight: Sized, longest: float) -> None:
        """Somebody's requests count from now on; he has no use for looking longer than that."""
        self.in_flight.append(in_flight)
        self.longest = max(self.longest, longest)

    def forget(self, in_flight: Sized) -> None:
        """The counterpart of ``watch``; of one who is not watched it does nothing."""
        # By identity: empty ones are equal.
        self.in_flight = [each for each in self.in_flight if each is not in_flight]

    def is_worth_it(self) -> bool:
        """Few requests are in flight."""
        return sum(map(len, self.in_flight)) <= FEW
