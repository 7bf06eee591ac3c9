# SPDX-License-Identifier: Apache-2.0
"""What a level of measurement is to the loop that runs it, and what it is given.

A level sets up whatever it measures (a context manager), then is asked for one sample at a time, in
any order; so the loop alone decides how subjects alternate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from . import processes
from .model import Case
from .targets import Target


@dataclass(slots=True, kw_only=True)
class Context:
    """What every level is given."""

    target: Target
    directory: Path
    """Private to this run; its subdirectories are each level's own."""
    memory: Path
    """The same, in memory: for what shall not be a disk."""
    seconds: float
    """Of one sample."""
    loop: str
    """The event loop of ours at the library level."""
    lun_numbers: Mapping[str, Sequence[int]]
    """Level -> which LUNs of the target are its own."""
    case: str = ""
    """Only cases with these words in their names are measured."""
    grid: bool = False
    notes: list[str] = field(default_factory=list)
    step: Callable[[str], None] = lambda _text: None
    """Tells what is being set up."""

    def luns(self, level: str) -> list[str]:
        """The URLs of a level's own LUNs."""
        return [self.target.url(number) for number in self.lun_numbers[level]]

    def chosen(self, cases: Sequence[Case]) -> list[Case]:
        """Those of ``cases`` that are to be measured."""
        # Whole words: 4 KiB is not 64 KiB, and depth 1 is not depth 128.
        wanted = (
            re.compile(rf"(?<!\w){re.escape(self.case)}(?!\w)") if self.case else re.compile("")
        )
        return [case for case in cases if wanted.search(case.name)]

    def environment(self) -> dict[str, str]:
        """Of our command: its volumes and its state are this run's own."""
        return processes.environment(
            PYSCSI_INIT_RUN_DIR=str(self.directory / "run"),
            PYSCSI_INIT_STATE_DIR=str(self.directory / "state"),
        )


@dataclass(frozen=True, slots=True)
class Level:
    """One level, set up."""

    name: str
    cases: Sequence[Case]
    subjects: Callable[[Case], Sequence[str]]
    measure: Callable[[Case, str], dict[str, float]]
    once: bool = False
    """One round is all: it takes long, or needs no peer."""
