# SPDX-License-Identifier: Apache-2.0
"""The workload of the grids finds what a disk does wrong, once and in one block."""

from __future__ import annotations

import pytest

from pyscsi_init import Settings
from pyscsi_init.testing import RamDisk
from tests.support.python_target import MEBI, make_target, opened
from tests.support.verify import BEGINNING, verify

pytestmark = [pytest.mark.anyio, pytest.mark.one_loop]

SETTINGS = Settings(first_burst_length=4096, max_burst_length=16384, max_transfer_bytes=2 * MEBI)


class BadDisk(RamDisk):
    """Does one thing wrong, in one of its writes of more than a block."""

    def __init__(self, wrong: str) -> None:
        super().__init__(16 * MEBI)
        self.wrong = wrong
        self.seen = 0

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        changed = bytearray(data)
        if len(data) > 512 and offset >= BEGINNING:
            self.seen += 1
        if self.seen == 5 and len(data) > 512:
            if self.wrong == "lost":
                return
            if self.wrong == "torn":
                changed[-512:] = bytes(512)
            elif self.wrong == "too far":
                changed += bytes(512)
            elif self.wrong == "elsewhere":
                offset += 512
        super().write(offset, changed)


async def test_a_good_disk() -> None:
    disk = BadDisk("")
    async with opened(make_target(disk), SETTINGS) as lun:
        await verify(lun, "seed")
    assert disk.seen > 5


@pytest.mark.parametrize("wrong", ["lost", "torn", "too far", "elsewhere"])
async def test_a_bad_disk(wrong: str) -> None:
    async with opened(make_target(BadDisk(wrong)), SETTINGS) as lun:
        with pytest.raises((AssertionError, BaseExceptionGroup)):
            await verify(lun, "seed")
