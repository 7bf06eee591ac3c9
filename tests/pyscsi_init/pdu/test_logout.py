# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 11.14 Logout Request, 11.15 Logout Response."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import ProtocolError
from pyscsi_init.pdu import LogoutReason, LogoutRequest, LogoutResponse, LogoutResult
from tests.pyscsi_init.pdu.golden import check_golden


def test_request() -> None:
    check_golden(
        LogoutRequest(
            immediate=True,
            reason=LogoutReason.REMOVE_CONNECTION_FOR_RECOVERY,
            initiator_task_tag=0x11223344,
            cid=0x0607,
            cmd_sn=0x01020304,
            exp_stat_sn=0x0A0B0C0D,
        ),
        "46820000 00000000 00000000 00000000 11223344 06070000"
        "01020304 0a0b0c0d 00000000 00000000 00000000 00000000",
        "7f7f0000 ffffffff 00000000 00000000 ffffffff ffff0000"
        "ffffffff ffffffff 00000000 00000000 00000000 00000000",
        fixed="0080" + "00" * 46,
    )


def test_response() -> None:
    check_golden(
        LogoutResponse(
            response=LogoutResult.CLEANUP_FAILED,
            initiator_task_tag=0x11223344,
            stat_sn=0x01020304,
            exp_cmd_sn=0x0A0B0C0D,
            max_cmd_sn=0x0A0B0C8D,
            time2wait=2,
            time2retain=20,
        ),
        "26800300 00000000 00000000 00000000 11223344 00000000"
        "01020304 0a0b0c0d 0a0b0c8d 00000000 00020014 00000000",
        "3f00ff00 ffffffff 00000000 00000000 ffffffff 00000000"
        "ffffffff ffffffff ffffffff 00000000 ffffffff 00000000",
        fixed="0080" + "00" * 46,
    )


@pytest.mark.parametrize("cls", [LogoutRequest, LogoutResponse])
def test_data_is_a_format_error(cls: type[LogoutRequest | LogoutResponse]) -> None:
    """RFC 7143 11.14.2, 11.15.2: "TotalAHSLength and DataSegmentLength MUST be 0"."""
    with pytest.raises(ProtocolError, match="data segment"):
        cls.decode(cls(data=b"data").encode(), b"", b"data")
