# SPDX-License-Identifier: Apache-2.0
"""``make bench``: start a private tgt on a file in memory, measure, print medians and ratios.

    python -m benchmarks.run [--rounds N] [--seconds S] [--loop asyncio|trio|uvloop] [--json FILE]

Peers alternate within a round, because these figures drift with whatever else the machine does. A
ratio is ours divided by the peer's; above 1 we are faster.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from tests.support.tgt import TgtServer

from .library import CASES, Sample, libiscsi, ours

SIZE = 1 << 30
IQN = "iqn.2026-11.example:bench"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds (default 5)")
    parser.add_argument("--seconds", type=float, default=2, help="each measurement (default 2)")
    parser.add_argument("--loop", default="uvloop", choices=("asyncio", "trio", "uvloop"))
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    arguments = parser.parse_args()
    memory = Path("/dev/shm")
    samples: dict[str, dict[str, list[Sample]]] = {
        case.name: {"ours": [], "libiscsi": []} for case in CASES
    }
    with (
        tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as directory,
        TgtServer() as tgt,
        Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), transient=True
        ) as progress,
    ):
        tid = tgt.new_target(IQN)
        disk = Path(directory) / "disk"
        with disk.open("wb") as file:
            for _ in range(SIZE >> 20):
                file.write(random.randbytes(1 << 20))
        tgt.add_lun(tid, 1, disk)
        url = tgt.url(tid, 1)
        bar = progress.add_task("", total=arguments.rounds * len(CASES) * 2)
        for _ in range(arguments.rounds):
            for case in CASES:
                progress.update(bar, description=case.name)
                samples[case.name]["libiscsi"].append(libiscsi(url, case, arguments.seconds))
                progress.advance(bar)
                samples[case.name]["ours"].append(
                    ours(url, case, arguments.seconds, arguments.loop)
                )
                progress.advance(bar)
    show(samples, arguments.loop)
    if arguments.json:
        arguments.json.write_text(
            json.dumps(
                {
                    name: {
                        peer: [[sample.iops, sample.cpu_us] for sample in each]
                        for peer, each in peers.items()
                    }
                    for name, peers in samples.items()
                },
                indent=1,
            )
        )
    return 0


def show(samples: dict[str, dict[str, list[Sample]]], loop: str) -> None:
    """The table: medians over the rounds."""
    table = Table(title=f"library level, tgt with its backing file in memory, ours on {loop}")
    for column in ("case", "ours IOPS", "libiscsi IOPS", "ratio", "CPU us ours", "libiscsi"):
        table.add_column(column, justify="left" if column == "case" else "right")
    for name, peers in samples.items():
        iops = {peer: statistics.median(s.iops for s in each) for peer, each in peers.items()}
        cpu = {peer: statistics.median(s.cpu_us for s in each) for peer, each in peers.items()}
        ratio = iops["ours"] / iops["libiscsi"] if iops["libiscsi"] else math.nan
        table.add_row(
            name,
            f"{iops['ours']:,.0f}",
            f"{iops['libiscsi']:,.0f}",
            f"{ratio:.2f}",
            f"{cpu['ours']:.1f}",
            f"{cpu['libiscsi']:.1f}",
        )
    Console(width=None if sys.stdout.isatty() else 110).print(table)


if __name__ == "__main__":
    sys.exit(main())
