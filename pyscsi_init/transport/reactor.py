# SPDX-License-Identifier: Apache-2.0
"""Descriptor callbacks and timers over trio, asyncio or uvloop: what drives the data path.

A callback per readable descriptor costs far less than a task that waits for it: no task switch and
no object per I/O. Sockets and /dev/fuse are driven by the same reactor, so that one wake-up can
drain both. Whatever a callback raises ends the ``open_reactor`` block: a data path with a bug in it
must not go on half alive.

Theory of operation. The reactor has an epoll descriptor of its own, and the event loop watches only
that one. When it becomes readable the loop calls ``turn``, which asks epoll what is ready and makes
the callbacks itself: the loop's own machinery is paid for once per wake-up and not per descriptor.
Then, where it pays, it asks again for a while before it lets the loop sleep (:mod:`.polling`),
but never longer than a slice without giving the loop its turn.

``at_end_of_turn`` is how sends are coalesced: a function given to it during a callback runs once,
after the callbacks of everything that was ready, so all PDUs that one look made leave in one system
call. Outside of a callback it runs at once: a lone caller does not wait for a batch. It runs also
where a callback has failed: what others have left for the end of the turn must not wait for an
event that may never come.
"""

from __future__ import annotations

import contextlib
import logging
import select
from abc import ABC, abstractmethod
from collections.abc import Callable
from os import sched_yield
from time import perf_counter
from typing import Any, Protocol

from .polling import BusyPolling

log = logging.getLogger(__name__)

Callback = Callable[[], None]

_EVENTS = 16
"""Most descriptors per look; one reactor has two or three."""
_READ = select.EPOLLIN | select.EPOLLPRI | select.EPOLLHUP | select.EPOLLERR
_WRITE = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR


class Timer(Protocol):
    """A call that will be made, unless cancelled."""

    def cancel(self) -> None:
        """Do not make the call. Does nothing once it was made."""


class Reactor(ABC):
    """Callbacks on the event loop's thread. Only to be used from that thread."""

    def __init__(self) -> None:
        self.polling = BusyPolling()
        """Whether to look again before sleeping; off unless somebody sets its limit."""
        self.failure: BaseException | None = None
        """What a callback raised: the block is ending, and what it had in hand is lost."""
        self._epoll = select.epoll()
        self._poll = self._epoll.poll
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._in_callback = False
        self._end_of_turn: dict[Callback, None] = {}

    # -- for who uses it --------------------------------------------------------------------------

    @abstractmethod
    def now(self) -> float:
        """The loop's clock, in seconds."""

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call ``callback`` while ``fd`` is readable, until ``remove_reader``."""
        known = fd in self._readers or fd in self._writers
        self._readers[fd] = callback
        self._register(fd, known)

    def remove_reader(self, fd: int) -> None:
        """Call no more; before the descriptor is closed. Unknown descriptors are ignored."""
        if self._readers.pop(fd, None) is not None:
            self._register(fd, known=True)

    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call ``callback`` while ``fd`` is writable, until ``remove_writer``."""
        known = fd in self._readers or fd in self._writers
        self._writers[fd] = callback
        self._register(fd, known)

    def remove_writer(self, fd: int) -> None:
        """The counterpart of ``add_writer``."""
        if self._writers.pop(fd, None) is not None:
            self._register(fd, known=True)

    @abstractmethod
    def call_at(self, deadline: float, callback: Callback) -> Timer:
        """Call ``callback`` once when ``now()`` has reached ``deadline``."""

    @abstractmethod
    def call_soon(self, callback: Callback) -> None:
        """Call ``callback`` once, soon, from the loop."""

    @abstractmethod
    def spawn(self, function: Callable[[], Any]) -> None:
        """Run a coroutine function as a task that ends with the reactor."""

    def at_end_of_turn(self, callback: Callback) -> None:
        """Call ``callback`` once after the present callbacks of the reactor; at once outside of
        them."""
        if self._in_callback:
            self._end_of_turn[callback] = None
        else:
            callback()

    def close(self) -> None:
        """Forget every descriptor and timer, and call nothing any more."""
        self._readers.clear()
        self._writers.clear()
        self._epoll.close()  # what is left for the end of a turn that is on still runs

    # -- for who implements it --------------------------------------------------------------------

    def run_callback(self, callback: Callback) -> None:
        """Run a callback as a turn of its own, with what it leaves for the end of it."""
        self._in_callback = True
        try:
            callback()
            while self._end_of_turn:
                later, _ = self._end_of_turn.popitem()
                later()
        except BaseException:
            self._end_failed_turn()
            raise
        finally:
            self._in_callback = False

    def turn(self) -> bool:
        """Make the callbacks of what is ready, and look again as long as polling wants.

        True: the slice is over but not the polling; to be called again after the loop's turn.
        """
        poll, polling = self._poll, self.polling
        readers, writers, end_of_turn = self._readers, self._writers, self._end_of_turn
        began = perf_counter()
        stop = began + polling.slice
        while True:
            events = poll(0, _EVENTS)
            if events:
                if polling.slept_at:
                    polling.learn(began)
                self._in_callback = True
                try:
                    for fd, event in events:
                        # Looked up each time: the callback before may have removed it.
                        if event & _READ and (callback := readers.get(fd)):
                            callback()
                        if event & _WRITE and (callback := writers.get(fd)):
                            callback()
                    while end_of_turn:
                        later, _ = end_of_turn.popitem()
                        later()
                except BaseException:
                    self._end_failed_turn()
                    raise
                finally:
                    self._in_callback = False
                now = perf_counter()
                if polling.window and polling.is_worth_it():
                    polling.until = now + polling.window
            else:
                now = perf_counter()
            if now >= polling.until or self._epoll.closed:
                polling.slept_at = now
                return False
            if now >= stop:
                return True
            # Whoever has something to do on this processor goes first; it may be our target.
            sched_yield()

    def _end_failed_turn(self) -> None:
        while self._end_of_turn:
            later, _ = self._end_of_turn.popitem()
            try:
                later()
            except Exception:
                log.exception("the end of a turn has failed, after a callback that has")

    def _register(self, fd: int, known: bool) -> None:
        events = (select.EPOLLIN if fd in self._readers else 0) | (
            select.EPOLLOUT if fd in self._writers else 0
        )
        if not events:
            # One that was closed is gone from epoll too.
            with contextlib.suppress(OSError, ValueError):
                self._epoll.unregister(fd)
        elif known:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
