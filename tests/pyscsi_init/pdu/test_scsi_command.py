# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 11.3 SCSI Command, with its AHS (11.2.2) and with PRI of RFC 7144 5.1."""

from __future__ import annotations

from typing import Any

import pytest

from pyscsi_init.errors import LocalProtocolError, ProtocolError
from pyscsi_init.pdu import ScsiCommand, TaskAttribute, digest_bytes
from pyscsi_init.pdu.bhs import encode_declared
from tests.pyscsi_init.pdu.golden import check_golden

CDB = bytes.fromhex("2a000000100000000800000000000000")
DEFINED = (
    "7fe7f000 ffffffff ffffffff ffffffff ffffffff ffffffff"
    "ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff"
)


def test_write_with_immediate_data() -> None:
    check_golden(
        ScsiCommand(
            final=False,
            write=True,
            attr=TaskAttribute.SIMPLE,
            pri=0xA,
            lun=bytes.fromhex("00ff000000000000"),
            initiator_task_tag=0x11223344,
            expected_data_transfer_length=4096,
            cmd_sn=0x01020304,
            exp_stat_sn=0x0A0B0C0D,
            cdb=CDB,
            data=bytes(range(7)),
        ),
        "0121a000 00000007 00ff0000 00000000 11223344 00001000"
        "01020304 0a0b0c0d 2a000000 10000000 08000000 00000000",
        DEFINED,
    )


def test_immediate_read() -> None:
    check_golden(
        ScsiCommand(
            immediate=True,
            read=True,
            attr=TaskAttribute.HEAD_OF_QUEUE,
            initiator_task_tag=7,
            expected_data_transfer_length=512,
            cmd_sn=1,
            exp_stat_sn=2,
            cdb=CDB,
        ),
        "41c30000 00000000 00000000 00000000 00000007 00000200"
        "00000001 00000002 2a000000 10000000 08000000 00000000",
        DEFINED,
    )


@pytest.mark.conformance("PDU-010")
def test_example_of_the_rfc() -> None:
    """RFC 7143 A.4: the READ (10) whose digest is given as 56 3a 96 d9."""
    header = ScsiCommand(
        read=True,
        initiator_task_tag=0x14000000,
        expected_data_transfer_length=0x400,
        cmd_sn=0x14,
        exp_stat_sn=0x18,
        cdb=bytes.fromhex("28000000000000000200"),
    ).encode()
    assert header == bytes.fromhex(
        "01c00000 00000000 00000000 00000000 14000000 00000400"
        "00000014 00000018 28000000 00000000 02000000 00000000"
    )
    assert digest_bytes(header) == bytes.fromhex("563a96d9")


@pytest.mark.conformance("PDU-008")
def test_cdb_of_16_bytes_needs_no_ahs() -> None:
    header = ScsiCommand(cdb=bytes(range(16))).encode()
    assert len(header) == 48
    assert header[4] == 0


@pytest.mark.conformance("PDU-008")
def test_long_cdb_spills_into_an_ahs() -> None:
    """RFC 7143 11.2.2.3: AHSLength is CDBLength - 15, the rest of the CDB after a reserved byte."""
    pdu = ScsiCommand(read=True, cdb=bytes(range(32)))
    encoded = pdu.encode()
    assert encoded[4] == 5
    assert encoded[32:48] == bytes(range(16))
    assert encoded[48:] == bytes.fromhex("00110100") + bytes(range(16, 32))
    assert ScsiCommand.decode(encoded[:48], encoded[48:]) == pdu


@pytest.mark.parametrize("length", [17, 18, 19, 20, 260])
def test_long_cdb_is_padded_to_words(length: int) -> None:
    pdu = ScsiCommand(cdb=bytes(index & 0xFF for index in range(length)))
    encoded = pdu.encode()
    assert len(encoded) == 48 + encoded[4] * 4
    assert encoded[4] == (4 + length - 16 + 3) // 4
    assert int.from_bytes(encoded[48:50], "big") == length - 15
    assert set(encoded[48 + 4 + length - 16 :]) <= {0}
    assert ScsiCommand.decode(encoded[:48], encoded[48:]) == pdu


@pytest.mark.conformance("PDU-009")
def test_bidirectional_command() -> None:
    """RFC 7143 11.2.2.4: 00 05 02 00 and the read length; the BHS has the write length."""
    check_golden(
        ScsiCommand(
            read=True,
            write=True,
            expected_data_transfer_length=512,
            bidirectional_read_expected_data_transfer_length=1024,
            cdb=CDB,
        ),
        "01e00000 02000000 00000000 00000000 00000000 00000200"
        "00000000 00000000 2a000000 10000000 08000000 00000000",
        DEFINED,
        ahs="00050200 00000400",
    )


@pytest.mark.conformance("PDU-009")
def test_both_segments_at_once() -> None:
    pdu = ScsiCommand(
        read=True,
        write=True,
        cdb=bytes(range(32)),
        bidirectional_read_expected_data_transfer_length=0,
    )
    encoded = pdu.encode()
    assert encoded[4] == 7
    assert ScsiCommand.decode(encoded[:48], encoded[48:]) == pdu


def test_data_is_copied_out_of_the_buffer() -> None:
    buffer = bytearray(b"1234")
    pdu = ScsiCommand(write=True, data=b"1234")
    decoded = ScsiCommand.decode(pdu.encode(), b"", memoryview(buffer))
    buffer[:] = b"####"
    assert decoded.data == b"1234"


def test_neither_final_nor_write_is_a_format_error() -> None:
    """RFC 7143 11.3.1: "At least one of the W and F bits MUST be set to 1"."""
    with pytest.raises(ProtocolError, match="neither"):
        ScsiCommand.decode(ScsiCommand(final=False, read=True).encode())


@pytest.mark.parametrize(
    "wrong",
    [
        {"attr": 8},
        {"attr": -1},
        {"pri": 16},
        {"pri": -1},
        {"lun": bytes(7)},
        {"lun": bytes(9)},
        {"initiator_task_tag": 1 << 32},
        {"initiator_task_tag": -1},
        {"cmd_sn": -1},
        {"expected_data_transfer_length": 1 << 32},
        {"bidirectional_read_expected_data_transfer_length": 1 << 32},
        {"bidirectional_read_expected_data_transfer_length": -1},
        {"cdb": bytes(16 + 255 * 4)},
        {"data": bytes(1 << 24)},
    ],
)
def test_what_does_not_fit_is_refused_not_cut(wrong: dict[str, Any]) -> None:
    for encode in (ScsiCommand.encode, encode_declared):
        with pytest.raises(LocalProtocolError):
            encode(ScsiCommand(**wrong))
