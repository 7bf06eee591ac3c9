# SPDX-License-Identifier: Apache-2.0
"""Many volumes on one host: what each costs to attach and to have, and what they do together.

Each is attached by a command of its own, one after the other, as a person or a script would. Memory
is the proportional set size: what processes share is divided among them. What serves all volumes
together is told apart, as ``shared``.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from typing import Any

from . import fio
from .level import Context, Level
from .model import OURS, Case
from .processes import descriptor_count, memory_mib, processes_of, thread_count
from .volumes import attached

COUNTS = (1, 10, 50)
DEPTH = 32
"""Requests in flight over all volumes, as far as that can be divided."""
LUN_BYTES = 64 << 20
IDLE_S = 1.0
"""The workers' memory is looked at when what the attach caused is over."""


def case_of(count: int) -> Case:
    """The case of so many volumes."""
    return Case("randread", 4096, max(1, DEPTH // count), f"{count} volume{'s' * (count > 1)}")


@contextlib.contextmanager
def many(context: Context) -> Iterator[Level]:
    """The level, on LUNs of its own."""
    counts = {case_of(count): count for count in COUNTS}
    urls = context.luns("many")

    def measure(case: Case, _subject: str) -> dict[str, float]:
        return measure_count(context, urls[: counts[case]], case)

    yield Level("many", list(counts), lambda _: [OURS], measure, once=True)


def measure_count(context: Context, urls: list[str], case: Case) -> dict[str, float]:
    """Attach all, measure them at rest and under load, and detach them."""
    with contextlib.ExitStack() as stack:
        volumes: list[dict[str, Any]] = []
        times = []
        for number, url in enumerate(urls):
            begin = time.monotonic()
            volumes.append(stack.enter_context(attached(context, url, f"many{number}")))
            times.append(time.monotonic() - begin)
        pids = [volume["worker_pid"] for volume in volumes]
        time.sleep(IDLE_S)
        memory = [memory_mib(pid) for pid in pids]
        shared = [
            memory_mib(pid)["pss_mib"] for pid in processes_of(context.directory) if pid not in pids
        ]
        values = {
            "attach_s": statistics.median(times),
            "attach_max_s": max(times),
            "pss_mib": statistics.mean(each["pss_mib"] for each in memory),
            "private_mib": statistics.mean(each["private_mib"] for each in memory),
            "shared_mib": sum(shared),
            "threads": statistics.mean(thread_count(pid) for pid in pids),
            "descriptors": statistics.mean(descriptor_count(pid) for pid in pids),
        }
        devices = [volume["loop"] for volume in volumes]
        values |= fio.measure(devices, case, context.seconds, pids, extra=["--thread"])
        begin = time.monotonic()
    values["detach_s"] = (time.monotonic() - begin) / len(urls)
    return values
