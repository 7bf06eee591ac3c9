# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 13.1 and A.4: CRC32C in the order of the wire."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.pdu.digest import crc32c, digest_bytes


@pytest.mark.conformance("PDU-010")
@pytest.mark.parametrize(
    ("octets", "digest"),
    [
        (bytes(32), "aa36918a"),
        (b"\xff" * 32, "43aba862"),
        (bytes(range(32)), "4e79dd46"),
        (bytes(range(31, -1, -1)), "5cdb3f11"),
        (b"abcde\0\0\0", "838beaec"),
    ],
)
def test_vectors(octets: bytes, digest: str) -> None:
    assert digest_bytes(octets).hex() == digest
    assert digest_bytes(memoryview(bytearray(octets))).hex() == digest


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_several_buffers_count_as_one(buffers: list[bytes]) -> None:
    assert crc32c(*buffers) == _bit_by_bit(b"".join(buffers))


def _bit_by_bit(octets: bytes) -> int:
    """The polynomial of RFC 7143 13.1, 11EDC6F41h, in reflected form."""
    crc = 0xFFFFFFFF
    for octet in octets:
        crc ^= octet
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF
