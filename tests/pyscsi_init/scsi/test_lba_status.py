# SPDX-License-Identifier: Apache-2.0
"""GET LBA STATUS data: golden bytes, answers that do not belong to the question, any bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import ProtocolError
from pyscsi_init.scsi import LbaStatus, ProvisioningStatus, build_lba_status, parse_lba_status

GOLDEN = bytes.fromhex(
    "00000024 000000000000000000000010 00000008 01 0000000000000000000018 00000100 02 000000"
)
RUNS = (
    LbaStatus(lba=0x10, blocks=8, status=ProvisioningStatus.DEALLOCATED),
    LbaStatus(lba=0x18, blocks=0x100, status=ProvisioningStatus.ANCHORED),
)


def test_golden() -> None:
    assert parse_lba_status(GOLDEN, 0x10) == RUNS
    assert build_lba_status(RUNS) == GOLDEN
    assert [run.deallocated for run in RUNS] == [True, False]


def test_a_run_that_begins_earlier_is_cut() -> None:
    assert parse_lba_status(GOLDEN, 0x12)[0] == LbaStatus(lba=0x12, blocks=6, status=1)


@pytest.mark.parametrize("cut", range(24, 40))
def test_a_run_that_is_cut_off_is_left_out(cut: int) -> None:
    assert parse_lba_status(GOLDEN[:cut], 0x10) == RUNS[:1]


@pytest.mark.conformance("SCSI-031")
@pytest.mark.quirk("Q-32")
@pytest.mark.parametrize(
    ("data", "lba"),
    [
        (b"", 0),
        (GOLDEN[:8], 0x10),
        (GOLDEN[:23], 0x10),
        (GOLDEN, 0x0F),  # begins after the question
        (GOLDEN, 0x200),  # ends before it
        (build_lba_status([LbaStatus(lba=0x10, blocks=0, status=0)]), 0x10),
    ],
    ids=["no data", "no run", "half a run", "later", "earlier", "empty"],
)
def test_an_answer_to_another_question_is_none(data: bytes, lba: int) -> None:
    with pytest.raises(ProtocolError):
        parse_lba_status(data, lba)


def test_a_gap_ends_the_answer() -> None:
    gap = build_lba_status([RUNS[0], LbaStatus(lba=0x20, blocks=1, status=0)])
    assert parse_lba_status(gap, 0x10) == RUNS[:1]


@given(st.binary(max_size=80), st.integers(0, 1 << 64))
def test_any_bytes_tell_of_the_question_or_are_a_protocol_error(data: bytes, lba: int) -> None:
    try:
        runs = parse_lba_status(memoryview(data), lba)
    except ProtocolError:
        return
    for run in runs:
        assert run.lba == lba
        assert run.blocks > 0
        lba += run.blocks
