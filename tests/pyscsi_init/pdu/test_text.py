# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 11.10 Text Request, 11.11 Text Response."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import ProtocolError
from pyscsi_init.pdu import TextRequest, TextResponse
from tests.pyscsi_init.pdu.golden import check_golden


def test_request() -> None:
    check_golden(
        TextRequest(
            immediate=True,
            lun=bytes.fromhex("0001000000000000"),
            initiator_task_tag=0x11223344,
            cmd_sn=0x01020304,
            exp_stat_sn=0x0A0B0C0D,
            data=b"SendTargets=All\0",
        ),
        "44800000 00000010 00010000 00000000 11223344 ffffffff"
        "01020304 0a0b0c0d 00000000 00000000 00000000 00000000",
        "7fc00000 ffffffff ffffffff ffffffff ffffffff ffffffff"
        "ffffffff ffffffff 00000000 00000000 00000000 00000000",
    )


def test_response() -> None:
    check_golden(
        TextResponse(
            final=False,
            continue_=True,
            lun=bytes.fromhex("0001000000000000"),
            initiator_task_tag=0x11223344,
            target_transfer_tag=0x55667788,
            stat_sn=0x01020304,
            exp_cmd_sn=0x0A0B0C0D,
            max_cmd_sn=0x0A0B0C8D,
            data=b"TargetName=iqn.2001-04.com.ex",
        ),
        "24400000 0000001d 00010000 00000000 11223344 55667788"
        "01020304 0a0b0c0d 0a0b0c8d 00000000 00000000 00000000",
        "3fc00000 ffffffff ffffffff ffffffff ffffffff ffffffff"
        "ffffffff ffffffff ffffffff 00000000 00000000 00000000",
    )


@pytest.mark.parametrize("cls", [TextRequest, TextResponse])
def test_continue_excludes_final(cls: type[TextRequest | TextResponse]) -> None:
    """RFC 7143 11.10.2, 11.11.2: with the C bit, the F bit MUST be 0."""
    with pytest.raises(ProtocolError, match="both"):
        cls.decode(cls(final=True, continue_=True).encode())


def test_data_outlives_the_buffer() -> None:
    buffer = bytearray(b"a=b\0")
    decoded = TextResponse.decode(TextResponse(data=b"a=b\0").encode(), b"", memoryview(buffer))
    buffer[:] = b"####"
    assert decoded.data == b"a=b\0"
