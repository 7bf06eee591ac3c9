# SPDX-License-Identifier: Apache-2.0
"""How many cells of each grid ran, in the summary of a test run.

A test says ``record_property(CELLS, "name of the grid")`` and is then one cell, or
``"name of the grid: NUMBER"`` and is so many.
"""

from __future__ import annotations

from collections import Counter

import pytest

CELLS = "cell of"


def summarize(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each grid."""
    passed: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for outcome, counter in (("passed", passed), ("failed", failed)):
        for report in terminalreporter.stats.get(outcome, ()):
            properties = dict(getattr(report, "user_properties", ()))
            if report.when == "call" and CELLS in properties:
                grid, _, number = str(properties[CELLS]).partition(": ")
                counter[grid] += int(number or 1)
    if passed or failed:
        terminalreporter.section("interoperability grids")
    for grid in sorted(passed | failed):
        terminalreporter.line(f"{grid}: {passed[grid]} cells passed, {failed[grid]} failed")
