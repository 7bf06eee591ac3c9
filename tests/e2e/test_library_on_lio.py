# SPDX-License-Identifier: Apache-2.0
"""The library against LIO, the kernel's target: another implementation than tgt, other habits."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Chap, Secret, Settings
from pyscsi_init.errors import AuthenticationFailed
from tests.support.lio import LioServer
from tests.support.waiting import until

pytestmark = [pytest.mark.root, pytest.mark.anyio]

MEBI = 1 << 20
BLOCK = 4096
WAIT = Settings(recovery_timeout=None, default_time2wait=0)


@pytest.fixture(scope="module")
def lio() -> Iterator[LioServer]:
    with LioServer() as server:
        yield server


@pytest.fixture(autouse=True)
def inside(lio: LioServer) -> Iterator[None]:
    """The test's own thread, and so its event loop's sockets, are where LIO is."""
    with lio.namespace.entered():
        yield


async def round_trip(lun: pyscsi_init.LogicalUnit) -> None:
    """Odd offsets and lengths, larger than any burst; read back and flushed."""
    data = os.urandom(3 * MEBI + 777)
    await lun.write(12_345, data)
    await lun.flush()
    assert await lun.read(12_345, len(data)) == data
    await lun.write_zeroes(20_000, 100_000)
    await lun.write(20_500, b"in the middle", fua=True)
    expected = bytearray(data)
    expected[20_000 - 12_345 : 120_000 - 12_345] = bytes(100_000)
    expected[20_500 - 12_345 : 20_513 - 12_345] = b"in the middle"
    assert await lun.read(12_345, len(data)) == expected


@pytest.mark.parametrize("block_size", [512, 4096])
async def test_block_sizes(lio: LioServer, block_size: int) -> None:
    tid = lio.new_disk(16 * MEBI, block_size=block_size)
    async with pyscsi_init.open_lun(lio.url(tid)) as lun:
        assert (lun.block_size, lun.size_bytes) == (block_size, 16 * MEBI)
        await round_trip(lun)
    lio.wait_sessions(tid, 0)


@pytest.mark.parametrize("digest", ["None", "CRC32C"])
@pytest.mark.parametrize("unsolicited", [True, False])
async def test_ways_to_send_data(lio: LioServer, unsolicited: bool, digest: str) -> None:
    tid = lio.new_disk(16 * MEBI)
    lio.set_param(tid, "InitialR2T", "No" if unsolicited else "Yes")
    lio.set_param(tid, "ImmediateData", "Yes" if unsolicited else "No")
    for key in ("HeaderDigest", "DataDigest"):
        lio.set_param(tid, key, digest)
    settings = Settings(header_digest=(digest,), data_digest=(digest,))
    async with pyscsi_init.open_lun(lio.url(tid), settings=settings) as lun:
        await round_trip(lun)


async def test_chap(lio: LioServer) -> None:
    tid = lio.new_disk(16 * MEBI)
    lio.require_chap(
        tid, "user", "initiator-secret-1", mutual_user="it", mutual_secret="target-secret-234"
    )
    chap = Chap(
        user="user",
        secret=Secret("initiator-secret-1"),
        mutual_secret=Secret("target-secret-234"),
    )
    async with pyscsi_init.open_lun(lio.url(tid), chap=chap) as lun:
        assert len(await lun.read(0, 512)) == 512
    wrong = Chap(user="user", secret=Secret("another-secret-99"))
    with pytest.raises(AuthenticationFailed):
        async with pyscsi_init.open_lun(lio.url(tid), chap=wrong):
            pass


async def test_many_at_once_are_all_there(lio: LioServer) -> None:
    tid = lio.new_disk(64 * MEBI)
    blocks = list(range(64 * MEBI // BLOCK))
    random.Random(1).shuffle(blocks)
    written: dict[int, bytes] = {}
    async with pyscsi_init.open_lun(lio.url(tid)) as lun:

        async def worker(mine: list[int]) -> None:
            for block in mine:
                written[block] = data = os.urandom(16) * (BLOCK // 16)
                await lun.write(block * BLOCK, data)

        async with anyio.create_task_group() as workers:
            for number in range(32):
                workers.start_soon(worker, blocks[number:2048:32])
        for block, data in written.items():
            assert await lun.read(block * BLOCK, BLOCK) == data


@pytest.mark.one_loop
async def test_a_reboot_of_the_target_loses_nothing(lio: LioServer, tmp_path: Path) -> None:
    with LioServer() as other, other.namespace.entered():
        tid = other.new_disk(32 * MEBI, backend="file", file=tmp_path / "disk")
        written: dict[int, bytes] = {}
        stop = False
        async with pyscsi_init.open_lun(other.url(tid), settings=WAIT) as lun:

            async def worker(number: int) -> None:
                choice = random.Random(number)
                while not stop:
                    block = choice.randrange(500) * 8 + number
                    data = os.urandom(16) * (BLOCK // 16)
                    await lun.write(block * BLOCK, data)
                    written[block] = data

            async with anyio.create_task_group() as workers:
                for number in range(8):
                    workers.start_soon(worker, number)
                await anyio.sleep(0.3)  # the load has to be under way: a real target's real time
                await anyio.to_thread.run_sync(other.restart)
                count = len(written)
                await until(lambda: len(written) >= count + 50)
                stop = True
            assert lun.session.statistics.recoveries == 1
            for block, data in written.items():
                assert await lun.read(block * BLOCK, BLOCK) == data
