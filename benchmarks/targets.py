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

import pytest

from tests.support.lio import LioServer
from tests.support.tgt import TgtError, TgtServer
from tests.support.uml import GuestError

from .processes import Failed

KINDS = ("tgt", "lio")
IQN = "iqn.2026-11.example:bench"
BLOCK_SIZE = 512
GUEST_MIB = 512
"""What LIO's guest needs beside its disks."""


@dataclass(frozen=True, slots=True)
class Target:
    """A running target."""

    kind: str
    urls: tuple[str, ...]
    """One for each LUN."""
    block_size: int = BLOCK_SIZE

    def url(self, number: int) -> str:
        """Of a LUN of this run."""
        return self.urls[number]


@contextlib.contextmanager
def open_target(kind: str, directory: Path, sizes: Sequence[int]) -> Iterator[Target]:
    """A target with LUNs of these sizes in bytes; ``directory`` is in memory.

    For LIO this thread, and so every process that is started meanwhile, is in the guest's network
    namespace.

    Raises:
        Failed: a part of it is not installed, or it did not start.
    """
    try:
        with (_tgt if kind == "tgt" else _lio)(directory, sizes) as urls:
            yield Target(kind, tuple(urls))
    except (TgtError, GuestError) as error:
        raise Failed(str(error)) from error
    except (pytest.skip.Exception, pytest.fail.Exception) as error:
        # The starters of targets belong to the tests, where a missing part ends a test.
        raise Failed(str(error)) from None


@contextlib.contextmanager
def _tgt(directory: Path, sizes: Sequence[int]) -> Iterator[list[str]]:
    with TgtServer() as tgt:
        tid = tgt.new_target(IQN)
        for number, size in enumerate(sizes):
            disk = directory / f"disk{number}"
            if number == 0:
                fill(disk, size)
            tgt.add_lun(tid, number + 1, disk, size_bytes=size)
        yield [tgt.url(tid, number + 1) for number in range(len(sizes))]


@contextlib.contextmanager
def _lio(_: Path, sizes: Sequence[int]) -> Iterator[list[str]]:
    memory_mib = GUEST_MIB + (sum(sizes) >> 20)  # is taken as it is used, not before
    with LioServer(memory_mib=memory_mib) as lio:
        tid = lio.new_target(IQN)
        content = lio.guest.directory / "content"
        for number, size in enumerate(sizes):
            disk = lio.add_lun(tid, number, size)
            if number == 0:
                # The guest sees our files; what LIO shall serve is a copy in its own memory.
                fill(content, size)
                lio.guest.run(f"dd if={content} of={disk.path} bs=1M conv=notrunc 2>/dev/null")
                content.unlink()
        with lio.namespace.entered():
            yield [lio.url(tid, number) for number in range(len(sizes))]


def fill(path: Path, size: int) -> None:
    """Random data, so that no zero is taken a short cut with."""
    with path.open("wb") as file:
        for _ in range(size >> 20):
            file.write(random.randbytes(1 << 20))
