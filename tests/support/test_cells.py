# SPDX-License-Identifier: Apache-2.0
"""The number of cells is counted by grid, and said at the end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.cells import CELLS, summarize


class Reporter:
    """What the hook uses of pytest's."""

    def __init__(self, **stats: list[Any]) -> None:
        self.stats = stats
        self.lines: list[str] = []

    def section(self, title: str) -> None:
        self.lines.append(title)

    def line(self, text: str) -> None:
        self.lines.append(text)


def report(grid: str, when: str = "call") -> Any:
    return SimpleNamespace(when=when, user_properties=[(CELLS, grid)])


def summary(reporter: Reporter) -> list[str]:
    summarize(cast("pytest.TerminalReporter", reporter))
    return reporter.lines


def test_cells_are_counted_by_grid() -> None:
    passed = [report("a"), report("b: 40"), report("a"), report("a", "teardown")]
    assert summary(Reporter(passed=passed, failed=[report("a")])) == [
        "interoperability grids",
        "a: 2 cells passed, 1 failed",
        "b: 40 cells passed, 0 failed",
    ]


def test_a_run_without_grids_says_nothing() -> None:
    other = SimpleNamespace(when="call", user_properties=[])
    assert summary(Reporter(passed=[other])) == []
