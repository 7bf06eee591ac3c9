# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 11.12 Login Request, 11.13 Login Response."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import ProtocolError
from pyscsi_init.pdu import LoginRequest, LoginResponse, Stage, StatusClass
from tests.pyscsi_init.pdu.golden import check_golden


def test_request() -> None:
    check_golden(
        LoginRequest(
            transit=True,
            current_stage=Stage.LOGIN_OPERATIONAL_NEGOTIATION,
            next_stage=Stage.FULL_FEATURE_PHASE,
            version_max=0x01,
            version_min=0x02,
            isid=bytes.fromhex("80a1b2c30001"),
            tsih=0x0405,
            initiator_task_tag=0x11223344,
            cid=0x0607,
            cmd_sn=0x01020304,
            exp_stat_sn=0x0A0B0C0D,
            data=b"SessionType=Normal\0",
        ),
        "43870102 00000013 80a1b2c3 00010405 11223344 06070000"
        "01020304 0a0b0c0d 00000000 00000000 00000000 00000000",
        "3fcfffff ffffffff ffffffff ffffffff ffffffff ffff0000"
        "ffffffff ffffffff 00000000 00000000 00000000 00000000",
        fixed="40" + "00" * 47,
    )


def test_response() -> None:
    check_golden(
        LoginResponse(
            continue_=True,
            current_stage=Stage.SECURITY_NEGOTIATION,
            next_stage=2,
            version_max=0x01,
            version_active=0x02,
            isid=bytes.fromhex("80a1b2c30001"),
            tsih=0x0405,
            initiator_task_tag=0x11223344,
            stat_sn=0x01020304,
            exp_cmd_sn=0x0A0B0C0D,
            max_cmd_sn=0x0A0B0C8D,
            status_class=StatusClass.INITIATOR_ERROR,
            status_detail=0x0B,
        ),
        "23420102 00000000 80a1b2c3 00010405 11223344 00000000"
        "01020304 0a0b0c0d 0a0b0c8d 020b0000 00000000 00000000",
        "3fcfffff ffffffff ffffffff ffffffff ffffffff 00000000"
        "ffffffff ffffffff ffffffff ffff0000 00000000 00000000",
    )


def test_a_login_request_is_always_immediate() -> None:
    assert LoginRequest().encode()[0] == 0x43


@pytest.mark.parametrize("cls", [LoginRequest, LoginResponse])
def test_continue_excludes_transit(cls: type[LoginRequest | LoginResponse]) -> None:
    """RFC 7143 11.12.2, 11.13.7: with the C bit, the T bit MUST be 0."""
    with pytest.raises(ProtocolError, match="both"):
        cls.decode(cls(transit=True, continue_=True).encode())


def test_what_is_negotiated_is_not_in_the_repr() -> None:
    assert "CHAP_R" not in repr(LoginRequest(data=b"CHAP_R=0x1234\0"))
