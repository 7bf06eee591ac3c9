# SPDX-License-Identifier: Apache-2.0
"""Whether a block device keeps the rules of the interface: checks for anyone's device.

Like trio's ``check_one_way_stream`` this is public: call :func:`check_block_device` from the tests
of a device or a wrapper. Each check gets a fresh device from ``make`` and leaves its content
changed. What a device does not have (discard, write_zeroes, writing at all) is to be refused.

It knows the interface and nothing of what stands behind it; it needs at least 64 blocks,
and limits (where there are any) of at least 4.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import anyio

from .conformance_reads import READING_CHECKS, ConformanceError
from .conformance_writes import WRITING_CHECKS
from .interface import BlockDevice

__all__ = ["ConformanceError", "Make", "check_block_device"]

Make = Callable[[], AbstractAsyncContextManager[BlockDevice]]


async def check_block_device(make: Make, *, timeout_s: float = 60) -> list[str]:
    """Run every check, each on a fresh device from ``make``; return the names of those that ran.

    Raises:
        ConformanceError: the device broke a rule; a note on it names the check.
        TimeoutError: a check did not end within ``timeout_s``: a completion is missing.

    Cancellation: the device of the running check is closed by its context manager.
    """
    async with make() as device:
        read_only = device.read_only
    names = []
    for check in READING_CHECKS + (() if read_only else WRITING_CHECKS):
        name = check.__name__
        async with make() as device:
            try:
                with anyio.fail_after(timeout_s):
                    await check(device)
            except Exception as error:
                error.add_note(f"in {name} of the block device conformance kit")
                raise
        names.append(name)
    return names
