# SPDX-License-Identifier: Apache-2.0
"""Sense data in both formats: golden data, short and broken data, any bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import LocalProtocolError
from pyscsi_init.scsi import Sense, build_sense, parse_sense, sense_key_name

FIXED = bytes.fromhex("f0 00 03 00001002 0a 00000000 11 00 00 000000")
DESCRIPTOR = bytes.fromhex("72 03 11 00 000000 0c 00 0a 80 00 0000000500001002")


@pytest.mark.conformance("SCSI-001")
def test_fixed_golden() -> None:
    assert build_sense(3, 0x11, 0, information=4098) == FIXED
    sense = parse_sense(FIXED)
    assert sense.code == (3, 0x11, 0)
    assert sense.information == 4098
    assert (sense.response_code, sense.deferred, sense.known) == (0x70, False, True)
    assert str(sense) == "MEDIUM ERROR, unrecovered read error (03/11/00)"


@pytest.mark.conformance("SCSI-002")
def test_descriptor_golden_with_64_bits_of_information() -> None:
    assert build_sense(3, 0x11, 0, information=0x500001002, descriptor_format=True) == DESCRIPTOR
    sense = parse_sense(DESCRIPTOR)
    assert sense.code == (3, 0x11, 0)
    assert sense.information == 0x500001002


@pytest.mark.conformance("SCSI-001")
@pytest.mark.parametrize(
    ("length", "code", "information"),
    [
        (18, (3, 0x11, 0x04), 4098),
        (14, (3, 0x11, 0x04), 4098),
        (13, (3, 0x11, 0), 4098),
        (8, (3, 0, 0), 4098),
        (6, (3, 0, 0), None),
        (3, (3, 0, 0), None),
        (1, (0, 0, 0), None),
    ],
)
def test_short_fixed_sense_is_read_as_far_as_it_goes(
    length: int, code: tuple[int, int, int], information: int | None
) -> None:
    whole = build_sense(3, 0x11, 0x04, information=4098)
    sense = parse_sense(whole[:length])
    assert sense.code == code
    assert sense.information == information
    assert sense.known


@pytest.mark.conformance("SCSI-001")
def test_an_additional_length_beyond_the_data_is_not_believed() -> None:
    assert parse_sense(FIXED[:7] + b"\xff" + FIXED[8:]).code == (3, 0x11, 0)


def test_information_without_valid_is_no_information() -> None:
    assert parse_sense(b"\x70" + FIXED[1:]).information is None
    cleared = DESCRIPTOR[:10] + b"\0" + DESCRIPTOR[11:]
    assert parse_sense(cleared).information is None


def test_an_lba_beyond_32_bits_is_left_out_of_the_fixed_format() -> None:
    data = build_sense(3, 0x11, 0, information=1 << 32)
    assert data[0] == 0x70
    assert parse_sense(data).information is None


@pytest.mark.conformance("SCSI-003")
@pytest.mark.parametrize("descriptor_format", [False, True])
def test_deferred(descriptor_format: bool) -> None:
    data = build_sense(3, 0x0C, 0, deferred=True, descriptor_format=descriptor_format)
    assert data[0] == (0x73 if descriptor_format else 0x71)
    assert parse_sense(data).deferred


@pytest.mark.conformance("SCSI-001")
def test_no_sense_data_and_vendor_sense_data() -> None:
    assert parse_sense(b"") == Sense()
    assert str(Sense()) == "no sense data"
    vendor = parse_sense(b"\x7f\xff\xff")
    assert not vendor.known
    assert vendor.code == (0, 0, 0)
    assert "7Fh" in str(vendor)


@pytest.mark.conformance("SCSI-002")
def test_descriptors_are_walked_over_unknown_ones() -> None:
    data = bytes.fromhex(
        "72 05 24 00 000000 22"
        "80 02 aabb"  # vendor specific
        "01 0a 0000 0000000000000007"  # command specific information
        "02 06 0000 c00002 00"  # sense key specific: in the CDB, byte 2
        "03 02 00 55"  # field replaceable unit
        "05 02 00 20"  # block commands: ILI
        "00 00"  # an information descriptor that is too short for one
    )
    sense = parse_sense(data)
    assert sense.code == (5, 0x24, 0)
    assert sense.command_specific_information == 7
    assert sense.field_pointer == (True, 2)
    assert sense.field_replaceable_unit_code == 0x55
    assert sense.incorrect_length
    assert sense.information is None


@pytest.mark.conformance("SCSI-002")
@pytest.mark.parametrize("cut", range(8, len(DESCRIPTOR)))
def test_a_descriptor_that_overruns_says_nothing(cut: int) -> None:
    sense = parse_sense(DESCRIPTOR[:cut])
    assert sense.code == (3, 0x11, 0)
    assert sense.information is None


def test_descriptors_end_with_the_additional_length() -> None:
    assert parse_sense(DESCRIPTOR[:7] + b"\0" + DESCRIPTOR[8:]).information is None


def test_field_pointer_and_progress() -> None:
    pointed = parse_sense(build_sense(5, 0x26, 0, sense_key_specific=0x000009))
    assert pointed.field_pointer == (False, 9)
    assert pointed.progress is None
    half = parse_sense(build_sense(2, 0x04, 0x04, sense_key_specific=0x8000))
    assert half.progress == 0.5
    assert half.field_pointer is None


def test_key_names() -> None:
    assert sense_key_name(0xB) == "ABORTED COMMAND"
    assert sense_key_name(0xC) == "sense key Ch"


@pytest.mark.parametrize("values", [(16, 0, 0), (0, 256, 0), (0, 0, -1)])
@pytest.mark.parametrize("descriptor_format", [False, True])
def test_codes_that_do_not_fit_are_refused(
    values: tuple[int, int, int], descriptor_format: bool
) -> None:
    with pytest.raises(LocalProtocolError):
        build_sense(*values, descriptor_format=descriptor_format)


def test_information_has_64_bits() -> None:
    for information in (-1, 1 << 64):
        with pytest.raises(LocalProtocolError):
            build_sense(3, 0x11, 0, information=information)


@given(
    key=st.integers(0, 15),
    asc=st.integers(0, 255),
    ascq=st.integers(0, 255),
    information=st.none() | st.integers(0, (1 << 32) - 1),
    specific=st.none() | st.integers(0, (1 << 23) - 1),
    descriptor_format=st.booleans(),
    deferred=st.booleans(),
)
def test_what_is_built_is_parsed(
    key: int,
    asc: int,
    ascq: int,
    information: int | None,
    specific: int | None,
    descriptor_format: bool,
    deferred: bool,
) -> None:
    data = build_sense(
        key,
        asc,
        ascq,
        information=information,
        descriptor_format=descriptor_format,
        deferred=deferred,
        sense_key_specific=specific,
    )
    assert len(data) == 8 + data[7]
    sense = parse_sense(data)
    assert sense.code == (key, asc, ascq)
    assert sense.information == information
    assert sense.sense_key_specific == specific
    assert sense.deferred is deferred


@given(st.binary(max_size=300))
def test_any_bytes_have_a_sense(data: bytes) -> None:
    sense = parse_sense(memoryview(data))
    assert 0 <= sense.sense_key <= 15
    assert str(sense)


@given(st.sampled_from([0x70, 0x71, 0x72, 0x73, 0xF0, 0xF2]), st.binary(max_size=64))
def test_any_bytes_after_a_known_response_code(response_code: int, data: bytes) -> None:
    assert parse_sense(bytes((response_code,)) + data).known
