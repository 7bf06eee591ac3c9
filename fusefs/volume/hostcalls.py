# SPDX-License-Identifier: Apache-2.0
"""Calls of the host from an event loop: in a thread, and to their end even when cancelled.

A system call cannot be taken back. So a cancelled caller does not walk away from mount(2): it waits
for it, and when that takes too long because the target below is gone, it pulls the rug: the FUSE
connection is aborted, every request under the call fails, and the call ends. Only then the
cancellation goes on, and what the call did can be undone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import anyio.to_thread

T = TypeVar("T")

CANCEL_GRACE_S = 5.0
"""What a cancelled caller grants a call that is under way: most end by themselves in this time."""


async def host_call(function: Callable[[], T], abort: Callable[[], object] | None = None) -> T:
    """Run ``function`` in a thread.

    Cancellation: ``function`` has ended when this raises; ``abort`` is called, in another thread,
    if it does not end by itself.
    """
    ended = anyio.Event()
    results: list[T] = []
    faults: list[BaseException] = []

    def capture() -> None:
        try:
            results.append(function())
        except BaseException as fault:  # raised again below, on the caller's side
            faults.append(fault)

    async def run() -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(capture)
            ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        try:
            await ended.wait()
        except anyio.get_cancelled_exc_class():
            with anyio.CancelScope(shield=True):
                with anyio.move_on_after(CANCEL_GRACE_S):
                    await ended.wait()
                if not ended.is_set() and abort is not None:
                    await anyio.to_thread.run_sync(abort)
                await ended.wait()
            raise
    if faults:
        raise faults[0]
    return results[0]


async def shielded(function: Callable[[], Awaitable[None]]) -> None:
    """Run a step of undoing to its end, whoever wants to stop it."""
    with anyio.CancelScope(shield=True):
        await function()
