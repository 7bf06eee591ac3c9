# SPDX-License-Identifier: Apache-2.0
"""A Mount of an engine that has just started waits for its target.

After a power cut a host may be up before its storage is. dockerd then starts the containers that
have a restart policy once, and never again those whose volumes could not be mounted: the policy is
for containers that ran. So for a while each of these Mounts is tried again, as long as dockerd
waits for one. Who types `docker run` later is told at once.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import anyio

from fusefs.docker.callers import ENGINE, name_of
from pyscsi_init.errors import (
    ConnectError,
    ConnectionLost,
    IscsiError,
    LoginTimeout,
    LunNotFound,
    NotReady,
    TargetNotFound,
    TargetUnavailable,
)

log = logging.getLogger("fusefs.docker")
T = TypeVar("T")

YOUNG_SECONDS = 60.0
"""From the start of an engine; it starts its containers within the first of them."""
PATIENCE_SECONDS = 80.0
"""From the begin of a Mount to its last attempt, which may take until the deadline."""
PAUSE_SECONDS = 3.0

NOT_UP_YET: tuple[type[IscsiError], ...] = (
    ConnectError,
    ConnectionLost,
    LoginTimeout,
    TargetUnavailable,
    TargetNotFound,
    LunNotFound,
    NotReady,
)
"""What a target answers, or does not, before it has come up: targets and LUNs appear one by one."""


def is_young_engine(process: str) -> bool:
    """Whether ``PID:START`` is a Docker Engine that starts its containers. Blocks, shortly."""
    if name_of(process) != ENGINE:
        return False
    started = int(process.partition(":")[2]) / os.sysconf("SC_CLK_TCK")
    uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    return uptime - started < YOUNG_SECONDS


async def patiently(call: Callable[[], Awaitable[T]], volume: str) -> T:
    """Make ``call`` until its target is up, for PATIENCE_SECONDS.

    Raises: what the last call raised.
    """
    end = time.monotonic() + PATIENCE_SECONDS
    told = ""
    while True:
        try:
            return await call()
        except NOT_UP_YET as error:
            if time.monotonic() + PAUSE_SECONDS > end:
                raise
            if str(error) != told:
                told = str(error)
                log.info("volume %s: %s; the engine has just started: it waits", volume, told)
        await anyio.sleep(PAUSE_SECONDS)
