# SPDX-License-Identifier: Apache-2.0
"""The terminal: bars while it is measured, then the figures of each level, then the verdicts."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from .criteria import judge
from .model import OURS, Run

STYLES = {"aim met": "bold green", "met": "green", "missed": "red"}
FIGURES = (
    ("iops", "IOPS", 0),
    ("tps", "TPS", 1),
    ("mib_s", "MiB/s", 1),
    ("cpu_us", "CPU µs/IO", 1),
    ("target_us", "target's", 1),
    ("machine_us", "machine's", 1),
    ("p50_us", "p50 µs", 0),
    ("p99_us", "p99 µs", 0),
    ("p999_us", "p99.9 µs", 0),
)
"""Name of a value, its heading, and digits after the point."""
FIGURES_OF_MANY = (
    ("iops", "IOPS", 0),
    ("cpu_us", "CPU µs/IO", 1),
    ("attach_s", "attach s", 2),
    ("attach_max_s", "longest", 2),
    ("detach_s", "detach s", 2),
    ("pss_mib", "PSS MiB", 1),
    ("private_mib", "private", 1),
    ("shared_mib", "of all", 1),
    ("threads", "threads", 0),
    ("descriptors", "fds", 0),
)
"""The same for many volumes: memory, threads and descriptors are those of one worker; ``of all`` is
the memory of the processes that serve all volumes together."""

Columns = Sequence[tuple[str, str, int]]


def columns_of(run: Run, level: str) -> Columns:
    """The figures that a level has."""
    present = {name for sample in run.samples if sample.level == level for name in sample.values}
    figures = FIGURES_OF_MANY if level == "many" else FIGURES
    return [figure for figure in figures if figure[0] in present]


@dataclass(slots=True)
class Shown:
    """The bars of a run."""

    bars: Progress
    doing: TaskID
    level: TaskID

    def step(self, text: str) -> None:
        """What is being set up or taken down."""
        self.bars.update(self.doing, description=text)

    def total(self, level: str, count: int) -> None:
        """A level begins."""
        self.level = self.bars.add_task(level, total=count)

    def advance(self) -> None:
        """A sample was taken."""
        self.bars.advance(self.level)


@contextlib.contextmanager
def progress(console: Console) -> Iterator[Shown]:
    """Bars that are gone afterwards; nothing where there is no terminal."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=console, transient=True) as bars:
        doing = bars.add_task("start the target", total=None)
        yield Shown(bars, doing, doing)


def number(value: float, digits: int = 0) -> str:
    """A figure, or a dash."""
    return f"{value:,.{digits}f}" if math.isfinite(value) else "-"


def show(run: Run, console: Console) -> None:
    """All tables."""
    for level in run.levels():
        console.print(level_table(run, level))
    verdicts = verdict_table(run)
    if verdicts.row_count:
        console.print(verdicts)


def level_table(run: Run, level: str) -> Table:
    """Medians of one level, and the ratios of ours to each peer."""
    columns = columns_of(run, level)
    table = Table(title=f"{level}: medians", box=SIMPLE_HEAD, title_justify="left")
    table.add_column("case", max_width=44)
    table.add_column("subject", no_wrap=True)
    for _, heading, _ in columns:
        table.add_column(heading, justify="right")
    if has_peers := run.subjects(level) != [OURS]:
        table.add_column("ours / peer", justify="right")
    for case in run.cases[level]:
        first = True
        for subject in run.subjects(level, case):
            values = [run.median(level, case, subject, name) for name, _, _ in columns]
            of = "iops" if run.values(level, case, subject, "iops") else "tps"
            ratio = run.ratio(level, case, OURS, subject, of)
            figures = [number(v, digits) for v, (_, _, digits) in zip(values, columns, strict=True)]
            if has_peers:
                figures.append("" if subject == OURS else number(ratio, 2))
            table.add_row(case if first else "", subject, *figures)
            first = False
    return table


def verdict_table(run: Run) -> Table:
    """The criteria, and how this run meets them."""
    table = Table(title="what is wanted", box=SIMPLE_HEAD, title_justify="left")
    for heading in ("level", "case", "against"):
        table.add_column(heading)
    for heading in ("ratio", "of the rounds", "at least", "aim", "verdict"):
        table.add_column(heading, justify="right", no_wrap=True)
    for verdict in judge(run):
        row = verdict.criterion
        sign = "≤ " if row.lower_is_better else ""
        table.add_row(
            row.level,
            row.text,
            row.peer_text + (f": {verdict.peer}" if len(row.peers) > 1 else ""),
            number(verdict.ratio, 2),
            verdict.range_text,
            f"{sign}{row.at_least:g}",
            f"{sign}{row.aim:g}",
            f"[{STYLES[verdict.word]}]{verdict.word}[/]",
        )
    return table
