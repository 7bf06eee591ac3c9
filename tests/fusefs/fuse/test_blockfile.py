# SPDX-License-Identifier: Apache-2.0
"""The block file: ranges, refusals, and holes that read as zeros whatever the device does."""

from __future__ import annotations

import errno
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fusefs.fuse.blockfile import (
    FILE_ID,
    KEEP_SIZE,
    PUNCH_HOLE,
    ZERO_RANGE,
    BlockFile,
    run_steps,
)
from pyscsi_init.device.fault import FaultDevice, Match
from pyscsi_init.device.interface import BlockRequest, Limits, Operation
from pyscsi_init.device.ram import RamDevice
from pyscsi_init.errors import HardwareError

BLOCK = 512
SIZE = 64 * BLOCK
PUNCH = PUNCH_HOLE | KEEP_SIZE


class _LazyDiscard(RamDevice):
    """Discards whole granules only, as a thin-provisioned LUN may."""

    def submit(self, request: BlockRequest) -> None:
        if request.operation is Operation.DISCARD:
            granule = self.limits.discard_granularity_bytes or self.block_size
            origin = self.limits.discard_alignment_bytes % granule
            start = -((origin - request.offset) // granule) * granule + origin
            end = (request.offset + request.length - origin) // granule * granule + origin
            if start < end:
                self._zero(start, end)
            request.complete()
        else:
            super().submit(request)


def do(file: BlockFile, mode: int, offset: int, length: int) -> Exception | None:
    outcome: list[Exception | None] = []
    run_steps(file.device, file.fallocate(mode, offset, length), outcome.append)
    assert len(outcome) == 1
    return outcome[0]


@given(
    offset=st.integers(0, SIZE + 100),
    length=st.integers(1, SIZE),
    granularity=st.sampled_from([0, BLOCK, 4 * BLOCK, 5 * BLOCK, 700]),
    alignment=st.sampled_from([0, BLOCK, 3 * BLOCK, 100]),
    has_zeroes=st.booleans(),
    discard_zeroes=st.booleans(),
    mode=st.sampled_from([PUNCH, ZERO_RANGE | KEEP_SIZE]),
)
def test_a_hole_reads_as_zeros_and_its_neighbours_stay(
    offset: int,
    length: int,
    granularity: int,
    alignment: int,
    has_zeroes: bool,
    discard_zeroes: bool,
    mode: int,
) -> None:
    limits = Limits(
        max_transfer_bytes=3 * BLOCK,
        discard_granularity_bytes=granularity,
        discard_alignment_bytes=alignment,
    )
    kind = _LazyDiscard if discard_zeroes else RamDevice
    ram = kind(
        SIZE,
        BLOCK,
        can_write_zeroes=has_zeroes,
        discard_zeroes=discard_zeroes,
        limits=limits,
    )
    old = bytes(range(1, 251)) * (SIZE // 250 + 1)
    ram._view[:] = old[:SIZE]
    file = BlockFile(ram)
    if not discard_zeroes if mode == PUNCH else not has_zeroes:
        with pytest.raises(OSError, match="no such") as refusal:
            do(file, mode, min(offset, SIZE - 1), length)
        assert refusal.value.errno == errno.EOPNOTSUPP
        return
    assert do(file, mode, offset, length) is None
    end = min(offset + length, SIZE)
    model = bytearray(old[:SIZE])
    if offset < end:
        model[offset:end] = bytes(end - offset)
    assert bytes(ram._view) == model


def test_whole_granules_are_discarded() -> None:
    fault = FaultDevice(RamDevice(SIZE, limits=Limits(discard_granularity_bytes=4 * BLOCK)))
    file = BlockFile(fault)
    assert do(file, PUNCH, 3 * BLOCK, 10 * BLOCK) is None
    assert fault.log == [
        (Operation.WRITE_ZEROES, 3 * BLOCK, BLOCK),
        (Operation.DISCARD, 4 * BLOCK, 8 * BLOCK),
        (Operation.WRITE_ZEROES, 12 * BLOCK, BLOCK),
    ]


@pytest.mark.parametrize("missing", ["can_discard", "discard_zeroes"])
def test_without_the_promise_of_zeros_a_hole_is_refused(missing: str) -> None:
    """A loop device would turn the trim of a whole file system into writing it full of zeros."""
    file = BlockFile(RamDevice(SIZE, **{missing: False}))
    with pytest.raises(OSError, match="no such operation") as refusal:
        file.fallocate(PUNCH, 0, SIZE)
    assert refusal.value.errno == errno.EOPNOTSUPP
    assert do(file, ZERO_RANGE, 0, SIZE) is None


@pytest.mark.parametrize("mode", [0, KEEP_SIZE, PUNCH_HOLE, 0x08, 0x20, 0x40 | KEEP_SIZE])
def test_other_modes_are_not_supported(mode: int) -> None:
    with pytest.raises(OSError, match="no such") as refusal:
        BlockFile(RamDevice(SIZE)).fallocate(mode, 0, BLOCK)
    assert refusal.value.errno == errno.EOPNOTSUPP


def test_zeroing_beyond_the_end() -> None:
    file = BlockFile(RamDevice(SIZE))
    with pytest.raises(OSError, match="ends before") as refusal:
        file.fallocate(ZERO_RANGE, SIZE - BLOCK, 2 * BLOCK)
    assert refusal.value.errno == errno.ENOSPC
    assert file.fallocate(ZERO_RANGE | KEEP_SIZE, SIZE, BLOCK) == []


def test_the_first_error_ends_the_steps() -> None:
    fault = FaultDevice(RamDevice(SIZE, limits=Limits(discard_granularity_bytes=4 * BLOCK)))
    error = HardwareError("x", sense_key=4, asc=0x44, ascq=0)
    fault.fail(error, Match(operations=frozenset({Operation.DISCARD})))
    assert do(BlockFile(fault), PUNCH, 3 * BLOCK, 10 * BLOCK) is error
    assert len(fault.log) == 1


def test_read_only_refuses_every_way_to_write() -> None:
    for file in (
        BlockFile(RamDevice(SIZE), read_only=True),
        BlockFile(RamDevice(SIZE, read_only=True)),
    ):
        assert file.refuse_open(FILE_ID, os.O_RDWR) == errno.EROFS
        assert file.refuse_open(FILE_ID, os.O_WRONLY) == errno.EROFS
        assert file.refuse_open(FILE_ID, os.O_RDONLY) == 0
        assert file.refuse_write(0, 1) == errno.EROFS
        assert file.refuse_access(os.W_OK) == errno.EROFS
        assert file.refuse_access(os.R_OK) == 0
        assert file.attributes(FILE_ID).mode & 0o777 == 0o400
        with pytest.raises(OSError, match="read-only") as refusal:
            file.fallocate(PUNCH, 0, BLOCK)
        assert refusal.value.errno == errno.EROFS


def test_ranges_at_the_end() -> None:
    file = BlockFile(RamDevice(SIZE))
    assert file.readable(0, SIZE) == SIZE
    assert file.readable(SIZE - 5, 100) == 5
    assert file.readable(SIZE, 100) == 0
    assert file.readable(SIZE + 5, 100) == 0
    assert file.refuse_write(SIZE - 5, 100) == 0
    assert file.refuse_write(SIZE, 1) == errno.ENOSPC
    assert file.refuse_write(SIZE, 0) == 0


def test_the_size_is_the_devices() -> None:
    ram = RamDevice(SIZE)
    file = BlockFile(ram)
    assert file.refuse_size(SIZE) == 0
    assert file.refuse_size(0) == errno.EPERM
    assert file.refuse_size(SIZE + 1) == errno.EPERM
    ram.resize(2 * SIZE)
    assert file.attributes(FILE_ID).size == 2 * SIZE


def test_any_device_is_made_to_take_any_request() -> None:
    limits = Limits(max_transfer_bytes=BLOCK)
    file = BlockFile(RamDevice(SIZE, limits=limits))
    done: list[BlockRequest] = []
    file.device.submit(BlockRequest(Operation.WRITE, 3, 5000, b"\1" * 5000, done.append))
    assert done[0].error is None
    plain = RamDevice(SIZE, any_alignment=True)
    assert BlockFile(plain).device is plain
