# SPDX-License-Identifier: Apache-2.0
"""Golden CDBs of the primary commands, written out from SPC-4 clause 6 by hand."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import LocalProtocolError
from pyscsi_init.scsi import PersistentReserveIn, PersistentReserveOut, spc


@pytest.mark.conformance("SCSI-014")
@pytest.mark.conformance("SCSI-029")
@pytest.mark.conformance("SCSI-030")
@pytest.mark.parametrize(
    ("cdb", "golden"),
    [
        (spc.test_unit_ready(), "00 00 0000 00 00"),
        (spc.request_sense(), "03 00 0000 fc 00"),
        (spc.request_sense(18, descriptor_format=True), "03 01 0000 12 00"),
        (spc.inquiry(36), "12 00 00 0024 00"),
        (spc.inquiry(0x1234, 0x83), "12 01 83 1234 00"),
        (spc.inquiry(255, page=0), "12 01 00 00ff 00"),
        (spc.mode_sense_6(0x08), "1a 00 08 00 ff 00"),
        (spc.mode_sense_6(0x3F, 192, 0xFF, dbd=True), "1a 08 3f ff c0 00"),
        (spc.mode_sense_10(0x0A, 0x0102), "5a 00 0a 00 000000 0102 00"),
        (spc.mode_sense_10(0x0A, 255, 1, dbd=True), "5a 08 0a 01 000000 00ff 00"),
        (spc.mode_sense_10(0x0A, long_lba_accepted=True), "5a 10 0a 00 000000 00ff 00"),
        (spc.report_luns(16), "a0 00 00 000000 00000010 00 00"),
        (spc.report_luns(0x01020304, 2), "a0 00 02 000000 01020304 00 00"),
        (
            spc.persistent_reserve_in(PersistentReserveIn.READ_KEYS, 0x0108),
            "5e 00 0000000000 0108 00",
        ),
        (
            spc.persistent_reserve_in(PersistentReserveIn.READ_FULL_STATUS, 8),
            "5e 03 0000000000 0008 00",
        ),
        (spc.persistent_reserve_out(PersistentReserveOut.REGISTER), "5f 00 00 0000 00000018 00"),
        (
            spc.persistent_reserve_out(PersistentReserveOut.PREEMPT_AND_ABORT, reservation_type=5),
            "5f 05 05 0000 00000018 00",
        ),
        (spc.report_target_port_groups(64), "a3 0a 00000000 00000040 00 00"),
        (spc.report_target_port_groups(64, extended_header=True), "a3 2a 00000000 00000040 00 00"),
        (spc.set_target_port_groups(8), "a4 0a 00000000 00000008 00 00"),
        (spc.report_supported_operation_codes(512), "a3 0c 00 00 0000 00000200 00 00"),
        (spc.report_supported_operation_codes(20, opcode=0x42), "a3 0c 01 42 0000 00000014 00 00"),
        (
            spc.report_supported_operation_codes(20, opcode=0x9E, service_action=0x10),
            "a3 0c 02 9e 0010 00000014 00 00",
        ),
    ],
)
def test_golden_cdb(cdb: bytes, golden: str) -> None:
    assert cdb == bytes.fromhex(golden)


@pytest.mark.parametrize(
    "build",
    [
        lambda: spc.inquiry(0x10000),
        lambda: spc.inquiry(36, 256),
        lambda: spc.request_sense(256),
        lambda: spc.mode_sense_6(8, 256),
        lambda: spc.mode_sense_6(0x40),
        lambda: spc.mode_sense_10(-1),
        lambda: spc.report_luns(15),
        lambda: spc.persistent_reserve_out(PersistentReserveOut.RESERVE, reservation_type=16),
        lambda: spc.report_supported_operation_codes(20, service_action=1),
    ],
)
def test_a_value_that_cannot_be_sent_is_the_callers_error(build) -> None:
    with pytest.raises(LocalProtocolError):
        build()
