# SPDX-License-Identifier: Apache-2.0
"""XDWRITEREAD from end to end: a command of the library that transfers both ways, and a target that
carries it out (RFC 7143 11.2.2.4, 11.4.5, 11.7.5)."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import anyio
import pytest

from pyscsi_init.errors import IllegalRequest
from pyscsi_init.testing import RamDisk
from tests.support.python_target import MEBI, WAIT, make_target, opened

pytestmark = pytest.mark.anyio

BLOCK = 512
DISABLE_WRITE = 0x04


def xdwriteread(lba: int, blocks: int, flags: int = 0) -> bytes:
    """The CDB of XDWRITEREAD(10)."""
    return bytes((0x53, flags)) + lba.to_bytes(4, "big") + b"\0" + blocks.to_bytes(2, "big") + b"\0"


def xor(one: bytes, other: bytes) -> bytes:
    """Byte by byte."""
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


@pytest.mark.conformance("PDU-009")
@pytest.mark.parametrize("blocks", [1, 8, 999])
@pytest.mark.parametrize("unasked", [True, False])
@pytest.mark.parametrize("digests", [("None",), ("CRC32C",)])
async def test_both_ways_at_once(blocks: int, unasked: bool, digests: tuple[str, ...]) -> None:
    """Small and large, with R2Ts and many Data-In PDUs, beside common reads and writes."""
    settings: dict[str, Any] = {
        "initial_r2t": not unasked,
        "immediate_data": unasked,
        "max_burst_length": 65536,
        "first_burst_length": 16384,
        "header_digest": digests,
        "data_digest": digests,
    }
    disk = RamDisk(4 * MEBI)
    old, new = os.urandom(blocks * BLOCK), os.urandom(blocks * BLOCK)
    disk.write(100 * BLOCK, old)
    chosen = replace(WAIT, header_digest=digests, data_digest=digests)
    async with opened(make_target(disk, **settings), chosen) as lun:
        found: list[Any] = []

        async def both() -> None:
            cdb = xdwriteread(100, blocks)
            found.append(await lun.execute(cdb, data_out=new, data_in_length=len(old)))

        async def plain(place: int) -> None:
            await lun.write(place, new[:BLOCK])
            assert await lun.read(place, BLOCK) == new[:BLOCK]

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(both)
            for number in range(4):
                tasks.start_soon(plain, 2 * MEBI + number * BLOCK)
        assert found[0].data == xor(old, new)
        assert (found[0].residual_count, found[0].bidi_residual_count) == (0, 0)
        assert disk.read(100 * BLOCK, len(new)) == new
        assert lun.session.statistics.recoveries == 0


@pytest.mark.conformance("PDU-009")
@pytest.mark.parametrize(("room", "underflow"), [(300, False), (BLOCK + 212, True)])
async def test_the_residual_of_what_was_read(room: int, underflow: bool) -> None:
    disk = RamDisk(MEBI)
    async with opened(make_target(disk)) as lun:
        result = await lun.execute(xdwriteread(0, 1), data_out=b"w" * BLOCK, data_in_length=room)
        assert result.data == (b"w" * BLOCK)[:room]
        assert result.bidi_residual_count == 212
        assert (result.bidi_residual_underflow, result.bidi_residual_overflow) == (
            underflow,
            not underflow,
        )
        assert result.residual_count == 0


async def test_the_residual_of_what_was_written() -> None:
    """There was more than the CDB means: one block is written, and the other one told."""
    disk = RamDisk(MEBI)
    async with opened(make_target(disk)) as lun:
        result = await lun.execute(
            xdwriteread(0, 1), data_out=b"w" * 2 * BLOCK, data_in_length=BLOCK
        )
        assert (result.residual_underflow, result.residual_count) == (True, BLOCK)
        assert disk.read(0, 2 * BLOCK) == b"w" * BLOCK + bytes(BLOCK)


async def test_disable_write() -> None:
    disk = RamDisk(MEBI)
    disk.write(0, b"o" * BLOCK)
    async with opened(make_target(disk)) as lun:
        cdb = xdwriteread(0, 1, DISABLE_WRITE)
        result = await lun.execute(cdb, data_out=b"w" * BLOCK, data_in_length=BLOCK)
        assert result.data == xor(b"o" * BLOCK, b"w" * BLOCK)
        assert disk.read(0, BLOCK) == b"o" * BLOCK


async def test_refusals() -> None:
    disk = RamDisk(MEBI)
    async with opened(make_target(disk)) as lun:
        with pytest.raises(IllegalRequest, match="out of range"):
            await lun.execute(
                xdwriteread(MEBI // BLOCK, 1), data_out=b"w" * BLOCK, data_in_length=BLOCK
            )
        with pytest.raises(IllegalRequest):
            await lun.execute(xdwriteread(0, 1, 0x01), data_out=b"w" * BLOCK, data_in_length=BLOCK)
        assert disk.read(0, BLOCK) == bytes(BLOCK)
