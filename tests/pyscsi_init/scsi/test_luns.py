# SPDX-License-Identifier: Apache-2.0
"""LUNs in every addressing method, and REPORT LUNS data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import LocalProtocolError, ProtocolError
from pyscsi_init.scsi import (
    build_report_luns,
    decode_lun,
    encode_lun,
    lun_text,
    parse_report_luns,
    report_luns_length,
)

# SAM-5 4.7: extended addressing with several levels, logical unit method, well known, F=11b forms.
OPAQUE = [
    "0101000000000000",  # peripheral, bus 1
    "0001000200000000",  # peripheral, second level
    "8001000000000000",  # logical unit method 10b
    "c101000000000000",  # well known: REPORT LUNS
    "d200001000000000",  # extended flat space
    "e200000000001000",  # long extended flat space
    "ffffffffffffffff",
]


@pytest.mark.parametrize(
    ("number", "wire"),
    [
        (0, "0000000000000000"),
        (1, "0001000000000000"),
        (255, "00ff000000000000"),
        (256, "4100000000000000"),
        (16383, "7fff000000000000"),
    ],
)
def test_a_number_and_its_bytes(number: int, wire: str) -> None:
    assert encode_lun(number) == bytes.fromhex(wire)
    assert decode_lun(bytes.fromhex(wire)) == number


@given(st.integers(0, 16383))
def test_every_number_comes_back(number: int) -> None:
    assert decode_lun(encode_lun(number)) == number


def test_flat_addressing_of_a_small_number_has_that_number() -> None:
    assert decode_lun(bytes.fromhex("4005000000000000")) == 5


@pytest.mark.conformance("SCSI-021")
@pytest.mark.parametrize("wire", OPAQUE)
def test_other_methods_keep_their_bytes(wire: str) -> None:
    lun = bytes.fromhex(wire)
    assert decode_lun(lun) == lun
    assert encode_lun(lun) == lun
    assert lun_text(lun) == wire


@pytest.mark.parametrize("number", [-1, 16384])
def test_a_number_without_a_form_is_refused(number: int) -> None:
    with pytest.raises(LocalProtocolError):
        encode_lun(number)


def test_a_lun_has_8_bytes() -> None:
    with pytest.raises(LocalProtocolError):
        encode_lun(b"\0" * 7)
    with pytest.raises(ProtocolError):
        decode_lun(b"\0" * 9)


def test_report_luns_golden() -> None:
    data = build_report_luns([1, 300])
    assert data == bytes.fromhex("00000010 00000000 0001000000000000 412c000000000000")
    assert parse_report_luns(data) == (encode_lun(1), encode_lun(300))


@pytest.mark.conformance("SCSI-021")
def test_report_luns_of_every_form_and_of_a_thousand() -> None:
    luns = [bytes.fromhex(wire) for wire in OPAQUE] + [encode_lun(n) for n in range(1000)]
    assert parse_report_luns(build_report_luns(luns)) == tuple(luns)


@pytest.mark.conformance("SCSI-021")
def test_an_empty_list_is_a_list() -> None:
    assert parse_report_luns(build_report_luns([])) == ()


@pytest.mark.conformance("SCSI-021")
def test_a_cut_list_says_how_long_it_would_be() -> None:
    data = build_report_luns(range(10))[:32]
    assert parse_report_luns(data) == tuple(encode_lun(n) for n in range(3))
    assert report_luns_length(data) == 88


def test_the_list_length_bounds_what_is_read() -> None:
    data = bytes.fromhex("00000008 00000000") + encode_lun(1) + encode_lun(2)
    assert parse_report_luns(data) == (encode_lun(1),)


@pytest.mark.conformance("SCSI-021")
@pytest.mark.parametrize("length", [9, 12, 15])
def test_a_partial_last_entry_is_dropped(length: int) -> None:
    data = length.to_bytes(4, "big") + bytes(4) + encode_lun(1) + encode_lun(2)
    assert parse_report_luns(data) == (encode_lun(1),)


def test_no_header_is_refused() -> None:
    with pytest.raises(ProtocolError):
        parse_report_luns(b"\0" * 7)
