# SPDX-License-Identifier: Apache-2.0
"""The reactor over asyncio; uvloop is the same interface, faster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import anyio
import sniffio

from .reactor import Callback, Reactor, Timer


class AsyncioReactor(Reactor):
    """Over asyncio's own reader, for the one descriptor, and its timers."""

    def __init__(self, group: anyio.abc.TaskGroup) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._group = group
        self._closed = False
        self._going_on = False
        """The next turn is with the loop already."""
        self._watched = self._epoll.fileno()
        self._loop.add_reader(self._watched, self._readable)

    def now(self) -> float:
        return self._loop.time()

    def _readable(self) -> None:
        # One turn for each round of the loop: each that goes on would bring one more with it, and
        # timers would wait for all of them.
        if not self._going_on:
            self._turn()

    def _turn(self) -> None:
        self._going_on = False
        if self._closed:
            return
        try:
            if self.turn():
                self._going_on = True
                self._loop.call_soon(self._turn)
        except BaseException as error:
            self._failed(error)

    def _guarded(self, callback: Callback) -> None:
        if self._closed:
            return  # a timer that outlived the block
        try:
            self.run_callback(callback)
        except BaseException as error:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
        self._group.cancel_scope.cancel()

    def call_at(self, deadline: float, callback: Callback) -> Timer:
        return self._loop.call_at(deadline, self._guarded, callback)

    def call_soon(self, callback: Callback) -> None:
        self._loop.call_soon(self._guarded, callback)

    def spawn(self, function: Callable[[], Any]) -> None:
        # Out of a callback anyio knows the library only if anyio.run started the loop.
        token = sniffio.current_async_library_cvar.set("asyncio")
        try:
            self._group.start_soon(function)
        finally:
            sniffio.current_async_library_cvar.reset(token)

    def close(self) -> None:
        self._closed = True
        self._loop.remove_reader(self._watched)
        super().close()
