# SPDX-License-Identifier: Apache-2.0
"""Runs the fuzz targets on all cores and tells what was tried.

``python -m tests.fuzz.driver --inputs 1000000`` from the project's directory; ``--seed`` repeats a
run, ``--target NAME`` takes one target only.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.fuzz import discovery_targets, pdu_targets, scsi_targets, session_targets, text_targets
from tests.fuzz.mutation import Mutator
from tests.fuzz.target import FuzzTarget

TARGETS: dict[str, FuzzTarget] = {
    target.name: target
    for target in (
        *pdu_targets.TARGETS,
        *scsi_targets.TARGETS,
        *text_targets.TARGETS,
        *discovery_targets.TARGETS,
        *session_targets.TARGETS,
    )
}
BATCH = 500


@dataclass(slots=True)
class Report:
    """What was tried."""

    inputs: int = 0
    refused: int = 0
    """Inputs that ended with a declared error: the others were understood."""
    exceptions: int = 0
    slowest_s: float = 0.0
    slowest: str = ""
    failures: dict[str, str] = field(default_factory=dict)
    """One input and its traceback for each place of the code that failed."""
    per_target: dict[str, int] = field(default_factory=dict)

    def add(self, other: Report) -> None:
        """Take in the report of a part."""
        self.inputs += other.inputs
        self.refused += other.refused
        self.exceptions += other.exceptions
        if other.slowest_s > self.slowest_s:
            self.slowest_s, self.slowest = other.slowest_s, other.slowest
        for where, text in other.failures.items():
            self.failures.setdefault(where, text)
        for name, count in other.per_target.items():
            self.per_target[name] = self.per_target.get(name, 0) + count

    def __str__(self) -> str:
        return (
            f"inputs tried: {self.inputs:,} on {len(self.per_target)} targets "
            f"({self.refused:,} refused), exceptions: {self.exceptions}, "
            f"slowest: {self.slowest_s * 1000:.1f} ms ({self.slowest})"
        )


def run_batch(name: str, seed: int, count: int) -> Report:
    """``count`` inputs for one target. What fails is told with its input."""
    target = TARGETS[name]
    mutator = Mutator(target.seeds, seed, target.longest)
    report = Report(inputs=count, per_target={name: count})
    clock = time.process_time
    for _ in range(count):
        data = mutator.next()
        begin = clock()
        try:
            if not target.check(data):
                report.refused += 1
        except Exception as error:
            report.exceptions += 1
            last = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{name}: {type(error).__name__} at {last.filename}:{last.lineno}"
            report.failures.setdefault(where, f"{data.hex()}\n{traceback.format_exc()}")
        took = clock() - begin
        if took > report.slowest_s:
            report.slowest_s, report.slowest = took, name
    return report


def shares(inputs: int, names: Iterable[str]) -> list[tuple[str, int]]:
    """Batches for the targets, by weight; together at least ``inputs``."""
    names = list(names)
    total = sum(TARGETS[name].weight for name in names)
    batches = []
    for name in names:
        left = -int(-inputs * TARGETS[name].weight // total)
        while left > 0:
            batches.append((name, min(BATCH, left)))
            left -= BATCH
    return batches


def _run(job: tuple[str, int, int]) -> Report:
    return run_batch(*job)


def fuzz(
    inputs: int,
    seed: int,
    *,
    names: Iterable[str] = TARGETS,
    processes: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Report:
    """Try at least ``inputs`` inputs; ``tell`` hears of the progress every few seconds."""
    jobs = [
        (name, seed * 1_000_003 + n, count) for n, (name, count) in enumerate(shares(inputs, names))
    ]
    report = Report()
    told = time.monotonic()
    context = multiprocessing.get_context("fork")
    with context.Pool(processes or os.cpu_count()) as pool:
        for part in pool.imap_unordered(_run, jobs):
            report.add(part)
            if time.monotonic() - told > 5:
                told = time.monotonic()
                tell(f"  {report}")
    return report


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 32))
    parser.add_argument("--target", action="append", choices=list(TARGETS))
    arguments = parser.parse_args()

    def write(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    write(f"seed {arguments.seed}")
    report = fuzz(
        arguments.inputs,
        arguments.seed,
        names=arguments.target or TARGETS,
        tell=write,
    )
    write("\n\n".join([str(report), *map(": ".join, report.failures.items())]))
    return 1 if report.exceptions else 0


if __name__ == "__main__":
    sys.exit(main())
