# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 11.5, 11.6 Task Management; RFC 7144 6.4.1 Additional Response Information."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import ProtocolError
from pyscsi_init.pdu import (
    FunctionResponse,
    TaskManagementFunction,
    TaskManagementRequest,
    TaskManagementResponse,
)
from tests.pyscsi_init.pdu.golden import check_golden


def test_request() -> None:
    check_golden(
        TaskManagementRequest(
            immediate=True,
            function=TaskManagementFunction.ABORT_TASK,
            lun=bytes.fromhex("0001000000000000"),
            initiator_task_tag=0x11223344,
            referenced_task_tag=0x55667788,
            cmd_sn=0x01020304,
            exp_stat_sn=0x0A0B0C0D,
            ref_cmd_sn=0x01020300,
            exp_data_sn=9,
        ),
        "42810000 00000000 00010000 00000000 11223344 55667788"
        "01020304 0a0b0c0d 01020300 00000009 00000000 00000000",
        "7f7f0000 ffffffff ffffffff ffffffff ffffffff ffffffff"
        "ffffffff ffffffff ffffffff ffffffff 00000000 00000000",
        fixed="0080" + "00" * 46,
    )


def test_response() -> None:
    check_golden(
        TaskManagementResponse(
            response=FunctionResponse.FUNCTION_SUCCEEDED,
            additional_response_information=0x0A0B0C,
            initiator_task_tag=0x11223344,
            stat_sn=0x01020304,
            exp_cmd_sn=0x0A0B0C0D,
            max_cmd_sn=0x0A0B0C8D,
        ),
        "22800700 00000000 0a0b0c00 00000000 11223344 00000000"
        "01020304 0a0b0c0d 0a0b0c8d 00000000 00000000 00000000",
        "3f00ff00 ffffffff ffffff00 00000000 ffffffff 00000000"
        "ffffffff ffffffff ffffffff 00000000 00000000 00000000",
        fixed="0080" + "00" * 46,
    )


@pytest.mark.parametrize("cls", [TaskManagementRequest, TaskManagementResponse])
def test_data_is_a_format_error(
    cls: type[TaskManagementRequest | TaskManagementResponse],
) -> None:
    """RFC 7143 11.5.2, 11.6.2: "TotalAHSLength and DataSegmentLength MUST be 0"."""
    with pytest.raises(ProtocolError, match="data segment"):
        cls.decode(cls(data=b"data").encode(), b"", b"data")


def test_reserved_codes_are_handed_up_as_numbers() -> None:
    header = bytearray(TaskManagementResponse().encode())
    header[2] = 0x20
    assert TaskManagementResponse.decode(header).response == 0x20
