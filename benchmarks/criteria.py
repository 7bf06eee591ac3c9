# SPDX-License-Identifier: Apache-2.0
"""What is wanted: one row for each ratio that no change may make worse, and how a run meets it.

A row compares a figure of ours with one of a peer, or of the best of several peers. Of rates more
is better, of CPU times less. Peers whose writes are wrong are named so in the row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from .model import OURS, Case, Run

LIBISCSI = "libiscsi"
QEMU = "qemu-storage-daemon"
QEMU_SERIAL = "qemu, max_background 1"
NBDFUSE = "nbdfuse + qemu-nbd"
CORRECT_PEERS = (QEMU_SERIAL, NBDFUSE)
"""The C peers whose parallel writes are right."""
HOST = "on the host"
HOST_NETWORK = "container, network of the host"
ROUTED = "container, bridge without NAT"
HOST_MOUNT = "mounted by the host, bound"

K4, K16, K256, M1 = 4 << 10, 16 << 10, 256 << 10, 1 << 20
READ_1, READ_32, READ_128 = (Case("randread", K4, depth) for depth in (1, 32, 128))
WRITE_1, WRITE_32 = (Case("randwrite", K4, depth) for depth in (1, 32))
READ_16K = Case("randread", K16, 16)
SEQ_256K, SEQ_256K_WRITE = Case("read", K256, 16), Case("write", K256, 16)
SEQ_READ, SEQ_WRITE = Case("read", M1, 8), Case("write", M1, 8)
PGBENCH = Case("", 0, 0, "pgbench, 4 clients")
NULL_TRIO, NULL_UVLOOP = (Case("randread", K4, 32, loop) for loop in ("trio", "uvloop"))
FIFTY = Case("randread", K4, 1, "50 volumes")


@dataclass(frozen=True, slots=True)
class Criterion:
    """One row of the table. Without peers it is the figure itself that is wanted, not a ratio."""

    level: str
    case: Case
    peers: tuple[str, ...]
    at_least: float
    aim: float
    value: str = "iops"
    note: str = ""

    @property
    def lower_is_better(self) -> bool:
        return self.value in ("cpu_us", "pss_mib")

    @property
    def text(self) -> str:
        """What is compared, for people."""
        if self.value == "pss_mib":
            return f"MiB of memory per volume at rest, {self.case.kind}"
        return ("CPU time per I/O, " if self.value == "cpu_us" else "") + self.case.name

    @property
    def peer_text(self) -> str:
        if not self.peers:
            return ""
        name = "best correct C peer" if len(self.peers) > 1 else self.peers[0]
        return f"{name} ({self.note})" if self.note else name


CORRUPTING = "its writes corrupt"

CRITERIA = (
    *(
        Criterion("library", case, (LIBISCSI,), 1.0, 1.2)
        for case in (READ_1, READ_32, READ_128, SEQ_256K, SEQ_READ)
    ),
    Criterion("library", READ_32, (LIBISCSI,), 1.0, 0.8, "cpu_us"),
    Criterion("fuse", READ_1, (QEMU,), 1.0, 1.2),
    Criterion("fuse", READ_32, (QEMU,), 1.3, 1.5),
    Criterion("fuse", WRITE_32, (QEMU,), 1.2, 1.5, note=CORRUPTING),
    Criterion("fuse", WRITE_32, CORRECT_PEERS, 3.0, 5.0),
    Criterion("fuse", READ_16K, (QEMU,), 1.1, 1.4),
    Criterion("fuse", SEQ_READ, (QEMU,), 1.6, 2.0),
    Criterion("fuse", SEQ_WRITE, (QEMU,), 1.6, 2.2, note=CORRUPTING),
    Criterion("fuse", SEQ_WRITE, CORRECT_PEERS, 2.0, 3.0),
    Criterion("fuse", READ_32, (QEMU,), 0.75, 0.6, "cpu_us"),
    Criterion("fuse", WRITE_32, (QEMU,), 0.75, 0.6, "cpu_us", note=CORRUPTING),
    Criterion("fuse", SEQ_READ, (QEMU,), 0.6, 0.5, "cpu_us"),
    Criterion("fuse", SEQ_WRITE, (QEMU,), 0.6, 0.5, "cpu_us", note=CORRUPTING),
    Criterion("ext4", PGBENCH, CORRECT_PEERS, 1.5, 2.5, "tps"),
    Criterion("null", NULL_TRIO, ("pyfuse3",), 6.0, 9.0),
    Criterion("null", NULL_UVLOOP, ("pyfuse3",), 2.5, 3.5),
    Criterion("many", FIFTY, (), 12.0, 12.0, "pss_mib"),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a run meets one row."""

    criterion: Criterion
    peer: str
    ratio: float
    lowest: float
    highest: float
    """Of the rounds by themselves."""
    ours: float
    theirs: float

    @property
    def range_text(self) -> str:
        """The ratios of single rounds."""
        return f"{self.lowest:.2f} to {self.highest:.2f}" if self.criterion.peers else ""

    @property
    def word(self) -> str:
        """``aim met``, ``met`` or ``missed``."""
        row = self.criterion
        sign = -1 if row.lower_is_better else 1
        if row.aim != row.at_least and sign * self.ratio >= sign * row.aim:
            return "aim met"
        return "met" if sign * self.ratio >= sign * row.at_least else "missed"


def judge(run: Run) -> list[Verdict]:
    """The rows that the run has figures for."""
    found = []
    for row in CRITERIA:
        level, case, value = row.level, row.case.name, row.value
        if not row.peers:
            figure = run.median(level, case, OURS, value)
            if math.isfinite(figure):
                found.append(Verdict(row, "", figure, figure, figure, figure, math.nan))
            continue
        # The best peer is the fastest one, also where CPU times are compared.
        peer = run.best(level, case, row.peers, "tps" if value == "tps" else "iops")
        if peer is None:
            continue
        ratio = run.ratio(level, case, OURS, peer, value)
        if not math.isfinite(ratio):
            continue
        each = run.ratios(level, case, OURS, peer, value) or [ratio]
        found.append(
            Verdict(
                row, peer, ratio, min(each), max(each),
                run.median(level, case, OURS, value), run.median(level, case, peer, value),
            )
        )  # fmt: skip
    return found
