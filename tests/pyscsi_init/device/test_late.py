# SPDX-License-Identifier: Apache-2.0
"""LateDevice: it holds, fails or serves, and then it is out of the way."""

from __future__ import annotations

import pytest

from pyscsi_init.device import BlockRequest, LateDevice, Operation, RamDevice
from pyscsi_init.errors import OutOfRange, SessionFailed, TaskAborted

SIZE = 1 << 20


def late() -> LateDevice:
    return LateDevice(size_bytes=SIZE, block_size=512)


def write(device: LateDevice, offset: int, data: bytes, done: list[BlockRequest]) -> BlockRequest:
    request = BlockRequest(Operation.WRITE, offset, len(data), data, done.append)
    device.submit(request)
    return request


def test_what_is_held_is_served_in_order_when_the_device_comes() -> None:
    device, done = late(), list[BlockRequest]()
    requests = [write(device, 0, bytes([number]) * 512, done) for number in (1, 2, 3)]
    assert (done, device.held) == ([], 3)
    inner = RamDevice(SIZE)
    device.arrive(inner)
    assert done == requests
    assert [request.error for request in done] == [None] * 3
    buffer = bytearray(512)
    inner.submit(BlockRequest(Operation.READ, 0, 512, buffer, done.append))
    assert buffer == b"\3" * 512


def test_then_nothing_of_it_is_between_request_and_device() -> None:
    device, inner = late(), RamDevice(SIZE)
    device.arrive(inner)
    assert device.submit == inner.submit


def test_who_kept_the_method_from_before_is_served_too() -> None:
    device, done = late(), list[BlockRequest]()
    submit, inner = device.submit, RamDevice(SIZE)
    device.arrive(inner)
    request = BlockRequest(Operation.WRITE, 0, 512, b"\4" * 512, done.append)
    submit(request)
    assert (done, request.error, device.held) == ([request], None, 0)


def test_the_device_brings_its_properties_and_its_size() -> None:
    device, sizes = late(), list[int]()
    device.size_changed.append(sizes.append)
    inner = RamDevice(2 * SIZE, can_discard=True, any_alignment=True)
    device.arrive(inner)
    assert (device.size_bytes, device.can_discard, device.any_alignment) == (2 * SIZE, True, True)
    inner.resize(4 * SIZE)
    assert sizes == [2 * SIZE, 4 * SIZE]
    assert device.size_bytes == 4 * SIZE


def test_it_fails_for_a_time_and_serves_again() -> None:
    device, done = late(), list[BlockRequest]()
    write(device, 0, bytes(512), done)
    failure = SessionFailed("too long")
    device.fail(failure)
    write(device, 0, bytes(512), done)
    assert [request.error for request in done] == [failure, failure]
    device.arrive(RamDevice(SIZE))
    write(device, 0, bytes(512), done)
    assert done[-1].error is None


def test_a_request_out_of_range_is_not_held() -> None:
    device, done = late(), list[BlockRequest]()
    write(device, SIZE, bytes(512), done)
    assert isinstance(done[0].error, OutOfRange)


def test_a_held_request_can_be_cancelled() -> None:
    device, done = late(), list[BlockRequest]()
    device.cancel(write(device, 0, bytes(512), done))
    assert isinstance(done[0].error, TaskAborted)
    device.arrive(RamDevice(SIZE))
    assert len(done) == 1


@pytest.mark.anyio
async def test_closing_ends_what_is_held_and_leaves_the_device_alone() -> None:
    device, done = late(), list[BlockRequest]()
    write(device, 0, bytes(512), done)
    await device.aclose()
    assert isinstance(done[0].error, TaskAborted)
    inner = RamDevice(SIZE)
    device = late()
    device.arrive(inner)
    await device.aclose()
    assert inner.size_changed == []
    await inner.read(0, 512)
