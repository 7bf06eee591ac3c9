# SPDX-License-Identifier: Apache-2.0
"""Two guards around calls that can block: not on an event loop, and not for ever.

Every call of this folder may end in a request to a FUSE file that this very program serves. On the
thread of the event loop that is a deadlock, so it is refused with RuntimeError: a bug of ours, not
an error of the volume. Elsewhere the call runs in a thread of its own, and the caller waits for a
bounded time. A system call cannot be taken back; the thread is left behind and ends when the kernel
lets it go, at the latest when the FUSE connection below is aborted; what it did too late is undone.

INVARIANT: what serves a FUSE connection must not be the only one who can abort it: a thread in an
uninterruptible wait keeps the descriptors of its whole process open, /dev/fuse among them.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from fusefs.errors import Timeout

P = ParamSpec("P")
T = TypeVar("T")


def running_loop() -> str:
    """The kind of event loop that runs on this thread, or an empty string."""
    # Who runs a loop has imported it; we must not be the ones who do.
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None and hasattr(asyncio, "get_running_loop"):
        with contextlib.suppress(RuntimeError):
            asyncio.get_running_loop()
            return "asyncio"
    trio = sys.modules.get("trio")
    if trio is not None and hasattr(trio, "lowlevel"):
        with contextlib.suppress(RuntimeError):
            trio.lowlevel.current_task()
            return "trio"
    return ""


def assert_off_loop(what: str) -> None:
    """Refuse to block the thread of an event loop.

    Raises:
        RuntimeError: the caller runs on such a thread.
    """
    kind = running_loop()
    if kind:
        raise RuntimeError(
            f"{what} blocks and was called on the {kind} thread; use a worker thread"
        )


def blocking(function: Callable[P, T]) -> Callable[P, T]:
    """Mark a function that may block: it refuses to run on the thread of an event loop."""

    @functools.wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> T:
        assert_off_loop(function.__qualname__)
        return function(*args, **kwargs)

    return guarded


def bounded(
    what: str,
    timeout_s: float,
    function: Callable[[], T],
    *,
    undo: Callable[[T], object] | None = None,
    remedy: str = "",
) -> T:
    """The result of ``function()``, run in a thread of its own.

    ``undo`` takes back what was done too late: it gets a result that nobody waits for any more, so
    that a step which failed by Timeout leaves nothing behind when the kernel lets it go at last.

    Raises:
        Timeout: it is not over after ``timeout_s``; it goes on without anyone who waits for it.
    """
    over = threading.Event()
    decision = threading.Lock()
    abandoned = False
    results: list[T] = []
    faults: list[BaseException] = []

    def run() -> None:
        try:
            result = function()
        except BaseException as fault:
            faults.append(fault)
            over.set()
            return
        with decision:
            results.append(result)
            over.set()
            late = abandoned
        if late and undo is not None:
            with contextlib.suppress(Exception):  # there is nobody left to tell
                undo(result)

    thread = threading.Thread(target=run, name=f"host: {what}", daemon=True)
    thread.start()
    if not over.wait(timeout_s):
        with decision:
            abandoned = not over.is_set()
        if abandoned:
            raise Timeout(what, timeout_s, remedy=remedy or "abort the FUSE connection below it")
    thread.join()
    if faults:
        raise faults[0]
    return results[0]
