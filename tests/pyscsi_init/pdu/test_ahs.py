# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 11.2.2: what an Additional Header Segment may be, and what it may not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import ProtocolError
from pyscsi_init.pdu.ahs import build_bidirectional_read_length, build_extended_cdb, parse_ahs


def test_none_at_all() -> None:
    assert parse_ahs(b"") == (b"", None)


def test_extended_cdb() -> None:
    cdb = bytes(range(17))
    assert build_extended_cdb(cdb) == bytes.fromhex("0002 01 00 10 000000")
    assert parse_ahs(build_extended_cdb(cdb)) == (b"\x10", None)


def test_bidirectional_read_length() -> None:
    assert build_bidirectional_read_length(0x01020304) == bytes.fromhex("0005 02 00 01020304")
    assert parse_ahs(bytes.fromhex("0005 02 00 01020304")) == (b"", 0x01020304)


def test_order_does_not_matter() -> None:
    cdb = build_extended_cdb(bytes(range(20)))
    read = build_bidirectional_read_length(9)
    assert parse_ahs(cdb + read) == parse_ahs(read + cdb) == (bytes(range(16, 20)), 9)


def test_reserved_bits_bytes_and_padding_are_ignored() -> None:
    assert parse_ahs(bytes.fromhex("0002 c1 ff 10 ffffff")) == (b"\x10", None)
    assert parse_ahs(bytes.fromhex("0005 c2 ff 00000007")) == (b"", 7)


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        ("0005 03 00 00000000", "reserved type 3"),
        ("0005 00 00 00000000", "reserved type 0"),
        ("0001 01 00", "less than 17"),
        ("0000 01 00", "less than 17"),
        ("0004 02 00 00000000", "AHSLength 4"),
        ("0006 02 00 00000000 00000000", "AHSLength 6"),
        ("0005 02 00 00000000 0005 02 00 00000000", "twice"),
        ("0006 01 00 00000000", "cannot be read"),
        ("ffff 01 00 00000000", "cannot be read"),
        ("0005 02 00 000000", "cannot be read"),
        ("00", "cannot be read"),
    ],
)
def test_malformed(octets: str, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        parse_ahs(bytes.fromhex(octets))


@given(st.binary(max_size=64))
def test_random_bytes_raise_protocol_error_only(octets: bytes) -> None:
    try:
        more, length = parse_ahs(octets)
    except ProtocolError:
        return
    assert len(more) < len(octets) or not octets
    assert length is None or 0 <= length < 1 << 32
