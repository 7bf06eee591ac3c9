# SPDX-License-Identifier: Apache-2.0
"""Descriptor callbacks and timers over trio, asyncio or uvloop: what drives the data path.

A callback per readable descriptor costs far less than a task that waits for it: no task switch and
no object per I/O. Sockets and /dev/fuse are driven by the same reactor, so that one wake-up can
drain both. Whatever a callback raises ends the ``open_reactor`` block: a data path with a bug in it
must not go on half alive.

``at_end_of_turn`` is how sends are coalesced: a function given to it during a callback runs once,
after that callback, so all PDUs that one wake-up made leave in one system call. Outside of a
callback it runs at once: a lone caller does not wait for a batch.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import anyio

Callback = Callable[[], None]


class Timer(Protocol):
    """A call that will be made, unless cancelled."""

    def cancel(self) -> None:
        """Do not make the call. Does nothing once it was made."""


class Reactor(ABC):
    """Callbacks on the event loop's thread. Only to be used from that thread."""

    def __init__(self) -> None:
        self._in_callback = False
        self._end_of_turn: dict[Callback, None] = {}

    @abstractmethod
    def now(self) -> float:
        """The loop's clock, in seconds."""

    @abstractmethod
    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call ``callback`` while ``fd`` is readable, until ``remove_reader``."""

    @abstractmethod
    def remove_reader(self, fd: int) -> None:
        """Call no more; before the descriptor is closed. Unknown descriptors are ignored."""

    @abstractmethod
    def add_writer(self, fd: int, callback: Callback) -> None:
        """Call ``callback`` while ``fd`` is writable, until ``remove_writer``."""

    @abstractmethod
    def remove_writer(self, fd: int) -> None:
        """The counterpart of ``add_writer``."""

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
        """Call ``callback`` once after the present callback of the reactor; at once outside of
        one."""
        if self._in_callback:
            self._end_of_turn[callback] = None
        else:
            callback()

    def run_callback(self, callback: Callback) -> None:
        """Run a callback as a turn of its own, with what it leaves for the end of it."""
        self._in_callback = True
        try:
            callback()
            while self._end_of_turn:
                later, _ = self._end_of_turn.popitem()
                later()
        finally:
            self._in_callback = False


class AsyncioReactor(Reactor):
    """Over asyncio's own readers and timers; uvloop is the same interface, faster."""

    def __init__(self, group: anyio.abc.TaskGroup) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._group = group
        self._readers: set[int] = set()
        self._writers: set[int] = set()
        self._closed = False
        self.failure: BaseException | None = None

    def now(self) -> float:
        return self._loop.time()

    def _guarded(self, callback: Callback) -> None:
        if self._closed:
            return  # a timer that outlived the block
        try:
            self.run_callback(callback)
        except BaseException as error:
            if self.failure is None:
                self.failure = error
            self._group.cancel_scope.cancel()

    def add_reader(self, fd: int, callback: Callback) -> None:
        self._readers.add(fd)
        self._loop.add_reader(fd, self._guarded, callback)

    def remove_reader(self, fd: int) -> None:
        self._readers.discard(fd)
        self._loop.remove_reader(fd)

    def add_writer(self, fd: int, callback: Callback) -> None:
        self._writers.add(fd)
        self._loop.add_writer(fd, self._guarded, callback)

    def remove_writer(self, fd: int) -> None:
        self._writers.discard(fd)
        self._loop.remove_writer(fd)

    def call_at(self, deadline: float, callback: Callback) -> Timer:
        return self._loop.call_at(deadline, self._guarded, callback)

    def call_soon(self, callback: Callback) -> None:
        self._loop.call_soon(self._guarded, callback)

    def spawn(self, function: Callable[[], Any]) -> None:
        self._group.start_soon(function)

    def close(self) -> None:
        """Forget every descriptor that is left, and call nothing any more."""
        self._closed = True
        for fd in list(self._readers):
            self.remove_reader(fd)
        for fd in list(self._writers):
            self.remove_writer(fd)
