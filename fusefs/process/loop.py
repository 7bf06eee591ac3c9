# SPDX-License-Identifier: Apache-2.0
"""The holder's event loop: callbacks on descriptors and at times, in one thread, standard library.

Much less than an event loop of asyncio, on purpose: the process that outlives all others should
have little in it. The clock is given, so that tests of delays take no time.
"""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections.abc import Callable

Callback = Callable[[], None]


class Timer:
    """A call that will be made once, unless cancelled."""

    __slots__ = ("callback", "when")

    def __init__(self, when: float, callback: Callback) -> None:
        self.when = when
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Do not make the call. Does nothing once it was made."""
        self.callback = None


class Loop:
    """Descriptors and timers. What a callback raises ends :meth:`run`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.now = clock
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callback] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._numbers = itertools.count()
        self._running = False

    def watch(self, fd: int, callback: Callback, events: int = select.EPOLLIN) -> None:
        """Call back while ``fd`` is ready for ``events``."""
        if fd in self._callbacks:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def unwatch(self, fd: int) -> None:
        """Call no more; before the descriptor is closed. One that is not watched is ignored."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def call_in(self, seconds: float, callback: Callback) -> Timer:
        """Call back once, after so many seconds."""
        timer = Timer(self.now() + seconds, callback)
        heapq.heappush(self._timers, (timer.when, next(self._numbers), timer))
        return timer

    def turn(self, longest_s: float | None = None) -> None:
        """Wait until something is to be done, for at most ``longest_s``, and do it.

        Descriptors come before timers: whoever was late to read must not judge by a clock what is
        already there to be read.
        """
        timeout = longest_s
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if self._timers:
            due = max(0.0, self._timers[0][0] - self.now())
            timeout = due if timeout is None else min(timeout, due)
        for fd, _ in self._epoll.poll(timeout):
            if callback := self._callbacks.get(fd):
                callback()
        now = self.now()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            due_callback, timer.callback = timer.callback, None
            if due_callback is not None:
                due_callback()

    def run(self) -> None:
        """Turn until :meth:`stop`."""
        self._running = True
        while self._running:
            self.turn()

    def stop(self) -> None:
        """End :meth:`run` after this turn."""
        self._running = False

    def close(self) -> None:
        """Let go of everything."""
        self._callbacks.clear()
        self._epoll.close()
