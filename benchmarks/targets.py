# SPDX-License-Identifier: Apache-2.0
"""The target of a run: tgt on loopback, or LIO in User Mode Linux, with its LUNs in memory.

Neither a disk nor a network is measured. LUN 0 of a run is the one that all peers share and is full
of random data; the others are blank, one for each that needs its own.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.tgt import TgtServer

KINDS = ("tgt", "lio")
IQN = "iqn.2026-11.example:bench"
BLOCK_SIZE = 512


@dataclass(frozen=True, slots=True)
class Target:
    """A running target."""

    kind: str
    urls: tuple[str, ...]
    """One for each LUN."""
    prefix: tuple[str, ...] = ()
    """What comes before the command of an initiator: how to get into the target's network."""
    block_size: int = BLOCK_SIZE

    def url(self, number: int) -> str:
        """Of a LUN of this run."""
        return self.urls[number]


@contextlib.contextmanager
def open_target(kind: str, directory: Path, sizes: Sequence[int]) -> Iterator[Target]:
    """A target with LUNs of these sizes in bytes; ``directory`` is in memory and is left empty.

    Raises:
        TgtError: it did not start.
    """
    if kind != "tgt":
        raise ValueError(f"no target {kind}")
    with TgtServer() as tgt:
        tid = tgt.new_target(IQN)
        urls = []
        for number, size in enumerate(sizes):
            disk = directory / f"disk{number}"
            if number == 0:
                fill(disk, size)
            tgt.add_lun(tid, number + 1, disk, size_bytes=size)
            urls.append(tgt.url(tid, number + 1))
        yield Target(kind, tuple(urls))


def fill(path: Path, size: int) -> None:
    """Random data, so that no zero is taken a short cut with."""
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(random.randbytes(1 << 20))
