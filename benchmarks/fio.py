# SPDX-License-Identifier: Apache-2.0
"""fio on a block device or a file: its command line for a case, and the figures of its report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from .model import Case
from .processes import Failed, cpu_seconds, run

PERCENTILES = {"p50_us": "50.000000", "p99_us": "99.000000", "p999_us": "99.900000"}


def measure(
    paths: Sequence[str],
    case: Case,
    seconds: float,
    pids: Iterable[int] = (),
    *,
    extra: Sequence[str] = (),
) -> dict[str, float]:
    """Run one case on each of ``paths`` at once; ``pids`` are the processes whose CPU time counts.

    Raises:
        Failed: fio reports an error, or one of the processes is gone.
    """
    command = [
        "fio",
        f"--rw={case.pattern}",
        f"--bs={case.block_size}",
        f"--iodepth={case.depth}",
        "--ioengine=libaio",
        "--direct=1",
        "--time_based",
        f"--runtime={round(seconds * 1000)}ms",
        "--norandommap",
        "--randrepeat=0",
        "--group_reporting",
        *extra,
        "--output-format=json",
    ]
    for number, path in enumerate(paths):
        command += [f"--name=job{number}", f"--filename={path}"]
    pids = list(pids)
    before = cpu_seconds(pids)
    output = run(command, seconds=seconds + 60)
    cpu = cpu_seconds(pids) - before
    return figures(output, cpu if pids else None)


def figures(output: str, cpu: float | None = None) -> dict[str, float]:
    """The values of a sample from fio's JSON; ``cpu`` is in seconds, for all of its I/Os.

    Raises:
        Failed: there is an error in it, or no I/O at all.
    """
    start = output.find("{")
    if start < 0:
        raise Failed(f"fio printed no report:\n{output}")
    jobs: list[dict[str, Any]] = json.loads(output[start:])["jobs"]
    if any(job["error"] for job in jobs):
        raise Failed(f"fio reports an error:\n{output}")
    sides = [job[side] for job in jobs for side in ("read", "write") if job[side]["total_ios"]]
    if not sides:
        raise Failed("fio did no I/O in the time that it had")
    ios = sum(side["total_ios"] for side in sides)
    values = {
        "iops": float(sum(side["iops"] for side in sides)),
        "mib_s": sum(side["bw_bytes"] for side in sides) / 2**20,
    }
    # Of reads and writes together fio has no percentiles: the slower of the two stands for both.
    for name, percent in PERCENTILES.items():
        found = [side["clat_ns"].get("percentile", {}).get(percent) for side in sides]
        if all(value is not None for value in found):
            values[name] = max(found) / 1000
    if cpu is not None:
        values["cpu_us"] = cpu / ios * 1e6
    return values
