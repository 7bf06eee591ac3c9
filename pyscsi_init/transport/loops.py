# SPDX-License-Identifier: Apache-2.0
"""The reactor for the event loop that runs now."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import anyio
import sniffio

from .asyncio_reactor import AsyncioReactor
from .reactor import Reactor


@contextlib.asynccontextmanager
async def open_reactor() -> AsyncIterator[Reactor]:
    """A reactor on the loop that runs now; everything it started ends with the block.

    An exception of the block leaves it as it is, not wrapped in a group: the tasks in here are
    nobody's business. A callback that fails cancels the block and its error is raised instead.
    """
    error: BaseException | None = None
    if sniffio.current_async_library() == "trio":
        # Only where it runs: a process on asyncio does without trio's modules and their memory.
        import trio

        from .trio_reactor import TrioReactor

        trio_reactor: TrioReactor | None = None
        try:
            async with trio.open_nursery() as nursery:
                trio_reactor = TrioReactor(nursery)
                try:
                    yield trio_reactor
                except BaseException as raised:
                    error = raised
                finally:
                    trio_reactor.close()
                nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _first(group) from None
        if trio_reactor is not None and trio_reactor.failure is not None:
            raise trio_reactor.failure
    else:
        reactor: AsyncioReactor | None = None
        try:
            async with anyio.create_task_group() as tasks:
                reactor = AsyncioReactor(tasks)
                try:
                    yield reactor
                except BaseException as raised:
                    error = raised
                finally:
                    reactor.close()
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _first(group) from None
        if reactor is not None and reactor.failure is not None:
            raise reactor.failure
    if error is not None:
        raise error


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error that a group of tasks ended with; the others are its consequences."""
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first
