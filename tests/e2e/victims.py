# SPDX-License-Identifier: Apache-2.0
"""Who may die under a volume that is in use, and the sign that each has been replaced.

Each function kills once, at the moment it is called, and returns when that was (CLOCK_MONOTONIC),
after the next one is there.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from tests.e2e.conftest import Volumes
from tests.support.direct_io import until
from tests.support.tgt import TgtServer

PATIENCE_S = 30.0
SERVING = ("attached", "mounted")
TARGET_AWAY_S = HOLDER_AWAY_S = 1.0

Victim = Callable[[Volumes, TgtServer, str], float]


def serving_worker(volumes: Volumes, name: str, *, other_than: int | None = None) -> int:
    """The worker that serves the volume, once it is another one."""
    found: list[int] = []

    def serves() -> bool:
        status = volumes.get(name)
        if status.state in SERVING and status.worker_pid not in (None, other_than):
            found.append(int(status.worker_pid or 0))
        return bool(found)

    until(serves, PATIENCE_S)
    return found[0]


def holder_and_zygote(volumes: Volumes, *, other_than: tuple[int, int] = (0, 0)) -> tuple[int, int]:
    """Both process ids, once both are there and neither is of ``other_than``."""
    found: list[tuple[int, int]] = []

    def there() -> bool:
        status = volumes.call(volumes.manager.holder.status)
        pids = (status.pid, status.zygote_pid)
        if all(pids) and not set(pids) & set(other_than):
            found.append(pids)
        return bool(found)

    until(there, PATIENCE_S)
    return found[0]


def _kill(pid: int) -> float:
    moment = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    return moment


def worker(volumes: Volumes, _tgt: TgtServer, name: str) -> float:
    pid = serving_worker(volumes, name)
    moment = _kill(pid)
    serving_worker(volumes, name, other_than=pid)
    return moment


def zygote(volumes: Volumes, _tgt: TgtServer, _name: str) -> float:
    _, pid = holder_and_zygote(volumes)
    moment = _kill(pid)
    holder_and_zygote(volumes, other_than=(0, pid))
    return moment


def holder(volumes: Volumes, _tgt: TgtServer, _name: str) -> float:
    pid, _ = holder_and_zygote(volumes)
    moment = _kill(pid)
    holder_and_zygote(volumes, other_than=(pid, 0))
    return moment


def holder_then_worker(volumes: Volumes, tgt: TgtServer, name: str) -> float:
    pid, _ = holder_and_zygote(volumes)
    _kill(pid)
    time.sleep(HOLDER_AWAY_S)  # no command runs meanwhile: the zygote must see to it
    return worker(volumes, tgt, name)


def target(_volumes: Volumes, tgt: TgtServer, _name: str) -> float:
    moment = time.monotonic()
    tgt.kill()
    time.sleep(TARGET_AWAY_S)
    tgt.restart()
    return moment
