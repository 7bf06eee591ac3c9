# SPDX-License-Identifier: Apache-2.0
"""``make bench``: start a private target, measure ours and the peers in turn, print and draw.

Peers and ours alternate within a round, and the order turns around with each round, because these
figures drift with whatever else the machine does. A ratio is the median of ours divided by the
median of the peer. What was begun is taken down on every way out: end, error, Ctrl-C, SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from rich.console import Console

from . import display, left, machine
from .ext4 import ext4
from .fuse import fuse
from .level import Context, Level
from .library import library
from .many import COUNTS, LUN_BYTES, many
from .model import Run, Sample
from .nat import nat, nat_mount
from .null import null
from .processes import Failed
from .targets import KINDS, open_target

LEVELS: dict[str, Callable[[Context], AbstractContextManager[Level]]] = {
    "library": library,
    "fuse": fuse,
    "ext4": ext4,
    "null": null,
    "many": many,
    "nat": nat,
    "nat-mount": nat_mount,
}
GIB = 1 << 30
OWN_LUNS = {"ext4": [2 * GIB] * 3, "many": [LUN_BYTES] * max(COUNTS)}
"""Sizes of the LUNs that a level needs beside the first one, which all share."""


def lun_plan(levels: list[str]) -> tuple[list[int], dict[str, range]]:
    """The sizes of all LUNs of a run, and which of them belong to which level."""
    sizes = [GIB]
    numbers = {}
    for level in levels:
        own = OWN_LUNS.get(level, [])
        numbers[level] = range(len(sizes), len(sizes) + len(own))
        sizes += own
    return sizes, numbers


def arguments_of(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--target", choices=KINDS, default="tgt", help="who is measured against (tgt)")
    add("--level", default=",".join(LEVELS), help="of %(default)s; with commas")
    add("--rounds", type=int, default=5, help="alternating rounds (5)")
    add("--seconds", type=float, default=2.0, help="of each measurement (2)")
    add("--loop", default="uvloop", choices=("uvloop", "asyncio", "trio"),
        help="event loop of ours at the library level (uvloop)")  # fmt: skip
    add("--case", default="", metavar="WORDS", help="only cases with these words in their names")
    add("--quick", action="store_true", help="1 round of half a second: does it work at all?")
    add("--grid", action="store_true", help="4 KiB to 1 MiB, depths 1 to 128, read, write, mixed")
    add("--output", type=Path, default=Path("bench-results"), metavar="DIR",
        help="where JSON, report and plots go (%(default)s)")  # fmt: skip
    add("--no-report", action="store_true", help="JSON and table only")
    found = parser.parse_args(arguments)
    if found.quick:
        found.rounds, found.seconds = 1, 0.5
    if found.rounds < 1 or not 0.05 <= found.seconds <= 3600:
        parser.error("--rounds: at least 1; --seconds: 0.05 to 3600")
    found.levels = [level for level in LEVELS if level in found.level.split(",")]
    unknown = set(found.level.split(",")) - set(LEVELS)
    if unknown or not found.levels:
        parser.error(f"--level {found.level}: of {', '.join(LEVELS)}")
    if os.geteuid() != 0 and set(found.levels) != {"library"}:
        parser.error("--level: all but library need root, for mounts and loop devices")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmarks; returns the exit status."""
    options = arguments_of(arguments)
    console = Console(width=None if sys.stdout.isatty() else 140)
    run = Run(
        machine=machine.facts(),
        options={
            name: getattr(options, name)
            for name in ("target", "levels", "rounds", "seconds", "loop", "case", "grid")
        },
    )
    if busy := machine.busy():
        run.notes.append(busy)
    status = 0
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stop)
        with workspace(run) as (directory, memory):
            measure_all(options, run, directory, memory, console)
    except Stopped as stopped:
        run.notes.append(f"ended by {stopped.number.name}: not all rounds were measured")
        status = 128 + stopped.number
    except Failed as error:
        run.notes.append(f"failed: {error}")
        status = 1
    if run.samples:
        display.show(run, console)
        write(run, options, console)
    for note in run.notes:
        console.print(f"note: {note}", style="yellow", markup=False)
    return status


class Stopped(BaseException):
    """A signal came; what was begun is taken down on the way of this exception."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = signal.Signals(number)


def stop(number: int, _frame: object) -> None:
    """The first signal ends the run; a second one must not end the taking down."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)


@contextlib.contextmanager
def workspace(run: Run) -> Iterator[tuple[Path, Path]]:
    """A directory of this run and one in memory; afterwards nothing is left, or it is noted."""
    memory = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        tempfile.TemporaryDirectory(
            prefix="bench-", dir=memory if memory.is_dir() else None
        ) as in_memory,
    ):
        directory = Path(name)
        directory.chmod(0o755)  # the database's user passes through
        try:
            yield directory, Path(in_memory)
        finally:
            run.notes += left.clear(directory)


def measure_all(
    options: argparse.Namespace, run: Run, directory: Path, memory: Path, console: Console
) -> None:
    """Every level in turn, all rounds of it."""
    sizes, numbers = lun_plan(options.levels)
    with (
        display.progress(console) as shown,
        open_target(options.target, memory, sizes) as target,
    ):
        context = Context(
            target=target,
            directory=directory,
            memory=memory,
            lun_numbers=numbers,
            seconds=options.seconds,
            loop=options.loop,
            case=options.case,
            grid=options.grid,
            notes=run.notes,
            step=shown.step,
        )
        for name in options.levels:
            with LEVELS[name](context) as level:
                measure_level(context, level, options, run, shown)


def measure_level(
    context: Context, level: Level, options: argparse.Namespace, run: Run, shown: display.Shown
) -> None:
    """All rounds of one level."""
    cases = context.chosen(level.cases)
    run.cases[level.name] = {case.name: case for case in cases}
    rounds = 1 if level.once else options.rounds
    shown.total(level.name, rounds * sum(len(level.subjects(case)) for case in cases))
    for number in range(rounds):
        for case in cases:
            subjects = level.subjects(case)
            for subject in subjects if number % 2 == 0 else reversed(subjects):
                shown.step(f"{level.name}: {case.name}: {subject}")
                values = level.measure(case, subject)
                run.samples.append(Sample(level.name, case.name, subject, number, values))
                shown.advance()


def write(run: Run, options: argparse.Namespace, console: Console) -> None:
    """JSON, and the report with its plots beside it."""
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    run.save(path)
    files = [path]
    if not options.no_report:
        # Imported when the measuring is over: drawing brings a hundred megabytes with it.
        from .report import write_report

        files += write_report(run, path.with_suffix(".html"))[:1]
    for file in files:
        console.print(f"{file}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
