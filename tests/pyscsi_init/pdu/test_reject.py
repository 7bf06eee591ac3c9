# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 11.17 Reject."""

from __future__ import annotations

from pyscsi_init.pdu import NopOut, Reject, RejectReason
from tests.pyscsi_init.pdu.golden import check_golden


def test_reject() -> None:
    check_golden(
        Reject(
            reason=RejectReason.INVALID_PDU_FIELD,
            stat_sn=0x01020304,
            exp_cmd_sn=0x0A0B0C0D,
            max_cmd_sn=0x0A0B0C8D,
            data_sn_or_r2t_sn=6,
            data=NopOut().encode(),
        ),
        "3f800900 00000030 00000000 00000000 ffffffff 00000000"
        "01020304 0a0b0c0d 0a0b0c8d 00000006 00000000 00000000",
        "3f00ff00 ffffffff 00000000 00000000 ffffffff 00000000"
        "ffffffff ffffffff ffffffff ffffffff 00000000 00000000",
        fixed="0080" + "00" * 46,
    )
