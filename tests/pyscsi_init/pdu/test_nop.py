# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 11.18 NOP-Out, 11.19 NOP-In."""

from __future__ import annotations

import pytest

from pyscsi_init.pdu import NopIn, NopOut
from tests.pyscsi_init.pdu.golden import check_golden


def test_nop_out() -> None:
    check_golden(
        NopOut(
            immediate=True,
            lun=bytes.fromhex("4101000000000000"),
            initiator_task_tag=0x11223344,
            target_transfer_tag=0x55667788,
            cmd_sn=0x01020304,
            exp_stat_sn=0x0A0B0C0D,
            data=b"ping!",
        ),
        "40800000 00000005 41010000 00000000 11223344 55667788"
        "01020304 0a0b0c0d 00000000 00000000 00000000 00000000",
        "7f000000 ffffffff ffffffff ffffffff ffffffff ffffffff"
        "ffffffff ffffffff 00000000 00000000 00000000 00000000",
        fixed="0080" + "00" * 46,
    )


def test_nop_in() -> None:
    check_golden(
        NopIn(
            lun=bytes.fromhex("4101000000000000"),
            initiator_task_tag=0x11223344,
            target_transfer_tag=0x55667788,
            stat_sn=0x01020304,
            exp_cmd_sn=0x0A0B0C0D,
            max_cmd_sn=0x0A0B0C8D,
            data=b"pong",
        ),
        "20800000 00000004 41010000 00000000 11223344 55667788"
        "01020304 0a0b0c0d 0a0b0c8d 00000000 00000000 00000000",
        "3f000000 ffffffff ffffffff ffffffff ffffffff ffffffff"
        "ffffffff ffffffff ffffffff 00000000 00000000 00000000",
        fixed="0080" + "00" * 46,
    )


@pytest.mark.parametrize("cls", [NopOut, NopIn])
def test_neither_asks_nor_answers_by_default(cls: type[NopOut | NopIn]) -> None:
    assert cls().encode()[16:24] == b"\xff" * 8
