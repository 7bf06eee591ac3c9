# SPDX-License-Identifier: Apache-2.0
"""fio as an oracle: does a block device give back what was written, also under parallel writes?

fio has a trap: with verify and time_based together it never reaches its read phase, verifies
nothing and exits with 0. So here the work is fixed (a size and a number of loops), and the result
must show that as many bytes were read back as were written, or the run counts as failed.
tests/support/test_fio.py proves that a lost write (a stale block) is found.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import processes
from .requirements import require


class VerifyFailed(AssertionError):
    """fio found a wrong block, or verified nothing."""


@dataclass(frozen=True, slots=True)
class FioResult:
    """What fio did, summed over its jobs."""

    read_bytes: int
    write_bytes: int
    read_iops: float
    write_iops: float
    report: dict[str, Any]


def fio(*arguments: str, timeout: float = 100.0, env: dict[str, str] | None = None) -> FioResult:
    """Run fio with these options and return its figures.

    Raises:
        VerifyFailed: fio ended with an error; the text is its own.
    """
    result = subprocess.run(
        [require("fio"), *arguments, "--output-format=normal,json"],
        capture_output=True,
        text=True,
        env=processes.environment(**(env or {})),
        timeout=timeout,
        check=False,
    )
    start = result.stdout.find("\n{\n")
    told = f"{result.stdout if start < 0 else result.stdout[:start]}\n{result.stderr}"
    if result.returncode != 0 or start < 0:
        raise VerifyFailed(f"fio ended with {result.returncode}:\n{told}")
    report = json.JSONDecoder().raw_decode(result.stdout[start + 1 :])[0]
    jobs = report["jobs"]
    if any(job["error"] for job in jobs):
        raise VerifyFailed(f"fio reports errors:\n{told}")

    def total(direction: str, field: str) -> Any:
        return sum(job[direction][field] for job in jobs)

    return FioResult(
        read_bytes=total("read", "io_bytes"),
        write_bytes=total("write", "io_bytes"),
        read_iops=total("read", "iops"),
        write_iops=total("write", "iops"),
        report=report,
    )


def fio_verify(
    path: Path | str,
    *,
    size: int,
    bs: int | str = "4k",
    loops: int = 1,
    iodepth: int = 16,
    numjobs: int = 1,
    rw: str = "randwrite",
    ioengine: str = "libaio",
    direct: bool = True,
    offset: int = 0,
    end_fsync: bool = False,
    timeout: float = 100.0,
    extra: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
) -> FioResult:
    """Write ``size`` bytes of ``path`` with checksums, then read all of it back, ``loops`` times.

    Each job of ``numjobs`` has a range of its own. ``rw`` must be a writing pattern without reads.

    Raises:
        VerifyFailed: a block came back wrong or stale, or fio did not read back everything.
    """
    if rw not in ("write", "randwrite"):
        raise ValueError(f"rw={rw}: what is verified must be written by the same job")
    if any("time_based" in argument for argument in extra):
        raise ValueError("with time_based fio verifies nothing")
    result = fio(
        "--name=verify",
        f"--filename={path}",
        f"--rw={rw}",
        f"--bs={bs}",
        f"--size={size}",
        f"--offset={offset}",
        f"--offset_increment={size if numjobs > 1 else 0}",
        f"--numjobs={numjobs}",
        f"--loops={loops}",
        f"--iodepth={iodepth}",
        f"--ioengine={ioengine}",
        f"--direct={int(direct)}",
        f"--end_fsync={int(end_fsync)}",
        "--verify=crc32c",
        "--verify_fatal=1",
        "--do_verify=1",
        "--verify_state_save=0",
        "--allow_file_create=0",
        *extra,
        timeout=timeout,
        env=env,
    )
    wanted = size * loops * numjobs
    if result.write_bytes < wanted or result.read_bytes < wanted:
        raise VerifyFailed(
            f"fio wrote {result.write_bytes} and read back {result.read_bytes} bytes "
            f"of {wanted}: it did not verify everything"
        )
    return result
