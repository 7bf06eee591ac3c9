# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 11.7 SCSI Data-Out and SCSI Data-In."""

from __future__ import annotations

from typing import Any

import pytest

from pyscsi_init.errors import LocalProtocolError, ProtocolError
from pyscsi_init.pdu import DataIn, DataOut
from pyscsi_init.pdu.bhs import decode_declared, encode_declared
from tests.pyscsi_init.pdu.golden import check_golden


def test_data_out() -> None:
    check_golden(
        DataOut(
            final=True,
            lun=bytes.fromhex("7fff000000000000"),
            initiator_task_tag=0x11223344,
            target_transfer_tag=0x55667788,
            exp_stat_sn=0x0A0B0C0D,
            data_sn=5,
            buffer_offset=0x00040000,
            data=bytes(510),
        ),
        "05800000 000001fe 7fff0000 00000000 11223344 55667788"
        "00000000 0a0b0c0d 00000000 00000005 00040000 00000000",
        "3f800000 ffffffff ffffffff ffffffff ffffffff ffffffff"
        "00000000 ffffffff 00000000 ffffffff ffffffff 00000000",
    )


@pytest.mark.conformance("PDU-004")
def test_data_out_has_no_i_bit() -> None:
    """RFC 7143 11.7: byte 0 is exactly 05h, and unsolicited data has the reserved TTT."""
    header = DataOut(data=b"x").encode()
    assert header[0] == 0x05
    assert header[20:24] == b"\xff" * 4


def test_data_in_with_status() -> None:
    check_golden(
        DataIn(
            final=True,
            acknowledge=True,
            residual_underflow=True,
            status_present=True,
            status=0x04,
            lun=bytes.fromhex("0001000000000000"),
            initiator_task_tag=0x11223344,
            target_transfer_tag=0x55667788,
            stat_sn=0x01020304,
            exp_cmd_sn=0x0A0B0C0D,
            max_cmd_sn=0x0A0B0C8D,
            data_sn=6,
            buffer_offset=0x00040000,
            residual_count=512,
            data=bytes(8),
        ),
        "25c30004 00000008 00010000 00000000 11223344 55667788"
        "01020304 0a0b0c0d 0a0b0c8d 00000006 00040000 00000200",
        "3fc700ff ffffffff ffffffff ffffffff ffffffff ffffffff"
        "ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff",
    )


def test_data_in_with_overflow() -> None:
    check_golden(
        DataIn(final=True, residual_overflow=True, status_present=True, residual_count=1),
        "25850000 00000000 00000000 00000000 00000000 ffffffff"
        "00000000 00000000 00000000 00000000 00000000 00000001",
        "3fc700ff ffffffff ffffffff ffffffff ffffffff ffffffff"
        "ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff",
    )


def test_status_needs_the_final_bit() -> None:
    """RFC 7143 11.7.3: "If this bit is set to 1, the F bit MUST also be set to 1"."""
    with pytest.raises(ProtocolError, match="without the F bit"):
        DataIn.decode(DataIn(final=False, status_present=True).encode())


def test_overflow_and_underflow_exclude_each_other_where_they_count() -> None:
    """RFC 7143 11.7.3: "These bits are only valid when S is set to 1"."""
    both = {"residual_overflow": True, "residual_underflow": True}
    with pytest.raises(ProtocolError, match="both"):
        DataIn.decode(DataIn(final=True, status_present=True, **both).encode())
    without_status = DataIn(final=True, **both).encode()
    assert DataIn.decode(without_status) == decode_declared(DataIn, without_status, b"", b"")


@pytest.mark.parametrize("cls", [DataIn, DataOut])
def test_data_is_the_view_that_was_given(cls: type[DataIn | DataOut]) -> None:
    buffer = bytearray(b"1234")
    view = memoryview(buffer)
    assert cls.decode(cls(data=b"1234").encode(), b"", view).data is view


@pytest.mark.parametrize("cls", [DataIn, DataOut])
@pytest.mark.parametrize(
    "wrong",
    [{"lun": bytes(9)}, {"data_sn": 1 << 32}, {"buffer_offset": -1}, {"data": bytes(1 << 24)}],
)
def test_what_does_not_fit_is_refused_not_cut(
    cls: type[DataIn | DataOut], wrong: dict[str, Any]
) -> None:
    for encode in (cls.encode, encode_declared):
        with pytest.raises(LocalProtocolError):
            encode(cls(**wrong))
