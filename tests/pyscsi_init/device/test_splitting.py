# SPDX-License-Identifier: Apache-2.0
"""SplittingDevice: pieces within the limits, a bounded number at a time, one completion."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.device.fault import FaultDevice, Match
from pyscsi_init.device.interface import BlockRequest, Limits, Operation
from pyscsi_init.device.ram import RamDevice
from pyscsi_init.device.splitting import SplittingDevice
from pyscsi_init.errors import HardwareError, MediumError, OutOfRange, TaskAborted

BAD = MediumError("first", sense_key=3, asc=0x11, ascq=0)
WORSE = HardwareError("later", sense_key=4, asc=0x44, ascq=0)
BLOCK = 512
LIMITS = Limits(
    max_transfer_bytes=4 * BLOCK,
    optimal_transfer_bytes=2 * BLOCK,
    max_discard_bytes=10 * BLOCK,
    discard_granularity_bytes=4 * BLOCK,
    discard_alignment_bytes=BLOCK,
    max_write_zeroes_bytes=6 * BLOCK,
)


def stack(limits: Limits = LIMITS) -> tuple[SplittingDevice, FaultDevice]:
    fault = FaultDevice(RamDevice(1 << 17, limits=limits))
    return SplittingDevice(fault), fault


def send(
    device: SplittingDevice, operation: Operation, offset: int, length: int, *, fua: bool = False
) -> tuple[BlockRequest, list[BlockRequest]]:
    done: list[BlockRequest] = []
    buffer = bytearray(b"\x01" * length) if operation <= Operation.WRITE else None
    request = BlockRequest(operation, offset, length, buffer, done.append, fua=fua)
    device.submit(request)
    return request, done


def test_within_the_limit_the_request_itself_passes() -> None:
    device, fault = stack()
    fault.hold()
    request, _ = send(device, Operation.WRITE, 0, 4 * BLOCK)
    assert fault.held == [request]
    fault.release()


def test_pieces_of_a_write() -> None:
    device, fault = stack()
    seen: list[bool] = []

    def look(piece: BlockRequest) -> bool:
        seen.append(piece.fua)
        return False

    fault.hold(Match(predicate=look))
    request, done = send(device, Operation.WRITE, BLOCK, 10 * BLOCK, fua=True)
    assert done == [request]
    assert request.error is None
    assert [(offset // BLOCK, length // BLOCK) for _, offset, length in fault.log] == [
        (1, 4),
        (5, 4),
        (9, 2),
    ]
    assert seen == [True] * 3


@pytest.mark.conformance("SCSI-026")
def test_discards_are_cut_at_whole_granules() -> None:
    device, fault = stack()
    send(device, Operation.DISCARD, 2 * BLOCK, 25 * BLOCK)
    pieces = [(offset // BLOCK, length // BLOCK) for _, offset, length in fault.log]
    assert pieces == [(2, 7), (9, 8), (17, 10)]
    for start, _ in pieces[1:]:
        assert (start - 1) % 4 == 0


def test_pieces_in_flight_are_bounded() -> None:
    device, fault = stack()
    fault.hold()
    _, done = send(device, Operation.READ, 0, 64 * BLOCK)
    assert len(fault.held) == 4
    fault.release(1)
    assert len(fault.held) == 4
    while fault.held:
        assert not done
        fault.release(1)
    assert done[0].error is None
    assert fault.statistics.max_in_flight == 4


@pytest.mark.conformance("SCSI-023")
def test_first_error_in_offset_order_wins() -> None:
    device, fault = stack()
    fault.fail(BAD, Match(start=4 * BLOCK, end=8 * BLOCK), after=True)
    fault.fail(WORSE, Match(start=12 * BLOCK, end=16 * BLOCK), after=True)
    fault.hold(completions=True)
    request, done = send(device, Operation.WRITE, 0, 64 * BLOCK)
    assert len(fault.held) == 4
    fault.release(1, order="lifo")
    assert not done
    assert len(fault.held) == 3, "a piece was started after an error was known"
    fault.release(order="lifo")
    assert done == [request]
    assert request.error is BAD
    assert len(fault.log) == 4


def test_cancel_reaches_the_pieces_and_starts_no_more() -> None:
    device, fault = stack()
    fault.hold()
    request, done = send(device, Operation.WRITE, 0, 64 * BLOCK)
    device.cancel(request)
    assert done == [request]
    assert isinstance(request.error, TaskAborted)
    assert fault.log == []
    assert fault.statistics.cancelled == 4
    device.cancel(request)


def test_cancel_when_the_last_pieces_succeed() -> None:
    device, fault = stack()
    fault.hold(completions=True)
    request, done = send(device, Operation.WRITE, 0, 8 * BLOCK)
    device.cancel(request)
    assert done == [request]
    assert request.error is None


def test_out_of_range_starts_nothing() -> None:
    device, fault = stack()
    request, _ = send(device, Operation.WRITE, (1 << 17) - BLOCK, 16 * BLOCK)
    assert isinstance(request.error, OutOfRange)
    assert fault.log == []


def test_limits_seen_from_above() -> None:
    device, _ = stack()
    assert device.limits == Limits(
        optimal_transfer_bytes=2 * BLOCK,
        discard_granularity_bytes=4 * BLOCK,
        discard_alignment_bytes=BLOCK,
    )


def test_a_synchronous_device_does_not_deepen_the_stack() -> None:
    limits = Limits(max_discard_bytes=BLOCK)
    device = SplittingDevice(RamDevice(4096 * BLOCK, limits=limits))
    request, done = send(device, Operation.DISCARD, 0, 4096 * BLOCK)
    assert done == [request]
    assert request.error is None


@given(
    offset=st.integers(0, 100),
    length=st.integers(1, 100),
    limit=st.integers(1, 40),
    granularity=st.integers(0, 20),
    alignment=st.integers(0, 20),
)
def test_pieces_cover_the_discard_exactly(
    offset: int, length: int, limit: int, granularity: int, alignment: int
) -> None:
    limits = Limits(
        max_discard_bytes=limit * BLOCK,
        discard_granularity_bytes=granularity * BLOCK,
        discard_alignment_bytes=alignment * BLOCK,
    )
    device, fault = stack(limits)
    request, done = send(device, Operation.DISCARD, offset * BLOCK, length * BLOCK)
    assert done == [request]
    assert request.error is None
    position = offset * BLOCK
    for _, start, size in fault.log:
        assert start == position
        assert 0 < size <= limit * BLOCK
        position += size
    assert position == (offset + length) * BLOCK
