# SPDX-License-Identifier: Apache-2.0
"""Two guards around calls that can block: not on an event loop, and not for ever.

Every call of this folder may end in a request to a FUSE file that this very program serves. On the
thread of the event loop that is a deadlock, so it is refused with RuntimeError: a bug of ours, not
an error of the volume. Elsewhere the call runs in a thread of its own, and the caller waits for a
bounded time. A system call cannot be taken back; the thread is left behind and ends when the kernel
lets it go, at the latest when the FUSE connection below is aborted.

INVARIANT: what serves a FUSE connection must not be the only one who can abort it: a thread in an
uninterruptible wait keeps the descriptors of its whole process open, /dev/fuse among them.
"""

from __future__ import annotations

import asyncio
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
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        return "asyncio"
    # A program on trio has imported it; we must not be the ones who do.
    trio = sys.modules.get("trio")
    if trio is not None:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            return ""
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


def bounded(what: str, timeout_s: float, function: Callable[[], T], *, remedy: str = "") -> T:
    """The result of ``function()``, run in a thread of its own.

    Raises:
        Timeout: it is not over after ``timeout_s``; it goes on without anyone who waits for it.
    """
    done = threading.Event()
    results: list[T] = []
    faults: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as fault:
            faults.append(fault)
        finally:
            done.set()

    thread = threading.Thread(target=run, name=f"host: {what}", daemon=True)
    thread.start()
    if not done.wait(timeout_s):
        raise Timeout(what, timeout_s, remedy=remedy or "abort the FUSE connection below it")
    thread.join()
    if faults:
        raise faults[0]
    return results[0]
