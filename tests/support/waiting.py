# SPDX-License-Identifier: Apache-2.0
"""Wait for what another process or the kernel does: there is no event to wait for, so ask again."""

from __future__ import annotations

import time
from collections.abc import Callable

import anyio


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Return as soon as ``condition`` holds; TimeoutError after ``seconds``."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  (nobody here can set an event)
            await anyio.sleep(0.01)


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """The same without an event loop.

    Raises:
        TimeoutError: it did not within ``seconds``; it says ``what`` was waited for.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)
