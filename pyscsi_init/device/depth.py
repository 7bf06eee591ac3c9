# SPDX-License-Identifier: Apache-2.0
"""How many commands a unit takes at a time, learnt from TASK SET FULL (SAM-5 5.3.1).

A unit whose task set is full refuses what comes and says no number. So from then on it gets no more
than it had when it refused, and one more after each long row of successes, until it has taken as
many as the settings allow or refuses again. A unit that never refuses is never counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from ..session import TaskState
from ..transport import Session
from .interface import BlockRequest

SUCCESSES_PER_STEP = 64
"""Commands for each place of the present depth before one more is tried: at the edge less than two
in a hundred are refused."""

WAKE_SECONDS = 0.02
"""Between looks at a task set that was full: a place may become free without our hearing of it, by
a command that took the short cut."""


class QueueDepth:
    """The depth of one unit, and the requests that wait for a place in its task set.

    ``send`` sends one request, or does nothing with one that has ended. ``short_cut`` is called
    with False while every request has to be counted, with True when none has to be any more.
    """

    def __init__(
        self,
        session: Session,
        lun: bytes,
        send: Callable[[BlockRequest], None],
        short_cut: Callable[[bool], None],
    ) -> None:
        self._session = session
        self._lun = lun
        self._send = send
        self._short_cut = short_cut
        self._waiting: deque[BlockRequest] = deque()
        self._successes = 0
        self._waking = self._letting_in = False
        self.limit: int | None = None
        """None where no limit is known."""

    def refused(self) -> None:
        """TASK SET FULL: the commands of ours that are there now are as many as there is room."""
        self._successes = 0
        self.limit = max(min(self._in_task_set(), self._session.settings.queue_depth), 1)
        self._short_cut(False)

    def holds(self, request: BlockRequest) -> bool:
        """There is no place now: the request is kept, and sent when there is."""
        if self.limit is None or self._in_task_set() < self.limit:
            return False
        self._waiting.append(request)
        self._wake_later()
        return True

    def ended(self, *, well: bool) -> None:
        """A command left the task set."""
        if well and self.limit is not None:
            self._successes += 1
            if self._successes >= SUCCESSES_PER_STEP * self.limit:
                self._successes = 0
                self.limit += 1
                if self.limit >= self._session.settings.queue_depth:
                    self.limit = None
                    self._short_cut(True)
        self._let_in()

    def _in_task_set(self) -> int:
        tasks = self._session.tasks()
        return sum(task.lun == self._lun and task.state is TaskState.SENT for task in tasks)

    def _let_in(self) -> None:
        if self._letting_in:
            return  # a request that ended at once: the loop below sees its place
        self._letting_in = True
        while self._waiting and (self.limit is None or self._in_task_set() < self.limit):
            self._send(self._waiting.popleft())
        self._letting_in = False

    def _wake_later(self) -> None:
        if self._waking:
            return
        self._waking = True

        def wake() -> None:
            self._waking = False
            self._let_in()
            if self._waiting:
                self._wake_later()

        reactor = self._session.reactor
        reactor.call_at(reactor.now() + WAKE_SECONDS, wake)
