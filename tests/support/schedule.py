# SPDX-License-Identifier: Apache-2.0
"""Which process of a parallel run gets which file of tests next.

pytest-xdist gives out files with many tests first. Here those take milliseconds each, and files
with a few tests take a minute: they came last, and one process ended long after the others. Now
the long ones come first, and one process begins at the other end, so that all the time something
computes while the others wait for kernels, containers and deadlines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xdist.scheduler import LoadFileScheduling

from .source import ROOT

SHORT_FIRST = "gw0"
"""The process that begins at the other end."""

LONG = tuple((Path(__file__).parent / "schedule.txt").read_text().split())
"""Files that take more than a few seconds, the longest first."""


class LongFirst(LoadFileScheduling):  # type: ignore[misc]
    """``--dist loadfile`` with another order."""

    def _assign_work_unit(self, node: Any) -> None:
        """Give a process the longest file that is left, or the shortest."""
        choose = max if node.gateway.id == SHORT_FIRST else min
        self.workqueue.move_to_end(choose(self.workqueue, key=self._rank), last=False)
        super()._assign_work_unit(node)

    def _rank(self, file: str) -> tuple[int, int]:
        """Of the files that are not known as long, those with a few tests are the longer ones."""
        place = LONG.index(file) if file in LONG else len(LONG)
        return place, len(self.workqueue[file])


def missing_files() -> list[str]:
    """Names that are no file's any more."""
    return [name for name in LONG if not (ROOT / name).is_file()]
