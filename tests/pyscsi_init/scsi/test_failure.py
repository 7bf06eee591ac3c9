# SPDX-License-Identifier: Apache-2.0
"""The exception for a status and its sense: its class and its sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init import errors
from pyscsi_init.scsi import (
    Status,
    build_sense,
    describe_cdb,
    parse_sense,
    read_16,
    scsi_error,
)

WHAT = describe_cdb(read_16(4096, 8))


def test_a_medium_error_in_one_sentence() -> None:
    error = scsi_error(Status.CHECK_CONDITION, build_sense(3, 0x11, 0, information=4098), WHAT)
    assert type(error) is errors.MediumError
    assert str(error) == (
        "READ(16) of 8 blocks at LBA 4096: MEDIUM ERROR, unrecovered read error (03/11/00), "
        "first bad LBA 4098"
    )
    assert (error.sense_key, error.asc, error.ascq, error.information) == (3, 0x11, 0, 4098)
    assert error.status == Status.CHECK_CONDITION


@pytest.mark.conformance("SCSI-011")
@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ((0x0, 0x00, 0x00), errors.CheckCondition),
        ((0x2, 0x04, 0x02), errors.NotReady),
        ((0x3, 0x0C, 0x02), errors.MediumError),
        ((0x4, 0x44, 0x00), errors.HardwareError),
        ((0x5, 0x24, 0x00), errors.IllegalRequest),
        ((0x6, 0x29, 0x00), errors.UnitAttention),
        ((0x7, 0x27, 0x00), errors.DataProtect),
        ((0x7, 0x27, 0x07), errors.SpaceExhausted),
        ((0xB, 0x00, 0x00), errors.AbortedCommand),
        ((0xE, 0x1D, 0x00), errors.Miscompare),
        ((0xC, 0x00, 0x00), errors.CheckCondition),
    ],
)
def test_sense_key_chooses_the_class(code: tuple[int, int, int], kind: type) -> None:
    error = scsi_error(Status.CHECK_CONDITION, build_sense(*code), WHAT)
    assert type(error) is kind
    assert str(error).startswith(f"{WHAT}: ")


def test_parsed_sense_is_taken_as_well() -> None:
    sense = parse_sense(build_sense(5, 0x20, 0))
    assert isinstance(scsi_error(2, sense, WHAT), errors.IllegalRequest)


@pytest.mark.conformance("SCSI-011")
@pytest.mark.parametrize(
    ("sense", "part"),
    [
        (build_sense(0xE, 0x1D, 0, information=5), "first difference at byte 5"),
        (build_sense(5, 0x24, 0, sense_key_specific=0x400002), "byte 2 of the CDB"),
        (build_sense(5, 0x26, 0, sense_key_specific=0x000009), "byte 9 of the parameter data"),
        (build_sense(3, 0x0C, 0, deferred=True), "deferred error of an earlier command"),
        (build_sense(7, 0x27, 7), "extend it or free space"),
        (b"", "no sense data"),
    ],
)
def test_details(sense: bytes, part: str) -> None:
    assert part in str(scsi_error(Status.CHECK_CONDITION, sense, WHAT))


@pytest.mark.conformance("SCSI-009")
@pytest.mark.parametrize(
    ("status", "kind", "part"),
    [
        (0x04, errors.UnexpectedStatus, "CONDITION MET"),
        (0x08, errors.DeviceBusy, "BUSY"),
        (0x10, errors.UnexpectedStatus, "status 10h"),
        (0x18, errors.ReservationConflict, "another initiator"),
        (0x28, errors.DeviceBusy, "TASK SET FULL"),
        (0x30, errors.UnexpectedStatus, "ACA ACTIVE"),
        (0x40, errors.UnexpectedStatus, "TASK ABORTED"),
        (0x77, errors.UnexpectedStatus, "status 77h"),
    ],
)
def test_other_statuses(status: int, kind: type, part: str) -> None:
    error = scsi_error(status, b"", WHAT)
    assert type(error) is kind
    assert error.status == status
    assert part in str(error)


@given(st.integers(0, 255), st.binary(max_size=64))
def test_every_status_and_any_sense_give_an_error(status: int, sense: bytes) -> None:
    error = scsi_error(status, sense, WHAT)
    assert isinstance(error, errors.ScsiError)
    assert error.status == status
    assert "\n" not in str(error)
