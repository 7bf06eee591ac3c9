# SPDX-License-Identifier: Apache-2.0
"""What an acknowledged write is worth: the commands that a volume sends, and a target's power cut.

The disk has a volatile write cache and can lose what was not flushed, which no real target does on
request.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import pytest

from pyscsi_init.testing import RamDisk
from pyscsi_init.testing.faults import CommandFacts
from tests.e2e.conftest import Volumes
from tests.support.python_target import MEBI, TargetThread, make_target
from tests.support.requirements import require_module

pytestmark = pytest.mark.root

SIZE = 64 * MEBI
WRITE_COMMANDS = frozenset({0x2A, 0x8A})
WRITE_SAME, SYNCHRONIZE_CACHE = frozenset({0x41, 0x93}), frozenset({0x35, 0x91})
FUA = 0x08


class VolatileDisk(RamDisk):
    """Holds writes in a cache until they are flushed; ``power_cut`` loses the rest."""

    def __init__(self, size: int, **kw: Any) -> None:
        super().__init__(size, write_cache=True, **kw)
        self._before: list[tuple[int, bytes]] = []

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self._before.append((offset, self.read(offset, len(data))))
        super().write(offset, data)

    def flush(self) -> None:
        self._before.clear()
        super().flush()

    def power_cut(self) -> None:
        """What was not flushed is as it was before."""
        while self._before:
            offset, data = self._before.pop()
            super().write(offset, data)


def written(path: str, offset: int, data: bytes) -> None:
    """The block file is opened for direct I/O, so this is one write of the volume, and no flush."""
    descriptor = os.open(path, os.O_WRONLY)
    try:
        assert os.pwrite(descriptor, data, offset) == len(data)
    finally:
        os.close(descriptor)


@pytest.mark.parametrize("channel", ["native", "pyfuse3"])
@pytest.mark.parametrize("durability", ["fua", "target-cache"])
def test_a_power_cut_of_the_target(volumes: Volumes, channel: str, durability: str) -> None:
    if channel == "pyfuse3":
        require_module("pyfuse3")
    disk = VolatileDisk(SIZE)
    with TargetThread(make_target(disk)) as served:
        volume = volumes.attach(served.url(), name="v", durability=durability, fuse_channel=channel)
        commands: list[bytes] = []

        def look(facts: CommandFacts) -> bool:
            commands.append(facts.cdb)
            return False

        served.call(lambda: served.target.faults.hold(when=look))
        sizes = (512, 4096, 65536, MEBI)
        for number, size in enumerate(sizes):
            written(volume.file, number * 2 * MEBI, b"x" * size)
        durable = durability == "fua"
        writes = [cdb for cdb in commands if cdb[0] in WRITE_COMMANDS]
        assert len(writes) >= len(sizes)
        assert {bool(cdb[1] & FUA) for cdb in writes} == {durable}
        assert not [cdb for cdb in commands if cdb[0] in SYNCHRONIZE_CACHE]
        unflushed = volumes.get("v").io["unflushed_writes"]
        assert (unflushed == 0) is durable
        served.call(disk.power_cut)
        for number, size in enumerate(sizes):
            expected = b"x" * size if durable else bytes(size)
            assert disk.read(number * 2 * MEBI, size) == expected
        volumes.detach("v")


def test_zeroing_and_holes_are_flushed(volumes: Volumes) -> None:
    """WRITE SAME has no FUA bit, so the flush comes after it, before the answer."""
    disk = VolatileDisk(SIZE, thin=True)
    with TargetThread(make_target(disk)) as served:
        volume = volumes.attach(served.url(), name="v", durability="fua")
        opcodes: list[int] = []

        def look(facts: CommandFacts) -> bool:
            opcodes.append(facts.opcode)
            return False

        served.call(lambda: served.target.faults.hold(when=look))
        descriptor = os.open(volume.file, os.O_RDWR)
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            for mode, offset in ((0x03, MEBI), (0x10, 2 * MEBI)):
                opcodes.clear()
                length = ctypes.c_int64(64 << 10)
                assert libc.fallocate(descriptor, mode, ctypes.c_int64(offset), length) == 0
                assert opcodes[0] in WRITE_SAME
                assert opcodes[-1] in SYNCHRONIZE_CACHE
        finally:
            os.close(descriptor)
        volumes.detach("v")
