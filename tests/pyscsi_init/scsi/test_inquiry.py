# SPDX-License-Identifier: Apache-2.0
"""Standard INQUIRY data: golden data, short answers, odd devices."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import LocalProtocolError, ProtocolError
from pyscsi_init.scsi import StandardInquiry

GOLDEN = bytes.fromhex("00 80 06 12 1f 31 10 02") + b"LIO-ORG disk0           4.0 "


@pytest.mark.conformance("SCSI-013")
def test_golden() -> None:
    inquiry = StandardInquiry.parse(GOLDEN)
    assert inquiry == StandardInquiry(
        removable=True,
        hierarchical_support=True,
        tpgs=3,
        protect=True,
        command_queue=True,
        vendor="LIO-ORG",
        product="disk0",
        revision="4.0",
    )
    assert inquiry.is_disk


def test_what_is_built_differs_from_the_golden_data_only_in_obsolete_bits() -> None:
    built = StandardInquiry.parse(GOLDEN).build()
    assert built == GOLDEN[:6] + b"\0" + GOLDEN[7:]


@pytest.mark.conformance("SCSI-013")
@pytest.mark.parametrize(
    ("first", "connected", "disk"),
    [
        (0x00, True, True),
        (0x0C, True, False),  # a controller, as tgt has at LUN 0
        (0x1F, False, False),
        (0x20, False, False),  # qualifier 001b: may be connected later
        (0x7F, False, False),  # qualifier 011b: never
    ],
)
def test_what_is_a_usable_disk(first: int, connected: bool, disk: bool) -> None:
    inquiry = StandardInquiry.parse(bytes((first,)) + GOLDEN[1:])
    assert inquiry.connected is connected
    assert inquiry.is_disk is disk
    assert inquiry.device_type_text


@pytest.mark.conformance("SCSI-013")
def test_five_bytes_are_read() -> None:
    inquiry = StandardInquiry.parse(GOLDEN[:5])
    assert inquiry.removable
    assert (inquiry.vendor, inquiry.product, inquiry.revision) == ("", "", "")
    assert StandardInquiry.length_of(GOLDEN[:5]) == 36
    assert StandardInquiry.length_of(GOLDEN[:4]) == 36


def test_no_byte_is_refused() -> None:
    with pytest.raises(ProtocolError):
        StandardInquiry.parse(b"")


@pytest.mark.conformance("SCSI-014")
def test_the_length_that_is_reported_may_be_larger_than_what_came() -> None:
    data = GOLDEN[:4] + b"\xff" + GOLDEN[5:] + b"abcd"
    assert StandardInquiry.length_of(data) == 260
    assert StandardInquiry.parse(data).vendor == "LIO-ORG"


def test_version_descriptors_need_96_bytes() -> None:
    inquiry = StandardInquiry(vendor="A", version_descriptors=(0x0960, 0x0460, 0x04C0))
    data = inquiry.build()
    assert len(data) == 96
    assert data[58:64] == bytes.fromhex("0960 0460 04c0")
    assert StandardInquiry.parse(data) == inquiry


@pytest.mark.conformance("SCSI-013")
def test_text_is_ascii_up_to_a_nul() -> None:
    data = GOLDEN[:8] + b"A\0garbag" + b"\xff\x01b" + b" " * 13 + b"1\xc3\xa9 "
    inquiry = StandardInquiry.parse(data)
    assert (inquiry.vendor, inquiry.product, inquiry.revision) == ("A", "??b", "1??")


def test_a_value_that_does_not_fit_is_refused() -> None:
    with pytest.raises(LocalProtocolError):
        StandardInquiry(tpgs=4).build()


_WORD = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=4)


@given(
    st.builds(
        StandardInquiry,
        peripheral_qualifier=st.integers(0, 7),
        peripheral_device_type=st.integers(0, 31),
        removable=st.booleans(),
        version=st.integers(0, 255),
        normal_aca=st.booleans(),
        hierarchical_support=st.booleans(),
        response_data_format=st.integers(0, 15),
        tpgs=st.integers(0, 3),
        third_party_copy=st.booleans(),
        protect=st.booleans(),
        command_queue=st.booleans(),
        vendor=_WORD,
        product=_WORD,
        revision=_WORD,
        version_descriptors=st.lists(st.integers(1, 0xFFFF), max_size=8).map(tuple),
    )
)
def test_what_is_built_is_parsed(inquiry: StandardInquiry) -> None:
    data = inquiry.build()
    assert StandardInquiry.length_of(data) == len(data)
    assert StandardInquiry.parse(data) == inquiry
