# SPDX-License-Identifier: Apache-2.0
"""The helpers of the block device conformance kit, and its checks that leave the content alone.

They hold for read-only devices too; where a check may write, it asks ``read_only`` first. Requests
go down through :class:`Flight`, which counts completions: every check also proves "exactly once".
The public entry is :func:`pyscsi_init.device.conformance_kit.check_block_device`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import anyio.lowlevel

from ..buffers import Buffer
from ..errors import LocalProtocolError, OutOfRange, ReadOnlyDevice, TaskAborted, Unsupported
from .interface import BlockDevice, BlockRequest, Operation

Check = Callable[[BlockDevice], Coroutine[Any, Any, None]]

MODIFYING = (Operation.WRITE, Operation.DISCARD, Operation.WRITE_ZEROES)


class ConformanceError(AssertionError):
    """The device broke a rule of the interface; the message says which."""


def expect(condition: object, message: str) -> None:
    """Raise ConformanceError with ``message`` unless ``condition`` holds."""
    if not condition:
        raise ConformanceError(message)


class Flight:
    """Requests submitted together, with the count of their completions."""

    def __init__(self, device: BlockDevice) -> None:
        self.device = device
        self.completed: dict[BlockRequest, int] = {}
        self._landed = anyio.Event()

    def submit(
        self,
        operation: Operation,
        offset: int,
        length: int,
        buffer: Buffer | None = None,
        *,
        fua: bool = False,
        then: Callable[[], None] | None = None,
    ) -> BlockRequest:
        """Submit one request; ``then`` runs inside its completion."""
        context = object()

        def completion(done: BlockRequest) -> None:
            expect(done is request, "completion was called with another request")
            expect(done.context is context, "the device changed the caller's context")
            self.completed[request] += 1
            if then is not None and self.completed[request] == 1:
                then()
            self._landed.set()

        request = BlockRequest(
            operation, offset, length, buffer, completion, fua=fua, context=context
        )
        self.completed[request] = 0
        try:
            self.device.submit(request)
        except Exception as error:
            raise ConformanceError(f"submit of {request!r} raised {error!r}") from error
        return request

    async def land(self) -> None:
        """Wait for every completion, then make sure that none comes twice."""
        while not all(self.completed.values()):
            self._landed = anyio.Event()
            if not all(self.completed.values()):
                await self._landed.wait()
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        for request, count in self.completed.items():
            expect(count == 1, f"{request!r} was completed {count} times")

    async def error_of(
        self, operation: Operation, offset: int, length: int, buffer: Buffer | None = None
    ) -> Exception | None:
        """Run one request and return what came of it."""
        request = self.submit(operation, offset, length, buffer)
        await self.land()
        return request.error


async def run(
    device: BlockDevice,
    operation: Operation,
    offset: int,
    length: int,
    buffer: Buffer | None = None,
    *,
    fua: bool = False,
) -> None:
    """One request that must succeed.

    The coroutines of the interface shield their wait, so with them a missing completion would hang
    the check instead of ending in its timeout.
    """
    flight = Flight(device)
    request = flight.submit(operation, offset, length, buffer, fua=fua)
    await flight.land()
    if request.error is not None:
        raise ConformanceError(f"{request!r} failed: {request.error!r}") from request.error


async def read(device: BlockDevice, offset: int, length: int) -> bytes:
    """What the range holds."""
    data = bytearray(length)
    await run(device, Operation.READ, offset, length, data)
    return bytes(data)


async def write(device: BlockDevice, offset: int, data: Buffer, *, fua: bool = False) -> None:
    """Write all of ``data``."""
    await run(device, Operation.WRITE, offset, len(data), data, fua=fua)


def transfer_limit(device: BlockDevice) -> int:
    """The longest READ or WRITE the checks may ask for."""
    limit = min(device.limits.max_transfer_bytes or 1 << 20, 1 << 20, device.size_bytes)
    return max(limit // device.block_size, 1) * device.block_size


def pattern(length: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(length)  # noqa: S311  (test data)


def buffer_for(operation: Operation, length: int) -> Buffer | None:
    return bytearray(length) if operation <= Operation.WRITE else None


async def expect_error(
    device: BlockDevice,
    kind: type[Exception],
    operation: Operation,
    offset: int,
    length: int,
    buffer: Buffer | None = None,
) -> None:
    """The request must complete with an error of this kind."""
    error = await Flight(device).error_of(operation, offset, length, buffer)
    expect(
        isinstance(error, kind),
        f"{operation.name} {offset}+{length}: expected {kind.__name__}, got {error!r}",
    )


# -- everything can be read -------------------------------------------------------------------


async def check_properties(device: BlockDevice) -> None:
    block = device.block_size
    expect(block > 0 and not block & (block - 1), f"block_size {block} is no power of two")
    expect(device.size_bytes >= 64 * block, "the kit needs at least 64 blocks")
    expect(device.size_bytes % block == 0, "size_bytes is no multiple of block_size")
    expect(device.physical_block_size % block == 0, "physical_block_size is no multiple")
    limits = device.limits
    for name in limits.__dataclass_fields__:
        expect(getattr(limits, name) >= 0, f"limits.{name} is negative")
    calls: list[int] = []
    device.size_changed.append(calls.append)
    device.size_changed.remove(calls.append)


async def check_reads_at_the_borders(device: BlockDevice) -> None:
    block, size = device.block_size, device.size_bytes
    for offset, length in ((0, block), (size - block, block), (0, transfer_limit(device))):
        expect(len(await read(device, offset, length)) == length, "read returned another length")
    first = await read(device, 0, block)
    expect(await device.read(0, block) == first, "the coroutine read() differs")
    destination = bytearray(block)
    await device.read_into(0, destination)
    expect(destination == first, "read_into a bytearray differs from read")
    wide = bytearray(b"\xee" * (3 * block))
    await device.read_into(0, memoryview(wide)[block : 2 * block])
    expect(wide[block : 2 * block] == first, "read_into a memoryview differs from read")
    expect(wide[:block] + wide[2 * block :] == b"\xee" * (2 * block), "READ left its buffer")


async def check_out_of_range(device: BlockDevice) -> None:
    block, size = device.block_size, device.size_bytes
    for operation in (Operation.READ, *(() if device.read_only else MODIFYING)):
        for offset, blocks in ((size, 1), (size - block, 2), (1 << 66, 1), (-block, 1)):
            buffer = buffer_for(operation, blocks * block)
            await expect_error(device, OutOfRange, operation, offset, blocks * block, buffer)
        await expect_error(device, OutOfRange, operation, size + block, 0, buffer_for(operation, 0))


async def check_zero_length(device: BlockDevice) -> None:
    operations = [Operation.READ]
    if not device.read_only:
        operations.append(Operation.WRITE)
        operations += [Operation.DISCARD] if device.can_discard else []
        operations += [Operation.WRITE_ZEROES] if device.can_write_zeroes else []
    before = await read(device, 0, device.block_size)
    for operation in operations:
        for offset in (0, device.block_size, device.size_bytes):
            error = await Flight(device).error_of(operation, offset, 0, buffer_for(operation, 0))
            expect(error is None, f"{operation.name} of nothing at {offset}: {error!r}")
    expect(await read(device, 0, device.block_size) == before, "a request of no bytes changed some")


async def check_buffer_of_another_length(device: BlockDevice) -> None:
    block = device.block_size
    operations = (Operation.READ,) if device.read_only else (Operation.READ, Operation.WRITE)
    for operation in operations:
        for buffer in (bytearray(block - 1), bytearray(block + 1), bytearray(), None):
            await expect_error(device, LocalProtocolError, operation, 0, block, buffer)


async def check_unaligned(device: BlockDevice) -> None:
    block = device.block_size
    if block == 1:
        return
    ranges = ((1, block), (0, block - 1), (block - 1, 2), (block // 2, 2 * block))
    if not device.any_alignment:
        for offset, length in ranges:
            await expect_error(
                device, LocalProtocolError, Operation.READ, offset, length, bytearray(length)
            )
            if not device.read_only:
                await expect_error(
                    device, LocalProtocolError, Operation.WRITE, offset, length, bytes(length)
                )
        return
    model = bytearray(await read(device, 0, 4 * block))
    for seed, (offset, length) in enumerate(ranges):
        if not device.read_only:
            data = pattern(length, seed)
            await write(device, offset, data)
            model[offset : offset + length] = data
        got = await read(device, offset, length)
        expect(got == model[offset : offset + length], f"unaligned read {offset}+{length} differs")
    expect(await read(device, 0, 4 * block) == model, "an unaligned write changed its neighbours")


async def check_flush(device: BlockDevice) -> None:
    await run(device, Operation.FLUSH, 0, 0)
    flight = Flight(device)
    requests = [flight.submit(Operation.FLUSH, 0, 0) for _ in range(8)]
    await flight.land()
    expect(all(request.error is None for request in requests), "FLUSH failed")


async def check_read_only(device: BlockDevice) -> None:
    if device.read_only:
        block = device.block_size
        before = await read(device, 0, block)
        for operation in MODIFYING:
            await expect_error(
                device, ReadOnlyDevice, operation, 0, block, buffer_for(operation, block)
            )
        expect(await read(device, 0, block) == before, "a refused write changed data")


async def check_cancel(device: BlockDevice) -> None:
    block = device.block_size
    flight = Flight(device)
    requests = [
        flight.submit(Operation.READ, index * block, block, bytearray(block)) for index in range(16)
    ]
    for request in requests[::2]:
        device.cancel(request)
        device.cancel(request)
    await flight.land()
    for request in requests:
        expect(
            request.error is None or isinstance(request.error, TaskAborted),
            f"a cancelled request ended with {request.error!r}",
        )
    for request in requests[1::2]:
        expect(request.error is None, "a request that was not cancelled was aborted")
        device.cancel(request)
    await flight.land()
    stranger = BlockRequest(Operation.READ, 0, block, bytearray(block), lambda _: None)
    device.cancel(stranger)
    expect(len(await read(device, 0, block)) == block, "the device is unusable after cancels")


async def check_cancelled_caller(device: BlockDevice) -> None:
    block = device.block_size
    with anyio.CancelScope() as scope:
        scope.cancel()
        await device.read(0, block)
        raise ConformanceError("read returned although its scope was cancelled")
    expect(scope.cancelled_caught, "the cancellation got lost")
    expect(len(await read(device, 0, block)) == block, "the device is unusable afterwards")


async def check_submit_inside_completion(device: BlockDevice) -> None:
    block, rounds = device.block_size, 12
    flight = Flight(device)

    def again(left: int) -> None:
        if left:
            flight.submit(
                Operation.READ, left * block, block, bytearray(block), then=lambda: again(left - 1)
            )

    again(rounds)
    await flight.land()
    expect(len(flight.completed) == rounds, "a request submitted by a completion got lost")


async def check_aclose(device: BlockDevice) -> None:
    block = device.block_size
    flight = Flight(device)
    for index in range(8):
        flight.submit(Operation.READ, index * block, block, bytearray(block))
    await device.aclose()
    expect(all(flight.completed.values()), "aclose returned with requests in flight")
    await flight.land()
    await device.aclose()


async def check_unsupported(device: BlockDevice) -> None:
    """DISCARD and WRITE_ZEROES are refused by name where the device says it has none."""
    block = device.block_size
    if device.read_only:
        return
    if not device.can_discard:
        await expect_error(device, Unsupported, Operation.DISCARD, 0, block)
    if not device.can_write_zeroes:
        await expect_error(device, Unsupported, Operation.WRITE_ZEROES, 0, block)


READING_CHECKS: tuple[Check, ...] = (
    check_properties,
    check_reads_at_the_borders,
    check_out_of_range,
    check_zero_length,
    check_buffer_of_another_length,
    check_unaligned,
    check_flush,
    check_read_only,
    check_unsupported,
    check_cancel,
    check_cancelled_caller,
    check_submit_inside_completion,
    check_aclose,
)
