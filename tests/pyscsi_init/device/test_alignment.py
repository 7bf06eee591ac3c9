# SPDX-License-Identifier: Apache-2.0
"""AlignmentDevice: any range, and no acknowledged byte lost to a read-modify-write."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyscsi_init.device.alignment import AlignmentDevice
from pyscsi_init.device.fault import FaultDevice, Match
from pyscsi_init.device.interface import BlockRequest, Limits, Operation
from pyscsi_init.device.ram import RamDevice
from pyscsi_init.device.splitting import SplittingDevice
from pyscsi_init.errors import MediumError, OutOfRange, TaskAborted, Unsupported

BAD = MediumError("bad", sense_key=3, asc=0x11, ascq=0)
READS = Match(operations=frozenset({Operation.READ}))
WRITES = Match(operations=frozenset({Operation.WRITE, Operation.WRITE_ZEROES}))
SIZE = 1 << 16


def stack(*, plain: bool = False) -> tuple[AlignmentDevice, FaultDevice]:
    ram = RamDevice(SIZE, can_discard=not plain, can_write_zeroes=not plain)
    fault = FaultDevice(ram)
    return AlignmentDevice(fault), fault


def send(
    device: AlignmentDevice,
    operation: Operation,
    offset: int,
    length: int,
    value: int = 1,
    *,
    fua: bool = False,
) -> tuple[BlockRequest, list[BlockRequest]]:
    done: list[BlockRequest] = []
    buffer = bytearray(bytes((value,)) * length) if operation <= Operation.WRITE else None
    request = BlockRequest(operation, offset, length, buffer, done.append, fua=fua)
    device.submit(request)
    return request, done


def content(device: AlignmentDevice, start: int, end: int) -> bytes:
    request, done = send(device, Operation.READ, start, end - start)
    assert done
    assert request.error is None
    return bytes(request.buffer or b"")


@pytest.mark.parametrize("operation", [Operation.READ, Operation.WRITE, Operation.DISCARD])
def test_aligned_requests_pass_as_they_are(operation: Operation) -> None:
    device, fault = stack()
    fault.hold()
    request, done = send(device, operation, 512, 1024)
    assert fault.held == [request]
    fault.release()
    assert done == [request]
    assert request.completion == done.append


def test_unaligned_write_reads_its_edges_and_writes_whole_blocks() -> None:
    device, fault = stack()
    send(device, Operation.WRITE, 100, 1500)
    assert fault.log == [
        (Operation.READ, 0, 512),
        (Operation.READ, 1536, 512),
        (Operation.WRITE, 0, 2048),
    ]
    assert content(device, 0, 2048) == bytes(100) + b"\x01" * 1500 + bytes(448)


def test_a_write_within_one_block_reads_it_once() -> None:
    device, fault = stack()
    send(device, Operation.WRITE, 700, 10)
    assert fault.log == [(Operation.READ, 512, 512), (Operation.WRITE, 512, 512)]


def test_fua_is_kept_on_writes_only() -> None:
    device, fault = stack()
    seen: list[tuple[Operation, bool]] = []

    def look(step: BlockRequest) -> bool:
        seen.append((step.operation, step.fua))
        return False

    fault.hold(Match(predicate=look))
    send(device, Operation.WRITE, 1, 5, fua=True)
    assert seen == [(Operation.READ, False), (Operation.WRITE, True)]


def test_write_zeroes_keeps_the_middle_cheap() -> None:
    device, fault = stack()
    send(device, Operation.WRITE, 0, 4096)
    fault.log.clear()
    send(device, Operation.WRITE_ZEROES, 100, 3000)
    assert (Operation.WRITE_ZEROES, 512, 2560) in fault.log
    assert content(device, 0, 4096) == b"\x01" * 100 + bytes(3000) + b"\x01" * 996


def test_discard_shrinks_to_the_blocks_inside() -> None:
    device, fault = stack()
    assert send(device, Operation.DISCARD, 100, 3000)[1]
    assert fault.log == [(Operation.DISCARD, 512, 2560)]
    request, done = send(device, Operation.DISCARD, 100, 800)
    assert done
    assert request.error is None
    assert len(fault.log) == 1


def test_neighbours_in_one_block_both_survive() -> None:
    """Two writers of one block: the second may not read before the first has written."""
    device, fault = stack()
    fault.hold(READS)
    first = send(device, Operation.WRITE, 0, 100, 1)[1]
    second = send(device, Operation.WRITE, 100, 100, 2)[1]
    assert len(fault.held) == 1
    fault.release()
    assert first
    fault.release()
    assert second
    fault.clear()
    assert content(device, 0, 512) == b"\x01" * 100 + b"\x02" * 100 + bytes(312)


def test_an_aligned_write_waits_for_a_read_modify_write_on_its_block() -> None:
    device, fault = stack()
    fault.hold(READS)
    send(device, Operation.WRITE, 10, 5, 1)
    aligned = send(device, Operation.WRITE, 0, 512, 2)[1]
    elsewhere = send(device, Operation.WRITE, 512, 512, 3)[1]
    assert not aligned
    assert elsewhere
    fault.release()
    assert aligned
    fault.clear()
    assert content(device, 0, 1024) == b"\x02" * 512 + b"\x03" * 512


def test_a_read_modify_write_waits_for_an_aligned_write_on_its_block() -> None:
    """The aligned write was submitted first and is still under way below."""
    device, fault = stack()
    fault.hold(WRITES)
    aligned = send(device, Operation.WRITE, 0, 512, 2)[1]
    unaligned = send(device, Operation.WRITE, 10, 5, 1)[1]
    assert fault.log == []
    fault.release()
    assert aligned
    fault.release()
    assert unaligned
    fault.clear()
    assert content(device, 0, 512) == b"\x02" * 10 + b"\x01" * 5 + b"\x02" * 497


def test_a_later_writer_does_not_overtake_a_waiting_one() -> None:
    device, fault = stack()
    fault.hold(WRITES)
    send(device, Operation.WRITE, 0, 512, 1)
    waiting = send(device, Operation.WRITE, 10, 5, 2)[1]
    later = send(device, Operation.WRITE, 0, 512, 3)[1]
    assert len(fault.held) == 1
    fault.release()
    assert not waiting
    fault.release()
    assert waiting
    assert not later
    fault.release()
    assert later
    fault.clear()
    assert content(device, 0, 512) == b"\x03" * 512


def test_many_waiting_writers_do_not_deepen_the_stack() -> None:
    device, fault = stack()
    fault.hold(Match(operations=frozenset({Operation.READ}), times=1))
    flights = [send(device, Operation.WRITE, 3, 5, index % 256)[1] for index in range(3000)]
    assert not any(flights)
    fault.release()
    assert all(flights)
    assert content(device, 3, 8) == bytes((2999 % 256,)) * 5


def test_an_error_of_the_edge_read_writes_nothing_and_frees_the_range() -> None:
    device, fault = stack()
    fault.fail(BAD, Match(operations=frozenset({Operation.READ}), times=1))
    request, done = send(device, Operation.WRITE, 10, 5)
    assert done == [request]
    assert request.error is BAD
    assert fault.log == []
    assert send(device, Operation.WRITE, 10, 5)[0].error is None


def test_cancel_while_reading_while_waiting_and_while_bouncing() -> None:
    device, fault = stack()
    fault.hold(READS)
    reading, read_done = send(device, Operation.WRITE, 10, 5)
    waiting, waiting_done = send(device, Operation.WRITE, 20, 5)
    bounced, bounced_done = send(device, Operation.READ, 10, 5)
    for request in (waiting, bounced, reading):
        device.cancel(request)
    for request, done in (
        (reading, read_done),
        (waiting, waiting_done),
        (bounced, bounced_done),
    ):
        assert done == [request]
        assert isinstance(request.error, TaskAborted)
    fault.clear()
    assert content(device, 0, 512) == bytes(512)
    assert send(device, Operation.WRITE, 10, 5)[0].error is None


def test_cancel_of_a_waiting_one_inside_a_completion() -> None:
    device, fault = stack()
    fault.hold(Match(operations=frozenset({Operation.READ}), times=1))
    first = send(device, Operation.WRITE, 10, 5)[0]
    second = send(device, Operation.WRITE, 1000, 5)[0]
    third, third_done = send(device, Operation.WRITE, 20, 5)
    assert second.error is None
    first.completion = lambda _: device.cancel(third)
    wrapped, wrapped_done = send(device, Operation.WRITE, 30, 5)
    fault.release()
    assert third_done == [third]
    assert wrapped_done == [wrapped]
    assert send(device, Operation.WRITE, 10, 5)[1]


def test_cancel_after_the_edges_were_read_writes_nothing() -> None:
    device, fault = stack()
    fault.hold(READS, completions=True)
    request, done = send(device, Operation.WRITE, 10, 5)
    device.cancel(request)
    assert done == [request]
    assert isinstance(request.error, TaskAborted)
    assert [operation for operation, _, _ in fault.log] == [Operation.READ]


def test_a_device_that_takes_any_alignment_is_left_alone() -> None:
    fault = FaultDevice(RamDevice(SIZE, any_alignment=True))
    send(AlignmentDevice(fault), Operation.WRITE, 3, 5)
    assert fault.log == [(Operation.WRITE, 3, 5)]


def test_refusals() -> None:
    device, _ = stack(plain=True)
    assert isinstance(send(device, Operation.DISCARD, 1, 5)[0].error, Unsupported)
    assert isinstance(send(device, Operation.WRITE_ZEROES, 1, 5)[0].error, Unsupported)
    assert isinstance(send(device, Operation.WRITE, SIZE - 1, 2)[0].error, OutOfRange)


def test_size_changed_comes_through_the_whole_stack() -> None:
    ram = RamDevice(SIZE)
    device = AlignmentDevice(SplittingDevice(FaultDevice(ram)))
    sizes: list[int] = []
    device.size_changed.append(sizes.append)
    ram.resize(2 * SIZE)
    assert sizes == [2 * SIZE]
    assert device.size_bytes == 2 * SIZE
    assert send(device, Operation.WRITE, 2 * SIZE - 5, 5)[0].error is None


# -- random workloads ---------------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [512, 4096])
@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 32), limit=st.integers(1, 9), zeroes=st.booleans())
def test_random_workload_equals_a_bytearray(
    block_size: int, seed: int, limit: int, zeroes: bool
) -> None:
    """Concurrent requests that share blocks but no bytes, completed in any order below.

    Each batch cuts the window at random bytes, so neighbours meet within blocks; the device below
    holds everything, and lets requests and completions go one at a time in random order.
    """
    rng = random.Random(seed)
    limits = Limits(
        max_transfer_bytes=limit * block_size,
        max_discard_bytes=(limit + 2) * block_size,
        discard_granularity_bytes=2 * block_size,
        discard_alignment_bytes=block_size,
        max_write_zeroes_bytes=(limit + 1) * block_size,
    )
    window = 16 * block_size
    ram = RamDevice(window, block_size, discard_zeroes=zeroes, limits=limits)
    fault = FaultDevice(ram)
    device = AlignmentDevice(SplittingDevice(fault))
    model = bytearray(window)
    for _ in range(4):
        before = bytes(model)
        fault.hold()
        fault.hold(completions=True)
        cuts = sorted({rng.randrange(window + 1) for _ in range(12)})
        discarded: list[tuple[int, int]] = []
        flights = []
        ranges = list(itertools.pairwise(cuts))
        rng.shuffle(ranges)
        for start, end in ranges:
            operation = rng.choice(list(Operation))
            if operation is Operation.FLUSH:
                continue
            value = rng.randrange(256)
            flights.append(send(device, operation, start, end - start, value))
            if operation is Operation.WRITE:
                model[start:end] = bytes((value,)) * (end - start)
            elif operation is Operation.WRITE_ZEROES:
                model[start:end] = bytes(end - start)
            elif operation is Operation.DISCARD:
                discarded.append((start, end))
        while fault.held:
            fault.release_only([rng.choice(fault.held)])
        fault.clear()
        for request, done in flights:
            assert done == [request]
            assert request.error is None
            start, end = request.offset, request.offset + request.length
            if request.operation is Operation.READ:
                assert request.buffer == before[start:end]
        for start, end in discarded:
            first, last = -(-start // block_size) * block_size, end // block_size * block_size
            if first < last:
                model[first:last] = (b"\0" if zeroes else b"\xa5") * (last - first)
        # Straight from the memory: what the stack reads is not its own witness.
        assert bytes(ram._view) == model
