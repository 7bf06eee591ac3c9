# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 11.4 SCSI Response, and the Status Qualifier of RFC 7144 5.2.1."""

from __future__ import annotations

from typing import Any

import pytest

from pyscsi_init.errors import LocalProtocolError, ProtocolError
from pyscsi_init.pdu import ScsiResponse, build_sense_segment, parse_sense_segment
from pyscsi_init.pdu.bhs import encode_declared
from tests.pyscsi_init.pdu.golden import check_golden

DEFINED = (
    "3f1effff ffffffff ffff0000 00000000 ffffffff ffffffff"
    "ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff"
)


def test_check_condition_with_residuals() -> None:
    check_golden(
        ScsiResponse(
            bidi_residual_overflow=True,
            residual_underflow=True,
            response=0x81,
            status=0x02,
            status_qualifier=0xC0DE,
            initiator_task_tag=0x11223344,
            snack_tag=0x55667788,
            stat_sn=0x01020304,
            exp_cmd_sn=0x0A0B0C0D,
            max_cmd_sn=0x0A0B0C8D,
            exp_data_sn=3,
            bidi_residual_count=0x100,
            residual_count=0x200,
            data=build_sense_segment(bytes.fromhex("70000600")),
        ),
        "21928102 00000006 c0de0000 00000000 11223344 55667788"
        "01020304 0a0b0c0d 0a0b0c8d 00000003 00000100 00000200",
        DEFINED,
        fixed="0080" + "00" * 46,
    )


def test_good() -> None:
    check_golden(
        ScsiResponse(
            bidi_residual_underflow=True,
            residual_overflow=True,
            initiator_task_tag=1,
            stat_sn=2,
            exp_cmd_sn=3,
            max_cmd_sn=4,
        ),
        "218c0000 00000000 00000000 00000000 00000001 00000000"
        "00000002 00000003 00000004 00000000 00000000 00000000",
        DEFINED,
        fixed="0080" + "00" * 46,
    )


@pytest.mark.parametrize(
    "both",
    [
        {"residual_overflow": True, "residual_underflow": True},
        {"bidi_residual_overflow": True, "bidi_residual_underflow": True},
    ],
)
def test_overflow_and_underflow_exclude_each_other(both: dict[str, Any]) -> None:
    """RFC 7143 11.4.1: "Bits O and U and bits o and u are mutually exclusive"."""
    header = ScsiResponse(**both).encode()
    with pytest.raises(ProtocolError, match="both"):
        ScsiResponse.decode(header)


def test_sense_and_response_data() -> None:
    """RFC 7143 11.4.7: SenseLength, sense data, then response data."""
    segment = build_sense_segment(b"sense", b"more")
    assert segment == b"\x00\x05sensemore"
    assert parse_sense_segment(segment) == (b"sense", b"more")
    assert ScsiResponse(status=2, data=memoryview(segment)).sense == b"sense"


def test_sense_data_has_16_bits_of_length() -> None:
    assert parse_sense_segment(build_sense_segment(bytes(65535))) == (bytes(65535), b"")
    with pytest.raises(LocalProtocolError):
        build_sense_segment(bytes(65536))


def test_no_data_no_sense() -> None:
    assert ScsiResponse().sense == b""
    assert ScsiResponse(data=b"\0\0").sense == b""


@pytest.mark.parametrize("data", [b"\0", b"\0\x01", b"\xff\xff1234"])
def test_sense_longer_than_its_segment(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="SenseLength"):
        _ = ScsiResponse(status=2, data=data).sense


def test_an_ahs_is_a_format_error() -> None:
    header = bytearray(ScsiResponse().encode())
    header[4] = 1
    with pytest.raises(ProtocolError, match="AHS"):
        ScsiResponse.decode(header, bytes.fromhex("00010000"))


@pytest.mark.parametrize(
    "wrong", [{"status": 256}, {"status_qualifier": 65536}, {"stat_sn": -1}, {"response": -1}]
)
def test_what_does_not_fit_is_refused(wrong: dict[str, Any]) -> None:
    for encode in (ScsiResponse.encode, encode_declared):
        with pytest.raises(LocalProtocolError):
            encode(ScsiResponse(**wrong))
