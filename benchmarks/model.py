# SPDX-License-Identifier: Apache-2.0
"""What is measured, and what came of it: cases, samples, a run; medians and ratios of them.

A run is a flat list of samples, each with its level, case, subject (ours, or a peer) and round; so
it goes to JSON and back as it is, and every figure in the table and in the report is computed from
it here. It knows no target, no program and no terminal.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

OURS = "ours"
FORMAT = 1
"""Of the JSON document; a reader refuses another one."""

WORDS = {
    "read": "sequential read",
    "write": "sequential write",
    "randread": "random read",
    "randwrite": "random write",
    "randrw": "random read and write",
}


def size_words(size: int) -> str:
    """``4 KiB``."""
    for unit, shift in (("MiB", 20), ("KiB", 10)):
        if size >= 1 << shift and size % (1 << shift) == 0:
            return f"{size >> shift} {unit}"
    return f"{size} bytes"


@dataclass(frozen=True, slots=True)
class Case:
    """One thing to measure: fio's name of the pattern, bytes of a request, requests in flight.

    ``kind`` tells apart what differs in more than that, such as pgbench or an event loop.
    """

    pattern: str
    block_size: int
    depth: int
    kind: str = ""

    @property
    def name(self) -> str:
        """For people, and the key in the results."""
        if not self.block_size:
            return self.kind
        text = f"{size_words(self.block_size)} {WORDS[self.pattern]}, depth {self.depth}"
        return f"{text}, {self.kind}" if self.kind else text

    @property
    def writes(self) -> bool:
        return "w" in self.pattern


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement. ``values`` by name: ``iops``, ``mib_s``, ``cpu_us`` (of the initiator's
    processes, per I/O), ``p50_us`` and so on, ``tps``; what was not measured is absent."""

    level: str
    case: str
    subject: str
    round: int
    values: dict[str, float]


@dataclass(slots=True)
class Run:
    """All samples of one run, and what they were measured on."""

    machine: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    cases: dict[str, dict[str, Case]] = field(default_factory=dict)
    """Level -> name -> case, in the order of measurement."""
    samples: list[Sample] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a reader must know: an interruption, something left behind."""

    def levels(self) -> list[str]:
        """The levels that have samples."""
        there = {sample.level for sample in self.samples}
        return [level for level in self.cases if level in there]

    def subjects(self, level: str, case: str | None = None) -> list[str]:
        """Who was measured, ours first."""
        found = dict.fromkeys(
            sample.subject
            for sample in self.samples
            if sample.level == level and case in (None, sample.case)
        )
        return sorted(found, key=lambda subject: not subject.startswith(OURS))

    def values(self, level: str, case: str, subject: str, name: str) -> dict[int, float]:
        """Round -> value, where there is one."""
        return {
            sample.round: sample.values[name]
            for sample in self.samples
            if (sample.level, sample.case, sample.subject) == (level, case, subject)
            and math.isfinite(sample.values.get(name, math.nan))
        }

    def median(self, level: str, case: str, subject: str, name: str) -> float:
        """Over the rounds; NaN where nothing was measured."""
        found = self.values(level, case, subject, name)
        return statistics.median(found.values()) if found else math.nan

    def ratio(self, level: str, case: str, subject: str, peer: str, name: str) -> float:
        """Median of a subject by median of a peer; NaN where one of them is missing."""
        return divided(
            self.median(level, case, subject, name), self.median(level, case, peer, name)
        )

    def ratios(self, level: str, case: str, subject: str, peer: str, name: str) -> list[float]:
        """The ratio of each round by itself: how much they scatter."""
        ours = self.values(level, case, subject, name)
        theirs = self.values(level, case, peer, name)
        return [divided(ours[round_], theirs[round_]) for round_ in ours if round_ in theirs]

    def best(self, level: str, case: str, peers: Iterable[str], name: str) -> str | None:
        """The peer with the highest median."""
        known = {
            peer: median
            for peer in peers
            if math.isfinite(median := self.median(level, case, peer, name))
        }
        return max(known, key=known.__getitem__) if known else None

    def save(self, path: Path) -> None:
        """Write all of it as JSON, which :meth:`load` reads."""
        with path.open("w", encoding="utf-8") as file:
            self.dump(file)

    def dump(self, file: TextIO) -> None:
        """The same into an open file."""
        document = {
            "format": FORMAT,
            "machine": self.machine,
            "options": self.options,
            "notes": self.notes,
            "cases": {
                level: [asdict(case) for case in cases.values()]
                for level, cases in self.cases.items()
            },
            "samples": [asdict(sample) for sample in self.samples],
        }
        json.dump(document, file, indent=1, allow_nan=False)
        file.write("\n")

    @classmethod
    def load(cls, path: Path) -> Run:
        """The run of a file.

        Raises:
            ValueError: the file is something else.
        """
        document = json.loads(path.read_text())
        if document.get("format") != FORMAT:
            raise ValueError(f"{path} is no result of this version of the benchmarks")
        return cls(
            machine=document["machine"],
            options=document["options"],
            notes=document["notes"],
            cases={
                level: {case.name: case for case in (Case(**values) for values in cases)}
                for level, cases in document["cases"].items()
            },
            samples=[Sample(**values) for values in document["samples"]],
        )


def divided(one: float, other: float) -> float:
    """``one / other``, NaN where that is nothing."""
    return one / other if other and math.isfinite(one) and math.isfinite(other) else math.nan


GRID_SIZES = (4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20)
GRID_DEPTHS = (1, 8, 32, 128)
GRID_PATTERNS = ("randread", "randwrite", "randrw")


def with_grid(cases: Sequence[Case]) -> list[Case]:
    """``cases`` and every combination of the grid, in order of pattern, size and depth."""
    every = {
        Case(pattern, size, depth)
        for pattern in GRID_PATTERNS
        for size in GRID_SIZES
        for depth in GRID_DEPTHS
    }
    patterns = list(WORDS)
    return sorted(
        every.union(cases),
        key=lambda case: (patterns.index(case.pattern), case.block_size, case.depth),
    )
