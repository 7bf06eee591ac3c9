# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 11.8 Ready To Transfer."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import LocalProtocolError, ProtocolError
from pyscsi_init.pdu import ReadyToTransfer
from pyscsi_init.pdu.bhs import encode_declared
from tests.pyscsi_init.pdu.golden import check_golden


def test_ready_to_transfer() -> None:
    check_golden(
        ReadyToTransfer(
            lun=bytes.fromhex("0001000000000000"),
            initiator_task_tag=0x11223344,
            target_transfer_tag=0x55667788,
            stat_sn=0x01020304,
            exp_cmd_sn=0x0A0B0C0D,
            max_cmd_sn=0x0A0B0C8D,
            r2t_sn=2,
            buffer_offset=0x00040000,
            desired_data_transfer_length=0x00010000,
        ),
        "31800000 00000000 00010000 00000000 11223344 55667788"
        "01020304 0a0b0c0d 0a0b0c8d 00000002 00040000 00010000",
        "3f000000 ffffffff ffffffff ffffffff ffffffff ffffffff"
        "ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff",
        fixed="0080" + "00" * 46,
    )


def test_data_is_a_format_error() -> None:
    """RFC 7143 11.8.1: "TotalAHSLength and DataSegmentLength MUST be 0"."""
    pdu = ReadyToTransfer(data=b"data")
    with pytest.raises(ProtocolError, match="data segment"):
        ReadyToTransfer.decode(pdu.encode(), b"", b"data")


def test_what_does_not_fit_is_refused_not_cut() -> None:
    for wrong in (ReadyToTransfer(lun=bytes(9)), ReadyToTransfer(r2t_sn=1 << 32)):
        with pytest.raises(LocalProtocolError):
            wrong.encode()
        with pytest.raises(LocalProtocolError):
            encode_declared(wrong)
