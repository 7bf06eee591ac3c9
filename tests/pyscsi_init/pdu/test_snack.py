# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 11.16 SNACK Request."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import ProtocolError
from pyscsi_init.pdu import SnackRequest, SnackType
from tests.pyscsi_init.pdu.golden import check_golden


@pytest.mark.conformance("PDU-001")
def test_snack_request() -> None:
    check_golden(
        SnackRequest(
            type=SnackType.R_DATA,
            lun=bytes.fromhex("0001000000000000"),
            initiator_task_tag=0x11223344,
            target_transfer_tag=0x55667788,
            exp_stat_sn=0x0A0B0C0D,
            beg_run=4,
            run_length=2,
        ),
        "10830000 00000000 00010000 00000000 11223344 55667788"
        "00000000 0a0b0c0d 00000000 00000000 00000004 00000002",
        "3f0f0000 ffffffff ffffffff ffffffff ffffffff ffffffff"
        "00000000 ffffffff 00000000 00000000 ffffffff ffffffff",
        fixed="0080" + "00" * 46,
    )


@pytest.mark.conformance("PDU-004")
def test_there_is_no_i_bit() -> None:
    """RFC 7143 11.16: byte 0 is exactly 10h."""
    assert SnackRequest().encode()[0] == 0x10


def test_data_is_a_format_error() -> None:
    with pytest.raises(ProtocolError, match="data segment"):
        SnackRequest.decode(SnackRequest(data=b"data").encode(), b"", b"data")
