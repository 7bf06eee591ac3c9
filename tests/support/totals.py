# SPDX-License-Identifier: Apache-2.0
"""How much a run has tried, over all its tests: told at its end, whether it passed or not.

``count("connections cut", 40)`` in a test adds to one line of the summary, from whichever process
of a parallel run.
"""

from __future__ import annotations

from collections import Counter

TOTALS: Counter[str] = Counter()
KEY = "pyscsi_init_totals"
"""Under this name a process of a parallel run hands its totals to the first one."""


def count(what: str, number: int = 1) -> None:
    """Add to a total."""
    TOTALS[what] += number


def lines() -> list[str]:
    """The totals, one to a line."""
    return [f"{what}: {number:,}" for what, number in sorted(TOTALS.items())]
