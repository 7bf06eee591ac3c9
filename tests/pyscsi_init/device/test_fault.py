# SPDX-License-Identifier: Apache-2.0
"""FaultDevice: faults come when and where the test says, and only there."""

from __future__ import annotations

import pytest

from pyscsi_init.device.fault import FaultDevice, Match
from pyscsi_init.device.interface import BlockRequest, Operation
from pyscsi_init.device.ram import RamDevice
from pyscsi_init.errors import MediumError, TaskAborted

pytestmark = pytest.mark.anyio

BAD = MediumError("bad sector", sense_key=3, asc=0x11, ascq=0)


@pytest.fixture
def device() -> FaultDevice:
    return FaultDevice(RamDevice(1 << 16))


def send(
    device: FaultDevice, operation: Operation, offset: int, value: int = 1
) -> tuple[BlockRequest, list[BlockRequest]]:
    done: list[BlockRequest] = []
    buffer = bytearray(bytes((value,)) * 512) if operation <= Operation.WRITE else None
    request = BlockRequest(operation, offset, 512, buffer, done.append)
    device.submit(request)
    return request, done


async def test_fails_by_operation_range_and_count(device: FaultDevice) -> None:
    match = Match(operations=frozenset({Operation.READ}), start=1024, end=2048, skip=1, times=2)
    device.fail(BAD, match)
    outcomes = [send(device, Operation.READ, 1024)[0].error for _ in range(4)]
    assert outcomes == [None, BAD, BAD, None]
    assert send(device, Operation.READ, 512)[0].error is None
    assert send(device, Operation.WRITE, 1024)[0].error is None
    assert device.statistics.injected_errors == 2
    assert device.statistics.requests[Operation.READ] == 5


async def test_fails_before_or_after_the_inner_device(device: FaultDevice) -> None:
    device.fail(BAD, Match(times=1))
    assert send(device, Operation.WRITE, 0)[0].error is BAD
    assert await device.read(0, 512) == bytes(512)
    writes = Match(operations=frozenset({Operation.WRITE}))
    device.fail(BAD, writes, after=True)
    assert send(device, Operation.WRITE, 0)[0].error is BAD
    assert await device.read(0, 512) == b"\x01" * 512


async def test_predicate(device: FaultDevice) -> None:
    device.fail(BAD, Match(predicate=lambda request: request.offset == 512))
    assert send(device, Operation.READ, 0)[0].error is None
    assert send(device, Operation.READ, 512)[0].error is BAD


async def test_held_requests_go_on_in_the_order_asked_for(device: FaultDevice) -> None:
    device.hold(Match(operations=frozenset({Operation.WRITE})))
    flights = [send(device, Operation.WRITE, index * 512, index + 1) for index in range(4)]
    assert not any(done for _, done in flights)
    assert device.held == [request for request, _ in flights]
    assert device.release(2, order="lifo") == 2
    assert [len(done) for _, done in flights] == [0, 0, 1, 1]
    assert [offset for _, offset, _ in device.log] == [1536, 1024]
    assert device.release() == 2
    assert [len(done) for _, done in flights] == [1, 1, 1, 1]
    assert device.statistics.max_in_flight == 4
    assert device.statistics.in_flight == 0


async def test_held_completions_were_done(device: FaultDevice) -> None:
    device.hold(Match(operations=frozenset({Operation.WRITE})), completions=True)
    request, done = send(device, Operation.WRITE, 0)
    assert not done
    assert await device.read(0, 512) == b"\x01" * 512
    assert device.release_only([request]) == 1
    assert done == [request]


async def test_cancel_of_a_held_request(device: FaultDevice) -> None:
    device.hold()
    request, done = send(device, Operation.WRITE, 0)
    device.cancel(request)
    assert done == [request]
    assert isinstance(request.error, TaskAborted)
    assert device.release() == 0
    device.cancel(request)
    assert len(done) == 1


async def test_aclose_ends_what_is_held(device: FaultDevice) -> None:
    device.hold(Match(times=1))
    device.hold(Match(), completions=True)
    first = send(device, Operation.WRITE, 0)[1]
    second = send(device, Operation.WRITE, 512)[1]
    await device.aclose()
    assert isinstance(first[0].error, TaskAborted)
    assert second[0].error is None
