# SPDX-License-Identifier: Apache-2.0
"""The seam to construct, and the CDB formats."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import LocalProtocolError, ProtocolError
from pyscsi_init.scsi.layout import Layout, flag, octets, reserved, uint
from pyscsi_init.scsi.packing import CdbFormat

LAYOUT = Layout(
    "a sample", uint("high", 4), reserved(3), flag("low"), octets("raw", 2), uint("word", 16)
)


def test_bits_and_bytes_in_the_order_of_the_declaration() -> None:
    values = {"high": 0xA, "low": True, "raw": b"xy", "word": 0x0102}
    assert LAYOUT.size == 5
    assert LAYOUT.names == ("high", "low", "raw", "word")
    assert LAYOUT.build(values) == b"\xa1xy\x01\x02"
    assert LAYOUT.parse(b"\xafxy\x01\x02") == values


def test_missing_bytes_read_as_zero_and_others_are_left_alone() -> None:
    assert LAYOUT.parse(b"\xa1x") == {"high": 0xA, "low": True, "raw": b"x\0", "word": 0}
    assert LAYOUT.parse(b"\xa1xy\x01\x02rest")["word"] == 0x0102


def test_a_minimum_is_asked_for_by_who_needs_it() -> None:
    with pytest.raises(ProtocolError, match="a sample of 2 bytes"):
        LAYOUT.parse(b"ab", minimum=3)


@pytest.mark.parametrize("wrong", [{"high": 16}, {"word": -1}, {"raw": b"xyz"}, {"word": None}])
def test_a_value_that_does_not_fit_is_the_callers_error(wrong: dict[str, object]) -> None:
    values = {"high": 0, "low": False, "raw": b"xy", "word": 0, **wrong}
    with pytest.raises(LocalProtocolError, match="a sample"):
        LAYOUT.build(values)


def test_a_missing_value_is_the_callers_error() -> None:
    with pytest.raises(LocalProtocolError):
        LAYOUT.build({"high": 0})


def test_a_cdb_format_of_another_length_is_a_bug() -> None:
    with pytest.raises(AssertionError):
        CdbFormat("too short", 10, "B8x")
