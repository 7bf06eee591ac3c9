# SPDX-License-Identifier: Apache-2.0
"""The reactor over trio; a file of its own so that who runs on asyncio need not load trio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from .reactor import Callback, Reactor, Timer


class _TrioTimer:
    def __init__(self, scope: trio.CancelScope) -> None:
        self._scope = scope

    def cancel(self) -> None:
        self._scope.cancel()


class TrioReactor(Reactor):
    """Over trio: one task for the descriptors and a small one per timer, none per I/O.

    Their scopes are shielded: a cancellation from outside ends the block, and the block may need
    its descriptors and timers to end in good order. ``close`` is what ends them.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__()
        self._nursery = nursery
        self._scopes: set[trio.CancelScope] = set()
        self._nursery.start_soon(self._watch, self._epoll.fileno(), self._scope())

    def _scope(self) -> trio.CancelScope:
        scope = trio.CancelScope(shield=True)
        self._scopes.add(scope)
        return scope

    def close(self) -> None:
        for scope in list(self._scopes):
            scope.cancel()
        super().close()

    def now(self) -> float:
        return trio.current_time()

    async def _watch(self, fd: int, scope: trio.CancelScope) -> None:
        with scope:
            # Asked before every wait: the descriptor is closed as soon as the scope is cancelled.
            while not scope.cancel_called:
                await trio.lowlevel.wait_readable(fd)
                while not scope.cancel_called and self._turn():
                    await trio.lowlevel.checkpoint()

    def _turn(self) -> bool:
        try:
            return self.turn()
        except BaseException as error:
            # Not the end of this task: the block needs its descriptors until it has ended.
            self._failed(error)
            return False

    def _failed(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
        self._nursery.cancel_scope.cancel()

    async def _sleep(self, deadline: float, callback: Callback, scope: trio.CancelScope) -> None:
        try:
            with scope:
                await trio.sleep_until(deadline)
                if not scope.cancel_called:
                    self.run_callback(callback)
        except trio.Cancelled:
            raise
        except BaseException as error:
            self._failed(error)
        finally:
            self._scopes.discard(scope)

    def call_at(self, deadline: float, callback: Callback) -> Timer:
        scope = self._scope()
        self._nursery.start_soon(self._sleep, deadline, callback, scope)
        return _TrioTimer(scope)

    def call_soon(self, callback: Callback) -> None:
        self.call_at(self.now(), callback)

    def spawn(self, function: Callable[[], Any]) -> None:
        self._nursery.start_soon(function)
