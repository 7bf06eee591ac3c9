# SPDX-License-Identifier: Apache-2.0
"""The library level: reads of one LUN, ours against libiscsi's iscsi-perf.

Ours is ``pyscsi-init bench`` in a process of its own, which submits requests with completions as
the FUSE channel does. iscsi-perf runs for whole seconds, and its CPU time includes its start and
login: a few milliseconds. It has no writes; the grid measures ours alone there.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from . import criteria
from .criteria import LIBISCSI
from .level import Context, Level
from .model import OURS, Case, with_grid
from .processes import Failed, run, run_counted

CASES = [
    criteria.READ_1, criteria.READ_32, criteria.READ_128, criteria.SEQ_256K, criteria.SEQ_READ,
]  # fmt: skip


@contextmanager
def library(context: Context) -> Iterator[Level]:
    """The level, on the shared LUN."""
    cases = with_grid(CASES) if context.grid else CASES
    url = context.target.url(0)

    def measure(case: Case, subject: str) -> dict[str, float]:
        if subject == OURS:
            return ours(context, url, case)
        return libiscsi(context, url, case)

    yield Level(
        "library",
        cases,
        lambda case: [OURS, LIBISCSI] if case.pattern in ("read", "randread") else [OURS],
        measure,
    )


def ours(context: Context, url: str, case: Case) -> dict[str, float]:
    """One measurement of ours, in a process of its own."""
    command = [
        sys.executable, "-m", "fusefs.cli", "bench", url,
        f"--rw={case.pattern}", f"--bs={case.block_size}", f"--iodepth={case.depth}",
        f"--runtime={context.seconds}", f"--loop={context.loop}", "--json", "--destroy-data",
    ]  # fmt: skip
    found = json.loads(run(command, seconds=context.seconds + 60, env=context.environment()))
    latency = found["latency_us"]
    values = {
        "iops": found["iops"],
        "mib_s": found["bytes_per_second"] / 2**20,
        "cpu_us": found["cpu_us_per_io"],
        "p50_us": latency["p50"],
        "p99_us": latency["p99"],
        "p999_us": latency["p99.9"],
    }
    return {name: value for name, value in values.items() if value is not None}


def libiscsi(context: Context, url: str, case: Case) -> dict[str, float]:
    """One measurement of iscsi-perf."""
    seconds = max(1, round(context.seconds))
    command = [
        "iscsi-perf",
        "-b",
        str(case.block_size // context.target.block_size),
        "-m",
        str(case.depth),
        "-t",
        str(seconds),
        *(["-r"] if case.pattern == "randread" else []),
        url,
    ]
    output, cpu = run_counted(command, seconds=seconds + 60)
    iops = iscsi_perf_iops(output)
    return {
        "iops": iops,
        "mib_s": iops * case.block_size / 2**20,
        "cpu_us": cpu / (iops * seconds) * 1e6,
    }


def iscsi_perf_iops(output: str) -> float:
    """The average of the whole run. Its lines end with carriage returns; the last one has it.

    Raises:
        Failed: it is not there, or zero.
    """
    rates = [float(rate) for rate in re.findall(r"iops average (\d+)", output)]
    if not rates or not rates[-1]:
        raise Failed(f"iscsi-perf printed no figure:\n{output}")
    return rates[-1]
