# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 11.9 Asynchronous Message."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import ProtocolError
from pyscsi_init.pdu import AsyncEvent, AsyncMessage, build_sense_segment
from tests.pyscsi_init.pdu.golden import check_golden


def test_async_message() -> None:
    check_golden(
        AsyncMessage(
            lun=bytes.fromhex("0001000000000000"),
            stat_sn=0x01020304,
            exp_cmd_sn=0x0A0B0C0D,
            max_cmd_sn=0x0A0B0C8D,
            async_event=AsyncEvent.CONNECTION_DROP_NOTIFICATION,
            async_vcode=0x80,
            parameter1=0x0102,
            parameter2=0x0304,
            parameter3=0x0506,
        ),
        "32800000 00000000 00010000 00000000 ffffffff 00000000"
        "01020304 0a0b0c0d 0a0b0c8d 02800102 03040506 00000000",
        "3f000000 ffffffff ffffffff ffffffff ffffffff 00000000"
        "ffffffff ffffffff ffffffff ffffffff ffffffff 00000000",
        fixed="0080" + "00" * 46,
    )


def test_sense_of_a_scsi_event() -> None:
    data = build_sense_segment(b"sense")
    assert AsyncMessage(async_event=AsyncEvent.SCSI_ASYNC_EVENT, data=data).sense == b"sense"
    assert AsyncMessage(async_event=AsyncEvent.LOGOUT_REQUEST, data=data).sense == b""
    with pytest.raises(ProtocolError):
        _ = AsyncMessage(data=b"\x00\x09sense").sense
