# SPDX-License-Identifier: Apache-2.0
"""Write, read back, compare: the lengths at which a way to send data begins or ends."""

from __future__ import annotations

import random

import anyio

import pyscsi_init
from pyscsi_init.login import Parameters

BEGINNING = 1 << 20
"""The start of a disk bears witness to what it is, and its writes take a way of their own."""
AT_ONCE = 4
LARGEST_SEVERAL = 128 << 10
LARGEST_ALONE = 256 << 10
"""What is longer is read back only with the rest."""


def boundary_lengths(parameters: Parameters, block_size: int) -> list[int]:
    """Whole blocks, in bytes: one below, at and above each length at which something changes, and
    one transfer of several bursts."""
    bounds = {
        parameters.first_burst_length,
        parameters.max_burst_length,
        parameters.max_recv_data_segment_length,
        parameters.target_max_recv_data_segment_length,
    }
    lengths = {
        max(bound // block_size + step, 1) * block_size for bound in bounds for step in (-1, 0, 1)
    }
    several = 3 * parameters.max_burst_length // block_size * block_size + block_size
    return sorted(lengths | ({several} if several <= LARGEST_SEVERAL else set()))


async def verify(lun: pyscsi_init.LogicalUnit, seed: object) -> None:
    """Write every boundary length, a few at once, and something unaligned; read it back in the same
    pieces and in others. Blocks between the pieces must stay as they are."""
    size = lun.block_size
    choice = random.Random(str(seed))
    lengths = boundary_lengths(lun.session.parameters, size)
    choice.shuffle(lengths)
    data: dict[int, bytes] = {}
    fences: dict[int, bytes] = {}
    at = BEGINNING + size * choice.randrange(64)
    for length in lengths:
        fences[at] = choice.randbytes(size)
        data[at + size] = choice.randbytes(length)
        at += size + length
    fences[at] = choice.randbytes(size)
    end = at + size
    for offset, fence in fences.items():
        await lun.write(offset, fence)

    async def pieces(mine: list[int]) -> None:
        for offset in mine:
            piece = data[offset]
            await lun.write(offset, piece)
            if len(piece) <= LARGEST_ALONE:
                assert await lun.read(offset, len(piece)) == piece

    async with anyio.create_task_group() as workers:
        for number in range(AT_ONCE):
            workers.start_soon(pieces, list(data)[number::AT_ONCE])
    model = b"".join(each for _, each in sorted((fences | data).items()))
    odd = BEGINNING // 2 + 3
    await lun.write(odd, model[: size + 5])
    assert await lun.read(odd, size + 5) == model[: size + 5]
    await lun.flush()
    start = end - len(model)
    step = max(len(model) // 3 // size, 1) * size
    for offset in range(0, len(model), step):
        expected = model[offset : offset + step]
        assert await lun.read(start + offset, len(expected)) == expected
