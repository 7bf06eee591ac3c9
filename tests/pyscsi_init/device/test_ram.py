# SPDX-License-Identifier: Apache-2.0
"""RamDevice: limits, sizes and the cost of blocks nobody wrote."""

from __future__ import annotations

import resource

import pytest

from pyscsi_init.device.interface import BlockRequest, Limits, Operation
from pyscsi_init.device.ram import RamDevice
from pyscsi_init.errors import ConfigurationError, LocalProtocolError, OutOfRange

pytestmark = pytest.mark.anyio


async def test_completes_inside_submit() -> None:
    async with RamDevice(4096) as device:
        done: list[BlockRequest] = []
        request = BlockRequest(Operation.WRITE, 0, 512, bytes(512), done.append)
        device.submit(request)
        assert done == [request]
        assert request.error is None


async def test_blocks_never_written_cost_nothing() -> None:
    def resident() -> int:
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * resource.getpagesize()

    before = resident()
    async with RamDevice(1 << 34) as device:
        await device.write((1 << 34) - 512, b"\x07" * 512)
        assert await device.read((1 << 34) - 512, 512) == b"\x07" * 512
        await device.write(0, b"\x08" * (16 << 20))
        grown = resident()
        assert grown - before < 64 << 20
        await device.discard(0, 16 << 20)
        assert grown - resident() > 12 << 20
        assert not any(await device.read(0, 1 << 20))


@pytest.mark.parametrize("operation", [Operation.READ, Operation.WRITE, Operation.DISCARD])
async def test_what_is_longer_than_the_limit_is_refused(operation: Operation) -> None:
    limits = Limits(max_transfer_bytes=1024, max_discard_bytes=1024)
    device = RamDevice(8192, limits=limits)
    buffer = bytearray(1536) if operation <= Operation.WRITE else None
    done: list[BlockRequest] = []
    device.submit(BlockRequest(operation, 0, 1536, buffer, done.append))
    assert isinstance(done[0].error, LocalProtocolError)


async def test_resize_keeps_content_zeroes_growth_and_tells() -> None:
    device = RamDevice(8192, 512)
    async with device:
        sizes: list[int] = []
        device.size_changed.append(sizes.append)
        await device.write(0, b"\x01" * 8192)
        device.resize(16384)
        assert await device.read(0, 16384) == b"\x01" * 8192 + bytes(8192)
        device.resize(1536)
        with pytest.raises(OutOfRange):
            await device.read(1536, 512)
        device.resize(8192)
        assert await device.read(0, 8192) == b"\x01" * 1536 + bytes(8192 - 1536)
        assert sizes == [16384, 1536, 8192]


async def test_discard_without_promise_leaves_neither_old_data_nor_zeros() -> None:
    async with RamDevice(8192, discard_zeroes=False) as device:
        await device.write(0, b"\x01" * 1024)
        await device.discard(0, 512)
        assert set(await device.read(0, 512)) == {0xA5}
        assert set(await device.read(512, 512)) == {1}


@pytest.mark.parametrize(("size", "block"), [(0, 512), (1000, 512), (-512, 512), (4096, 500)])
def test_sizes_that_cannot_work(size: int, block: int) -> None:
    with pytest.raises(ConfigurationError):
        RamDevice(size, block)
