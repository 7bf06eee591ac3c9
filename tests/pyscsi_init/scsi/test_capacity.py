# SPDX-License-Identifier: Apache-2.0
"""READ CAPACITY (10) and (16): golden data, short answers, sizes that make no sense."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import LocalProtocolError, ProtocolError
from pyscsi_init.scsi import ReadCapacity10, ReadCapacity16

GOLDEN_16 = bytes.fromhex("0000000100000000 00001000 07 23 c005") + bytes(16)


@pytest.mark.parametrize(
    ("wire", "blocks", "block_length", "too_large"),
    [
        ("0000 07ff 0000 0200", 2048, 512, False),
        ("0000 0000 0000 0208", 1, 520, False),
        ("ffff fffe 0000 1000", 0xFFFFFFFF, 4096, False),
        ("ffff ffff 0000 0200", 0x100000000, 512, True),
    ],
)
def test_ten(wire: str, blocks: int, block_length: int, too_large: bool) -> None:
    capacity = ReadCapacity10.parse(bytes.fromhex(wire))
    assert capacity.blocks == blocks
    assert capacity.block_length == block_length
    assert capacity.too_large is too_large
    assert capacity.build() == bytes.fromhex(wire)


@pytest.mark.conformance("SCSI-019")
def test_a_size_beyond_32_bits_is_said_as_all_ones() -> None:
    capacity = ReadCapacity10(last_logical_block_address=1 << 33, block_length=512)
    assert capacity.build() == bytes.fromhex("ffffffff 00000200")


@pytest.mark.conformance("SCSI-019")
def test_sixteen_golden() -> None:
    capacity = ReadCapacity16.parse(GOLDEN_16)
    assert capacity == ReadCapacity16(
        last_logical_block_address=0x1_0000_0000,
        block_length=4096,
        protection_type=3,
        protection_enabled=True,
        protection_interval_exponent=2,
        logical_blocks_per_physical_block_exponent=3,
        lbpme=True,
        lbprz=True,
        lowest_aligned_lba=5,
    )
    assert capacity.blocks == 0x1_0000_0001
    assert capacity.physical_block_length == 32768
    assert capacity.build() == GOLDEN_16


@pytest.mark.conformance("SCSI-019")
def test_twelve_bytes_are_enough() -> None:
    capacity = ReadCapacity16.parse(GOLDEN_16[:12])
    assert (capacity.blocks, capacity.block_length) == (0x1_0000_0001, 4096)
    assert not capacity.lbpme


@pytest.mark.conformance("SCSI-019")
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (ReadCapacity10, bytes(7)),
        (ReadCapacity10, bytes(8)),  # block length 0
        (ReadCapacity16, GOLDEN_16[:11]),
        (ReadCapacity16, bytes(32)),
    ],
)
def test_a_capacity_that_makes_no_sense_is_refused(kind: type, data: bytes) -> None:
    with pytest.raises(ProtocolError):
        kind.parse(data)


def test_a_value_that_does_not_fit_is_refused() -> None:
    with pytest.raises(LocalProtocolError):
        ReadCapacity16(last_logical_block_address=1 << 64, block_length=512).build()


@given(
    st.builds(
        ReadCapacity16,
        last_logical_block_address=st.integers(0, (1 << 64) - 1),
        block_length=st.integers(1, 0xFFFFFFFF),
        protection_type=st.integers(0, 7),
        protection_enabled=st.booleans(),
        protection_interval_exponent=st.integers(0, 15),
        logical_blocks_per_physical_block_exponent=st.integers(0, 15),
        lbpme=st.booleans(),
        lbprz=st.booleans(),
        lowest_aligned_lba=st.integers(0, 0x3FFF),
    )
)
def test_what_is_built_is_parsed(capacity: ReadCapacity16) -> None:
    assert ReadCapacity16.parse(capacity.build()) == capacity


@given(st.binary(max_size=40))
def test_any_bytes_are_a_capacity_or_a_protocol_error(data: bytes) -> None:
    for kind, needed, block_length in (
        (ReadCapacity10, 8, slice(4, 8)),
        (ReadCapacity16, 12, slice(8, 12)),
    ):
        try:
            assert kind.parse(memoryview(data)).blocks > 0
        except ProtocolError:
            assert len(data) < needed or not any(data[block_length])
