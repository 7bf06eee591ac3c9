# SPDX-License-Identifier: Apache-2.0
"""The checks of :mod:`pyscsi_init.device.conformance_kit` that change a device's content.

A random workload runs many requests at a time that do not overlap, since the interface orders
nothing between requests in flight, and every byte is compared with a bytearray that had the same
done to it. It refuses to know what a discard leaves behind, unless the device promises zeros.
"""

from __future__ import annotations

import itertools
import random

from ..buffers import Buffer
from .conformance_reads import (
    MODIFYING,
    Check,
    Flight,
    buffer_for,
    expect,
    pattern,
    read,
    run,
    transfer_limit,
    write,
)
from .interface import BlockDevice, BlockRequest, Operation


async def check_write_reads_back(device: BlockDevice) -> None:
    block, size = device.block_size, device.size_bytes
    for offset, length in ((0, block), (size - block, block), (block, 3 * block)):
        length = min(length, transfer_limit(device))
        data = pattern(length, offset)
        await write(device, offset, data)
        expect(
            await read(device, offset, length) == data, f"{offset}+{length} reads back otherwise"
        )


async def check_longest_transfer(device: BlockDevice) -> None:
    length = transfer_limit(device)
    offset = device.size_bytes - length
    data = pattern(length, 1)
    await write(device, offset, data)
    expect(await read(device, offset, length) == data, "the longest transfer reads back otherwise")


async def check_neighbours_survive_a_write(device: BlockDevice) -> None:
    block = device.block_size
    model = pattern(block, 1) + pattern(block, 2) + pattern(block, 3)
    for index in range(3):
        await write(device, index * block, model[index * block : (index + 1) * block])
    await write(device, block, b"\xff" * block)
    expect(await read(device, 0, block) == model[:block], "the block before changed")
    expect(await read(device, 2 * block, block) == model[2 * block :], "the block after changed")


async def check_kinds_of_buffers(device: BlockDevice) -> None:
    block = device.block_size
    data = pattern(2 * block, 7)
    sources: tuple[Buffer, ...] = (
        data[:block],
        bytearray(data[:block]),
        memoryview(data)[:block],
        memoryview(bytearray(data))[:block],
    )
    for index, source in enumerate(sources):
        await write(device, index * block, source)
        expect(bytes(source) == data[:block], "WRITE changed its source")
        expect(await read(device, index * block, block) == data[:block], f"{type(source)} differs")


async def check_source_may_change_after_completion(device: BlockDevice) -> None:
    block = device.block_size
    source = bytearray(pattern(block, 8))
    kept = bytes(source)
    await write(device, 0, source)
    source[:] = bytes(block)
    expect(await read(device, 0, block) == kept, "the device kept the caller's buffer")


async def check_fua(device: BlockDevice) -> None:
    block = device.block_size
    await write(device, 0, pattern(block, 9), fua=True)
    expect(await read(device, 0, block) == pattern(block, 9), "a FUA write reads back otherwise")
    if device.can_write_zeroes:
        await run(device, Operation.WRITE_ZEROES, 0, block, fua=True)
        expect(await read(device, 0, block) == bytes(block), "FUA WRITE_ZEROES left data")


async def check_refused_writes_change_nothing(device: BlockDevice) -> None:
    block, size = device.block_size, device.size_bytes
    data = pattern(block, 10)
    await write(device, size - block, data)
    flight = Flight(device)
    for operation in MODIFYING:
        flight.submit(operation, size - block, 2 * block, buffer_for(operation, 2 * block))
    flight.submit(Operation.WRITE, size - block, block, bytes(block - 1))
    await flight.land()
    expect(all(request.error for request in flight.completed), "a wrong request was accepted")
    expect(await read(device, size - block, block) == data, "a refused request changed data")


async def check_discard(device: BlockDevice) -> None:
    if not device.can_discard:
        return
    unit = max(device.limits.discard_granularity_bytes, device.block_size)
    start = (device.limits.discard_alignment_bytes % unit) + unit
    block = device.block_size
    if start + 2 * unit > device.size_bytes:
        return
    edges = (start - block, start + unit)
    for offset in edges:
        await write(device, offset, pattern(block, offset))
    await run(device, Operation.DISCARD, start, unit)
    for offset in edges:
        got = await read(device, offset, block)
        expect(got == pattern(block, offset), "DISCARD changed a neighbour")
    if device.discard_zeroes:
        for offset in range(start, start + unit, block):
            expect(await read(device, offset, block) == bytes(block), "discarded, but not zeros")
    await write(device, start, pattern(block, 11))
    expect(await read(device, start, block) == pattern(block, 11), "no write after DISCARD")


async def check_write_zeroes(device: BlockDevice) -> None:
    if not device.can_write_zeroes:
        return
    block = device.block_size
    for index in range(6):
        await write(device, index * block, pattern(block, index))
    await run(device, Operation.WRITE_ZEROES, block, 4 * block)
    for index in range(6):
        wanted = pattern(block, index) if index in (0, 5) else bytes(block)
        expect(await read(device, index * block, block) == wanted, f"block {index} is wrong")


async def check_overlapping_writes(device: BlockDevice) -> None:
    block = device.block_size
    flight = Flight(device)
    values = range(1, 17)
    for value in values:
        flight.submit(Operation.WRITE, 0, 2 * block, bytes((value,)) * (2 * block))
        flight.submit(Operation.READ, 0, block, bytearray(block))
    await flight.land()
    expect(all(request.error is None for request in flight.completed), "an overlap failed")
    for offset in (0, block):
        got = await read(device, offset, block)
        expect(set(got) <= set(values), "overlapping writes left bytes of neither")


async def check_write_cancel(device: BlockDevice) -> None:
    block = device.block_size
    for index in range(8):
        await write(device, index * block, b"\x01" * block)
    flight = Flight(device)
    for index in range(8):
        device.cancel(flight.submit(Operation.WRITE, index * block, block, b"\x02" * block))
    await flight.land()
    for index, request in enumerate(flight.completed):
        got = set(await read(device, index * block, block))
        expect(got <= {1, 2}, "a cancelled write left bytes that are neither old nor new")
        expect(request.error is not None or got == {2}, "a write that succeeded is not there")


async def check_flush_beside_writes(device: BlockDevice) -> None:
    block = device.block_size
    flight = Flight(device)
    for index in range(16):
        flight.submit(Operation.WRITE, index * block, block, bytes((index,)) * block)
        if index % 4 == 0:
            flight.submit(Operation.FLUSH, 0, 0)
    await flight.land()
    expect(all(request.error is None for request in flight.completed), "a write or flush failed")


async def check_random_workload(device: BlockDevice) -> None:
    for seed in range(4):
        await _random_workload(device, random.Random(seed))  # noqa: S311  (test data)


async def _random_workload(device: BlockDevice, rng: random.Random, rounds: int = 12) -> None:
    unit = 1 if device.any_alignment else device.block_size
    blocks = min(device.size_bytes // device.block_size, 256)
    window = blocks * device.block_size
    base = (device.size_bytes - window) // device.block_size * device.block_size
    model = bytearray()
    step = transfer_limit(device)
    for offset in range(0, window, step):
        model += await read(device, base + offset, min(step, window - offset))
    operations = [Operation.READ, Operation.WRITE, Operation.WRITE]
    if device.can_write_zeroes:
        operations.append(Operation.WRITE_ZEROES)
    if device.can_discard:
        operations.append(Operation.DISCARD)
    for _ in range(rounds):
        cuts = sorted(rng.sample(range(window // unit + 1), 17))
        ranges = [(a * unit, b * unit) for a, b in itertools.pairwise(cuts)]
        rng.shuffle(ranges)
        flight = Flight(device)
        reads: list[tuple[BlockRequest, bytes]] = []
        undefined: list[tuple[int, int]] = []
        for start, end in ranges:
            operation = rng.choice(operations)
            end = min(end, start + _limit_of(device, operation))
            buffer: Buffer | None = None
            if operation is Operation.READ:
                buffer = bytearray(end - start)
            elif operation is Operation.WRITE:
                buffer = model[start:end] = rng.randbytes(end - start)
            elif operation is Operation.WRITE_ZEROES:
                model[start:end] = bytes(end - start)
            else:
                undefined.append((start, end))
            request = flight.submit(operation, base + start, end - start, buffer)
            if operation is Operation.READ:
                reads.append((request, bytes(model[start:end])))
        await flight.land()
        for request in flight.completed:
            expect(request.error is None, f"{request!r} failed: {request.error!r}")
        for request, wanted in reads:
            expect(bytes(request.buffer or b"") == wanted, f"{request!r} returned other data")
        for start, end in undefined:
            # What a discard leaves is the device's choice: adopt it.
            for offset in range(start, end, step):
                last = min(end, offset + step)
                model[offset:last] = await read(device, base + offset, last - offset)
    for offset in range(0, window, step):
        length = min(step, window - offset)
        got = await read(device, base + offset, length)
        expect(got == model[offset : offset + length], f"the device differs near {base + offset}")


def _limit_of(device: BlockDevice, operation: Operation) -> int:
    limits = device.limits
    if operation <= Operation.WRITE:
        return transfer_limit(device)
    limit = limits.max_discard_bytes
    if operation is Operation.WRITE_ZEROES:
        limit = limits.max_write_zeroes_bytes
    return max((limit or 1 << 30) // device.block_size, 1) * device.block_size


WRITING_CHECKS: tuple[Check, ...] = (
    check_write_reads_back,
    check_longest_transfer,
    check_neighbours_survive_a_write,
    check_kinds_of_buffers,
    check_source_may_change_after_completion,
    check_fua,
    check_refused_writes_change_nothing,
    check_discard,
    check_write_zeroes,
    check_overlapping_writes,
    check_write_cancel,
    check_flush_beside_writes,
    check_random_workload,
)
