# SPDX-License-Identifier: Apache-2.0
"""MODE SENSE (6) and (10): headers, descriptors, pages, and data that are cut short."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import ProtocolError
from pyscsi_init.scsi import CachingPage, ControlPage, ModeParameters, short_block_descriptor

CACHING = bytes.fromhex("08 12 04") + bytes(17)  # WCE
CONTROL = bytes.fromhex("0a 0a 24 10 08 40 0000 ffff 000a")  # TST 1, D_SENSE, QAM 1, SWP, TAS
EXPECTED_CONTROL = ControlPage(
    tst=1,
    d_sense=True,
    queue_algorithm_modifier=1,
    swp=True,
    tas=True,
    busy_timeout_period=0xFFFF,
    extended_self_test_completion_time=10,
)


def header_6(body: bytes, *, specific: int = 0, descriptors: int = 0) -> bytes:
    return bytes((3 + len(body), 0, specific, descriptors)) + body


def header_10(
    body: bytes, *, specific: int = 0, descriptors: int = 0, long_lba: bool = False
) -> bytes:
    lengths = (6 + len(body)).to_bytes(2, "big"), descriptors.to_bytes(2, "big")
    return lengths[0] + bytes((0, specific, long_lba, 0)) + lengths[1] + body


@pytest.mark.conformance("SCSI-020")
@pytest.mark.parametrize("descriptor", [b"", short_block_descriptor(2048, 512)])
@pytest.mark.parametrize("specific", [0x00, 0x10, 0x80, 0x90])
def test_six(descriptor: bytes, specific: int) -> None:
    body = descriptor + CACHING + CONTROL
    data = header_6(body, specific=specific, descriptors=len(descriptor))
    mode = ModeParameters.parse_6(data)
    assert mode.write_protected is bool(specific & 0x80)
    assert mode.dpofua is bool(specific & 0x10)
    assert mode.caching == CachingPage(wce=True)
    assert mode.control == EXPECTED_CONTROL
    assert not mode.truncated
    assert mode.build_6(descriptor) == data
    assert mode.build(block_descriptors=descriptor) == data
    assert ModeParameters.parse(data) == mode


@pytest.mark.conformance("SCSI-020")
@pytest.mark.parametrize(
    ("descriptor", "long_lba"),
    [(b"", False), (short_block_descriptor(2048, 512), False), (bytes(16), True)],
)
def test_ten(descriptor: bytes, long_lba: bool) -> None:
    body = descriptor + CONTROL + CACHING
    data = header_10(body, specific=0x90, descriptors=len(descriptor), long_lba=long_lba)
    mode = ModeParameters.parse_10(data)
    assert (mode.write_protected, mode.dpofua) == (True, True)
    assert mode.caching == CachingPage(wce=True)
    assert mode.control == EXPECTED_CONTROL
    assert ModeParameters.parse(data, ten=True) == mode
    built = mode.build_10(descriptor, long_lba=long_lba)
    assert built[: 8 + len(descriptor)] == data[: 8 + len(descriptor)]
    assert ModeParameters.parse_10(built) == mode


@pytest.mark.conformance("SCSI-020")
def test_a_page_that_is_missing_is_not_known() -> None:
    mode = ModeParameters.parse_6(header_6(CONTROL))
    assert mode.caching is None
    assert mode.control == EXPECTED_CONTROL


def test_rcd_and_wce_are_apart() -> None:
    page = bytes.fromhex("88 12 01") + bytes(17)  # PS is set in a page that can be saved
    mode = ModeParameters.parse_6(header_6(page))
    assert mode.caching == CachingPage(rcd=True)


def test_other_pages_and_subpages_are_passed_over() -> None:
    subpage = bytes.fromhex("4a 01 0004 ffffffff")  # control extension
    unknown = bytes.fromhex("1c 0a") + bytes(10)
    mode = ModeParameters.parse_6(header_6(subpage + unknown + CACHING))
    assert mode.caching == CachingPage(wce=True)
    assert mode.control is None


@pytest.mark.conformance("SCSI-020")
@pytest.mark.parametrize("length", range(4, 24))
def test_truncated_data_give_what_is_there(length: int) -> None:
    mode = ModeParameters.parse_6(header_6(CACHING, specific=0x80)[:length])
    assert mode.write_protected
    assert mode.truncated is (length < 24)
    assert mode.caching == (CachingPage(wce=True) if length > 6 else None)


def test_a_mode_data_length_of_zero_does_not_hide_the_pages() -> None:
    data = b"\0" + header_6(CACHING)[1:]
    assert ModeParameters.parse_6(data).caching == CachingPage(wce=True)


def test_bytes_behind_the_mode_data_length_are_not_pages() -> None:
    data = header_6(CONTROL) + CACHING
    assert ModeParameters.parse_6(data).caching is None


@pytest.mark.parametrize("length", range(8))
def test_no_header_is_refused(length: int) -> None:
    with pytest.raises(ProtocolError):
        ModeParameters.parse_10(bytes(length))
    if length < 4:
        with pytest.raises(ProtocolError):
            ModeParameters.parse_6(bytes(length))


_MODES = st.builds(
    ModeParameters,
    medium_type=st.integers(0, 255),
    write_protected=st.booleans(),
    dpofua=st.booleans(),
    caching=st.none() | st.builds(CachingPage, wce=st.booleans(), rcd=st.booleans()),
    control=st.none()
    | st.builds(
        ControlPage,
        tst=st.integers(0, 7),
        d_sense=st.booleans(),
        swp=st.booleans(),
        qerr=st.integers(0, 3),
        busy_timeout_period=st.integers(0, 0xFFFF),
    ),
)


@given(_MODES, st.booleans(), st.sampled_from([b"", bytes(8), bytes(16)]))
def test_what_is_built_is_parsed(mode: ModeParameters, ten: bool, descriptors: bytes) -> None:
    data = mode.build(ten=ten, block_descriptors=descriptors)
    assert ModeParameters.parse(data, ten=ten) == mode


@given(st.binary(max_size=96), st.booleans())
def test_any_bytes_are_mode_data_or_a_protocol_error(data: bytes, ten: bool) -> None:
    try:
        ModeParameters.parse(memoryview(data), ten=ten)
    except ProtocolError:
        assert len(data) < (8 if ten else 4)
