# SPDX-License-Identifier: Apache-2.0
"""VPD pages: golden pages, older and cut ones, answers that are no page, any bytes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import LocalProtocolError, ProtocolError
from pyscsi_init.scsi import (
    BlockDeviceCharacteristics,
    BlockLimits,
    Designator,
    DeviceIdentification,
    LogicalBlockProvisioning,
    StandardInquiry,
    SupportedPages,
    UnitSerialNumber,
    logical_unit_designators,
    vpd_length,
)
from pyscsi_init.scsi.vpd import vpd_page

PAGES = (
    SupportedPages,
    UnitSerialNumber,
    DeviceIdentification,
    BlockLimits,
    BlockDeviceCharacteristics,
    LogicalBlockProvisioning,
)


@pytest.mark.conformance("SCSI-015")
@pytest.mark.parametrize("page", PAGES)
def test_standard_inquiry_data_is_no_vpd_page(page: type) -> None:
    with pytest.raises(ProtocolError):
        page.parse(StandardInquiry(vendor="OLD", product="ignores EVPD").build())


@pytest.mark.conformance("SCSI-015")
@pytest.mark.parametrize("page", PAGES)
def test_another_page_is_refused(page: type) -> None:
    with pytest.raises(ProtocolError, match="was asked for"):
        page.parse(vpd_page(0xC0, bytes(60)))


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("length", range(4))
def test_less_than_a_header_is_refused(page: type, length: int) -> None:
    with pytest.raises(ProtocolError):
        page.parse(bytes((0, page.PAGE, 0, 0))[:length])


def test_supported_pages() -> None:
    assert SupportedPages((0x83, 0x00, 0x80)).build() == bytes.fromhex("00 00 0003 00 80 83")
    unsorted = SupportedPages.parse(bytes.fromhex("00 00 0003 83 80 00"))
    assert unsorted.pages == (0x83, 0x80, 0x00)
    assert 0x80 in unsorted
    assert 0xB0 not in unsorted


@pytest.mark.conformance("SCSI-014")
def test_the_page_length_is_not_believed_beyond_the_data() -> None:
    data = bytes.fromhex("00 00 0010 00 80")
    assert SupportedPages.parse(data).pages == (0x00, 0x80)
    assert vpd_length(data) == 20


def test_bytes_after_the_page_are_not_its_own() -> None:
    assert SupportedPages.parse(bytes.fromhex("00 00 0001 00 b0")).pages == (0x00,)


def test_peripheral_byte_is_kept_out_of_the_way() -> None:
    assert vpd_page(0x80, b"x", peripheral=0x6C) == b"\x6c\x80\x00\x01x"


def test_serial_number() -> None:
    assert UnitSerialNumber("abc123").build() == b"\x00\x80\x00\x06abc123"
    assert UnitSerialNumber.parse(b"\x00\x80\x00\x0a  beaf11  ").serial == "beaf11"
    assert UnitSerialNumber.parse(b"\x00\x80\x00\x00").serial == ""
    assert UnitSerialNumber.parse(b"\x00\x80\x00\x04ab\0c").serial == "ab"


IDENTIFICATION = (
    bytes.fromhex(
        "00 83 0050"
        "01 03 00 10 60014050123456789abcdef012345678"  # NAA 6 of the logical unit
        "02 01 00 08 4945542020202020"  # T10 vendor "IET     "
        "01 02 00 08 0025385c71b06d2a"  # EUI-64
        "51 94 00 04 0000 0001"  # relative port, PIV, iSCSI
        "51 95 00 04 0000 0002"  # target port group
        "01 03 00 00"  # an empty one
        "53 98 00 0c"
    )
    + b"iqn.2001:a,t"
)


@pytest.mark.conformance("SCSI-016")
def test_identification_golden() -> None:
    page = DeviceIdentification.parse(IDENTIFICATION)
    assert [d.text for d in page.designators] == [
        "naa.60014050123456789abcdef012345678",
        "t10.IET",
        "eui.0025385c71b06d2a",
        "port.1",
        "group.2",
        "name.iqn.2001:a,t",
    ]
    assert [d.association for d in page.designators] == [0, 0, 0, 1, 1, 1]
    assert [d.protocol_identifier for d in page.designators] == [None] * 3 + [5] * 3
    assert len(IDENTIFICATION) == vpd_length(IDENTIFICATION)
    built = page.build()
    assert DeviceIdentification.parse(built) == page
    assert built[4:] == IDENTIFICATION[4:].replace(bytes.fromhex("01030000"), b"")


@pytest.mark.conformance("SCSI-016")
def test_only_the_logical_units_own_names_identify_it() -> None:
    page = DeviceIdentification.parse(IDENTIFICATION)
    own = logical_unit_designators(page)
    assert [d.text.split(".")[0] for d in own] == ["naa", "t10", "eui"]
    assert logical_unit_designators(page.designators) == own


@pytest.mark.parametrize("cut", range(4, len(IDENTIFICATION)))
def test_a_cut_page_has_a_prefix_of_the_designators(cut: int) -> None:
    whole = DeviceIdentification.parse(IDENTIFICATION).designators
    found = DeviceIdentification.parse(IDENTIFICATION[:cut]).designators
    assert found == whole[: len(found)]
    assert len(found) < len(whole)


@pytest.mark.parametrize(
    ("designator", "text"),
    [
        (Designator(designator_type=8, code_set=3, value=b"eui.0102\0\0\0\0"), "name.eui.0102"),
        (Designator(designator_type=8, code_set=3, value=b"\xff\n"), "name.\\xff\\x0a"),
        (Designator(designator_type=1, code_set=2, value=b"IET     0001  "), "t10.IET 0001"),
        (Designator(designator_type=0xF, value=b"\1\2"), "typef.0102"),
        (Designator(designator_type=4, association=1, value=b"\1"), "port.01"),
        (
            Designator(designator_type=0xA, value=b"\x10\0" + bytes(range(16))),
            "uuid.00010203-0405-0607-0809-0a0b0c0d0e0f",
        ),
    ],
)
def test_designator_text(designator: Designator, text: str) -> None:
    assert designator.text == text


def test_a_designator_that_does_not_fit_is_refused() -> None:
    with pytest.raises(LocalProtocolError):
        Designator(designator_type=3, value=bytes(256)).build()


BLOCK_LIMITS = bytes.fromhex(
    "00 b0 003c 01 02 0003 00000004 00000005 00000006 00000007 00000008 00000009"
    "8000000a 000000000000000b 0000000c 0000000d 0000000e 0000000f 00000010"
)


@pytest.mark.conformance("SCSI-017")
def test_block_limits_golden() -> None:
    limits = BlockLimits.parse(BLOCK_LIMITS)
    assert dataclasses.astuple(limits) == (
        *(True, 2, 3, 4, 5, 6, 7, 8, 9, True),
        *(10, 11, 12, 13, 14, 15, 16),
    )
    assert limits.build() == BLOCK_LIMITS
    assert len(BLOCK_LIMITS) == 64


@pytest.mark.conformance("SCSI-017")
@pytest.mark.parametrize(("length", "unmap", "write_same"), [(16, 0, 0), (36, 7, 0), (60, 7, 11)])
def test_a_shorter_page_of_an_older_standard(length: int, unmap: int, write_same: int) -> None:
    data = BLOCK_LIMITS[:2] + (length - 4).to_bytes(2, "big") + BLOCK_LIMITS[4:length]
    limits = BlockLimits.parse(data)
    assert limits.maximum_transfer_length == 4
    assert limits.optimal_transfer_length == 5
    assert limits.maximum_unmap_lba_count == unmap
    assert limits.maximum_write_same_length == write_same


@pytest.mark.conformance("SCSI-018")
@pytest.mark.parametrize(
    ("rate", "rotational"), [(0, None), (1, False), (7200, True), (0xFFFF, True)]
)
def test_rotation(rate: int, rotational: bool | None) -> None:
    data = bytes.fromhex("00 b1 003c") + rate.to_bytes(2, "big") + bytes.fromhex("00 05 12")
    page = BlockDeviceCharacteristics.parse(data + bytes(55))
    assert page.medium_rotation_rate == rate
    assert page.rotational is rotational
    assert (page.nominal_form_factor, page.zoned, page.fuab, page.vbuls) == (5, 1, True, False)
    assert page.build() == data + bytes(55)


@pytest.mark.conformance("SCSI-018")
def test_provisioning_golden() -> None:
    data = bytes.fromhex("00 b2 0004 03 e6 fa 64")
    page = LogicalBlockProvisioning.parse(data)
    assert page == LogicalBlockProvisioning(
        threshold_exponent=3,
        lbpu=True,
        lbpws=True,
        lbpws10=True,
        lbprz=1,
        anc_sup=True,
        dp=False,
        minimum_percentage=31,
        provisioning_type=2,
        threshold_percentage=100,
    )
    assert page.build() == data


@pytest.mark.conformance("SCSI-018")
@pytest.mark.parametrize("lbprz", range(8))
def test_lbprz_has_three_bits_and_the_last_means_zeros(lbprz: int) -> None:
    page = LogicalBlockProvisioning(lbpu=True, lbprz=lbprz)
    parsed = LogicalBlockProvisioning.parse(page.build())
    assert parsed == page
    assert parsed.reads_zeros is (lbprz in (1, 3, 5, 7))


@given(
    st.builds(
        BlockLimits,
        wsnz=st.booleans(),
        maximum_compare_and_write_length=st.integers(0, 255),
        maximum_transfer_length=st.integers(0, 0xFFFFFFFF),
        maximum_unmap_lba_count=st.integers(0, 0xFFFFFFFF),
        ugavalid=st.booleans(),
        unmap_granularity_alignment=st.integers(0, 0x7FFFFFFF),
        maximum_write_same_length=st.integers(0, (1 << 64) - 1),
    )
)
def test_built_block_limits_are_parsed(limits: BlockLimits) -> None:
    assert BlockLimits.parse(limits.build()) == limits


@given(
    st.lists(
        st.builds(
            Designator,
            designator_type=st.integers(0, 15),
            value=st.binary(min_size=1, max_size=255),
            association=st.integers(1, 3),
            code_set=st.integers(0, 15),
            protocol_identifier=st.none() | st.integers(0, 15),
        ),
        max_size=5,
    )
)
def test_built_designators_are_parsed_and_have_a_text(designators: list[Designator]) -> None:
    page = DeviceIdentification(tuple(designators))
    assert DeviceIdentification.parse(page.build()) == page
    for designator in designators:
        assert designator.text.isprintable()


@pytest.mark.parametrize("page", PAGES)
@given(body=st.binary(max_size=96))
def test_any_body_is_a_page(page: type, body: bytes) -> None:
    parsed = page.parse(vpd_page(page.PAGE, body))
    assert page.parse(parsed.build()).build() == parsed.build()


@pytest.mark.parametrize("page", PAGES)
@given(data=st.binary(max_size=96))
def test_any_bytes_are_a_page_or_a_protocol_error(page: type, data: bytes) -> None:
    try:
        page.parse(memoryview(data))
    except ProtocolError:
        assert len(data) < 4 or data[1] != page.PAGE or data[2:4] > b"\x01\x00"
