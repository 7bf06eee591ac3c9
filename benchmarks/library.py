# SPDX-License-Identifier: Apache-2.0
"""The library level: random or sequential reads of one LUN, ours against libiscsi's iscsi-perf.

Both read the same LUN of the same target, in turn, for the same time. Ours submits block requests
with completions, as the FUSE channel does: no task and no event per I/O. CPU time is that of the
initiator's process alone.
"""

from __future__ import annotations

import random
import re
import resource
import subprocess
import time
from dataclasses import dataclass

import anyio

import pyscsi_init
from pyscsi_init import BlockRequest, Operation


@dataclass(frozen=True, slots=True)
class Case:
    """What is measured: block size in bytes, requests in flight, random or sequential."""

    name: str
    block_size: int
    depth: int
    sequential: bool = False


CASES = (
    Case("4 KiB random read, depth 1", 4096, 1),
    Case("4 KiB random read, depth 32", 4096, 32),
    Case("4 KiB random read, depth 128", 4096, 128),
    Case("256 KiB sequential read, depth 16", 262144, 16, sequential=True),
    Case("1 MiB sequential read, depth 8", 1048576, 8, sequential=True),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """One round: I/O per second, and CPU microseconds of the initiator per I/O (nan: not known)."""

    iops: float
    cpu_us: float


async def _ours(url: str, case: Case, seconds: float) -> Sample:
    async with pyscsi_init.open_lun(url) as lun:
        blocks = lun.size_bytes // case.block_size
        choice = random.Random(1)
        done = running = position = 0
        idle = anyio.Event()
        end = 0.0

        def submit(request: BlockRequest) -> None:
            nonlocal position
            block = position % blocks if case.sequential else choice.randrange(blocks)
            position += 1
            request.offset = block * case.block_size
            lun.submit(request)

        def completed(request: BlockRequest) -> None:
            nonlocal done, running
            if request.error is not None:
                raise request.error
            done += 1
            if time.perf_counter() < end:
                submit(request)
            else:
                running -= 1
                if not running:
                    idle.set()

        before = resource.getrusage(resource.RUSAGE_SELF)
        start = time.perf_counter()
        end = start + seconds
        for _ in range(case.depth):
            running += 1
            buffer = bytearray(case.block_size)
            submit(BlockRequest(Operation.READ, 0, case.block_size, buffer, completed))
        await idle.wait()
        elapsed = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_SELF)
        cpu = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
        return Sample(done / elapsed, cpu / done * 1e6)


def ours(url: str, case: Case, seconds: float, loop: str) -> Sample:
    """One round of ours; ``loop`` is asyncio, trio or uvloop."""
    backend = "trio" if loop == "trio" else "asyncio"
    options = {"use_uvloop": True} if loop == "uvloop" else {}
    return anyio.run(_ours, url, case, seconds, backend=backend, backend_options=options)


def libiscsi(url: str, case: Case, seconds: float, lun_block_size: int = 512) -> Sample:
    """One round of iscsi-perf."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [
        "iscsi-perf",
        "-b",
        str(case.block_size // lun_block_size),
        "-m",
        str(case.depth),
        "-t",
        str(max(1, round(seconds))),
        *([] if case.sequential else ["-r"]),
        url,
    ]
    output = subprocess.run(
        command, capture_output=True, text=True, timeout=seconds + 60, check=True
    ).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Its figures come on lines that end with a carriage return; the last one is the average.
    rates = [float(rate) for rate in re.findall(r"iops average (\d+)", output)]
    if not rates:
        raise RuntimeError(f"iscsi-perf printed no figure:\n{output}")
    cpu = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    return Sample(rates[-1], cpu / (rates[-1] * max(1, round(seconds))) * 1e6)
