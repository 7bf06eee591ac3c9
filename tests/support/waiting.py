# SPDX-License-Identifier: Apache-2.0
"""Wait for what another process or the kernel does: there is no event to wait for, so ask again."""

from __future__ import annotations

from collections.abc import Callable

import anyio


async def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Return as soon as ``condition`` holds; TimeoutError after ``seconds``."""
    with anyio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110  (nobody here can set an event)
            await anyio.sleep(0.01)
