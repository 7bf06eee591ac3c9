# SPDX-License-Identifier: Apache-2.0
"""The kit passes honest devices in every stacking, and finds each kind of dishonest one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from pyscsi_init.device.alignment import AlignmentDevice
from pyscsi_init.device.conformance_kit import ConformanceError, check_block_device
from pyscsi_init.device.fault import FaultDevice
from pyscsi_init.device.interface import BlockDevice, BlockRequest, Limits, Operation
from pyscsi_init.device.ram import RamDevice
from pyscsi_init.device.splitting import SplittingDevice

pytestmark = pytest.mark.anyio

SIZE = 1 << 20
ODD = Limits(
    max_transfer_bytes=7 * 512,
    max_discard_bytes=23 * 512,
    discard_granularity_bytes=8 * 512,
    discard_alignment_bytes=3 * 512,
    max_write_zeroes_bytes=5 * 512,
)
ODD_4096 = Limits(
    max_transfer_bytes=3 * 4096, max_discard_bytes=9 * 4096, max_write_zeroes_bytes=4096
)

DEVICES: dict[str, Callable[[], BlockDevice]] = {
    "ram": lambda: RamDevice(SIZE),
    "ram-4096": lambda: RamDevice(SIZE, 4096),
    "ram-read-only": lambda: RamDevice(SIZE, read_only=True),
    "ram-plain": lambda: RamDevice(SIZE, can_discard=False, can_write_zeroes=False),
    "ram-dirty-discard": lambda: RamDevice(SIZE, discard_zeroes=False),
    "ram-bytes": lambda: RamDevice(SIZE, any_alignment=True),
    "ram-limits": lambda: RamDevice(SIZE, limits=ODD),
    "fault": lambda: FaultDevice(RamDevice(SIZE)),
    "splitting": lambda: SplittingDevice(RamDevice(SIZE, limits=ODD)),
    "alignment": lambda: AlignmentDevice(RamDevice(SIZE)),
    "alignment-read-only": lambda: AlignmentDevice(RamDevice(SIZE, read_only=True)),
    "alignment-plain": lambda: AlignmentDevice(
        RamDevice(SIZE, can_discard=False, can_write_zeroes=False)
    ),
    "stack": lambda: AlignmentDevice(SplittingDevice(RamDevice(SIZE, limits=ODD))),
    "stack-4096": lambda: AlignmentDevice(SplittingDevice(RamDevice(SIZE, 4096, limits=ODD_4096))),
}


@pytest.mark.parametrize("name", DEVICES)
async def test_honest_devices_pass(name: str) -> None:
    @asynccontextmanager
    async def make() -> AsyncIterator[BlockDevice]:
        async with DEVICES[name]() as device:
            yield device

    ran = await check_block_device(make)
    assert len(ran) >= 13
    assert ("check_random_workload" in ran) is ("read-only" not in name)


class _Dishonest(RamDevice):
    """A RAM device with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__(SIZE)
        self._fault = fault
        self._last: BlockRequest | None = None

    def submit(self, request: BlockRequest) -> None:
        getattr(self, f"_{self._fault}")(request)

    def _completes_twice(self, request: BlockRequest) -> None:
        super().submit(request)
        request.completion(request)

    def _raises(self, request: BlockRequest) -> None:
        if request.offset + request.length > self.size_bytes:
            raise ValueError("out of range")
        super().submit(request)

    def _loses_every_tenth_write(self, request: BlockRequest) -> None:
        if request.operation is Operation.WRITE and request.offset // 512 % 10 == 9:
            request.complete()
        else:
            super().submit(request)

    def _forgets_the_range_check(self, request: BlockRequest) -> None:
        if request.offset < 0 or request.offset + request.length > self.size_bytes:
            request.complete()
        else:
            super().submit(request)

    def _ignores_the_buffer_length(self, request: BlockRequest) -> None:
        if request.buffer is None or len(request.buffer) != request.length:
            request.complete()
        else:
            super().submit(request)

    def _zeroes_too_much(self, request: BlockRequest) -> None:
        if request.operation is Operation.WRITE_ZEROES and request.error is None:
            request.length += 512
        super().submit(request)

    def _keeps_discarded_data(self, request: BlockRequest) -> None:
        if request.operation is Operation.DISCARD:
            request.complete()
        else:
            super().submit(request)

    def _takes_another_request(self, request: BlockRequest) -> None:
        def completion(_: BlockRequest) -> None:
            request.completion(copy)

        copy: Any = BlockRequest(
            request.operation, request.offset, request.length, request.buffer, completion
        )
        super().submit(copy)


@pytest.mark.parametrize(
    "fault",
    [
        "completes_twice",
        "raises",
        "loses_every_tenth_write",
        "forgets_the_range_check",
        "ignores_the_buffer_length",
        "zeroes_too_much",
        "keeps_discarded_data",
        "takes_another_request",
    ],
)
async def test_dishonest_devices_are_found(fault: str) -> None:
    @asynccontextmanager
    async def make() -> AsyncIterator[BlockDevice]:
        async with _Dishonest(fault) as device:
            yield device

    with pytest.raises(ConformanceError) as caught:
        await check_block_device(make)
    assert "conformance kit" in caught.value.__notes__[0]


async def test_a_missing_completion_ends_in_a_timeout() -> None:
    class Silent(RamDevice):
        def submit(self, request: BlockRequest) -> None:
            if request.operation is not Operation.FLUSH:
                super().submit(request)

    @asynccontextmanager
    async def make() -> AsyncIterator[BlockDevice]:
        yield Silent(SIZE)

    with pytest.raises(TimeoutError):
        await check_block_device(make, timeout_s=0.2)
