# SPDX-License-Identifier: Apache-2.0
"""How a call is run: one at a time for each volume, to its end, and with an end that is understood.

A caller that gives up waiting does not stop what it began: mkfs of a large LUN takes longer than an
orchestrator waits, and would begin anew each time. So each call that changes something is a task of
its own. Until it has ended the volume's further calls are ABORTED, after that the same call finds
its work done. When the server stops, what is under way is cancelled, which undoes it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
import grpc
from google.protobuf.message import Message

from fusefs.csi.errors import Code, Refused, code_of, is_expected, text_of
from fusefs.errors import OperationInProgress

log = logging.getLogger("fusefs.csi")

T = TypeVar("T")


class Calls:
    """What is under way, by volume."""

    def __init__(self) -> None:
        self._busy: dict[str, str] = {}
        self._running: dict[asyncio.Task[Any], anyio.CancelScope] = {}

    async def alone(self, key: str, operation: str, function: Callable[[], Awaitable[T]]) -> T:
        """Run ``function`` as the only one for ``key``.

        Raises:
            OperationInProgress: another one runs.
            Refused: UNAVAILABLE, the server is stopping.

        Cancellation: the function goes on.
        """
        if key in self._busy:
            raise OperationInProgress(key, operation=self._busy[key])
        self._busy[key] = operation
        scope = anyio.CancelScope()
        task = asyncio.create_task(self._run(key, scope, function), name=f"{operation} {key}")
        self._running[task] = scope
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def _run(
        self, key: str, scope: anyio.CancelScope, function: Callable[[], Awaitable[T]]
    ) -> T:
        try:
            with scope:
                return await function()
        finally:
            del self._busy[key]
        raise Refused(Code.UNAVAILABLE, f"volume {key!r}: the server is stopping")

    def _ended(self, task: asyncio.Task[Any]) -> None:
        del self._running[task]
        if not task.cancelled() and (error := task.exception()) is not None:
            # Whoever began it may be gone; then this line is all that tells.
            log.debug("%s ended with %s", task.get_name(), text_of(error))

    async def stop(self) -> None:
        """Cancel what is under way and wait for its end."""
        for scope in self._running.values():
            scope.cancel()
        if self._running:
            await asyncio.wait(list(self._running))


Method = Callable[[Any], Awaitable[Message]]


def answering(name: str, method: Method) -> Callable[[Any, Any], Awaitable[Message]]:
    """``method`` as gRPC wants it: what it raises becomes a status. No request is ever logged:
    there are secrets in it."""

    async def answer(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Message:
        began = time.monotonic()
        volume = getattr(request, "volume_id", "") or getattr(request, "name", "")
        try:
            response = await method(request)
        except Exception as error:
            code = code_of(error)
            took = time.monotonic() - began
            if is_expected(error):
                log.info("%s %r: %s in %.1f s: %s", name, volume, code.name, took, text_of(error))
            else:
                log.exception("%s %r: internal error in %.1f s", name, volume, took)
            await context.abort(code, text_of(error))
        log.info("%s %r: OK in %.1f s", name, volume, time.monotonic() - began)
        return response

    return answer
