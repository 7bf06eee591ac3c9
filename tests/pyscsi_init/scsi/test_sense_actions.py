# SPDX-License-Identifier: Apache-2.0
"""The table of what a sense makes us do, and what must hold for every code."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.scsi import REPEATABLE, SENSE_ACTIONS, Action, build_sense, parse_sense
from pyscsi_init.scsi.sense import Sense
from pyscsi_init.scsi.sense_actions import sense_action


def action_of(key: int, asc: int, ascq: int) -> Action:
    return sense_action(parse_sense(build_sense(key, asc, ascq)))


@pytest.mark.conformance("SCSI-010")
@pytest.mark.parametrize(
    ("key", "asc", "ascq", "action"),
    [
        (0x0, 0x00, 0x00, Action.COMPLETE_ERROR),
        (0x1, 0x17, 0x01, Action.COMPLETE_GOOD),
        (0x2, 0x04, 0x00, Action.COMPLETE_ERROR),
        (0x2, 0x04, 0x01, Action.RETRY_DELAYED),
        (0x2, 0x04, 0x02, Action.COMPLETE_ERROR),
        (0x2, 0x04, 0x0A, Action.RETRY_DELAYED),
        (0x2, 0x04, 0x0B, Action.PATH_ERROR),
        (0x2, 0x04, 0x0C, Action.PATH_ERROR),
        (0x2, 0x3A, 0x00, Action.COMPLETE_ERROR),
        (0x2, 0x3A, 0x02, Action.COMPLETE_ERROR),
        (0x3, 0x11, 0x00, Action.COMPLETE_ERROR),
        (0x4, 0x44, 0x00, Action.COMPLETE_ERROR),
        (0x5, 0x1A, 0x00, Action.COMPLETE_ERROR),
        (0x5, 0x20, 0x00, Action.COMPLETE_ERROR),
        (0x5, 0x21, 0x00, Action.OUT_OF_RANGE),
        (0x5, 0x24, 0x00, Action.COMPLETE_ERROR),
        (0x5, 0x25, 0x00, Action.COMPLETE_ERROR),
        (0x5, 0x26, 0x00, Action.COMPLETE_ERROR),
        (0x5, 0x94, 0x01, Action.PATH_ERROR),
        (0x6, 0x28, 0x00, Action.REREAD_IDENTITY),
        *[(0x6, 0x29, ascq, Action.UNIT_ATTENTION_CLEARED) for ascq in range(8)],
        (0x6, 0x2A, 0x01, Action.UNIT_ATTENTION_CLEARED),
        (0x6, 0x2A, 0x03, Action.RESERVATIONS_LOST),
        (0x6, 0x2A, 0x04, Action.RESERVATIONS_LOST),
        (0x6, 0x2A, 0x05, Action.RESERVATIONS_LOST),
        (0x6, 0x2A, 0x06, Action.UNIT_ATTENTION_CLEARED),
        (0x6, 0x2A, 0x09, Action.REREAD_CAPACITY),
        (0x6, 0x2F, 0x00, Action.UNIT_ATTENTION_CLEARED),
        (0x6, 0x38, 0x07, Action.UNIT_ATTENTION_CLEARED),
        (0x6, 0x3F, 0x03, Action.REREAD_IDENTITY),
        (0x6, 0x3F, 0x0E, Action.RESCAN_LUNS),
        (0x6, 0x47, 0x7F, Action.UNIT_ATTENTION_CLEARED),
        (0x6, 0xFE, 0xDC, Action.UNIT_ATTENTION_CLEARED),
        (0x7, 0x27, 0x00, Action.COMPLETE_ERROR),
        (0x7, 0x27, 0x07, Action.COMPLETE_ERROR),
        (0xB, 0x00, 0x00, Action.RETRY),
        (0xB, 0x4B, 0x00, Action.RETRY),
        (0xB, 0x4E, 0x00, Action.COMPLETE_ERROR),
        (0xE, 0x1D, 0x00, Action.COMPLETE_ERROR),
        (0x9, 0x00, 0x00, Action.COMPLETE_ERROR),
    ],
)
def test_action(key: int, asc: int, ascq: int, action: Action) -> None:
    assert action_of(key, asc, ascq) is action


@given(st.integers(0, 15), st.integers(0, 255), st.integers(0, 255))
def test_a_deferred_error_is_not_of_this_command(key: int, asc: int, ascq: int) -> None:
    sense = parse_sense(build_sense(key, asc, ascq, deferred=True))
    assert sense_action(sense) is Action.DEFERRED


def test_sense_that_says_nothing_is_an_error() -> None:
    assert sense_action(Sense()) is Action.COMPLETE_ERROR
    assert sense_action(parse_sense(b"\x7f\x06\x06")) is Action.COMPLETE_ERROR


@pytest.mark.conformance("SCSI-012")
@given(st.integers(0, 255), st.integers(0, 255))
def test_what_an_illegal_request_is_told_it_is_not_told_again(asc: int, ascq: int) -> None:
    assert action_of(0x5, asc, ascq) not in REPEATABLE


@pytest.mark.conformance("SCSI-005")
@given(st.integers(0, 255), st.integers(0, 255))
def test_a_unit_attention_is_never_an_error_of_the_command(asc: int, ascq: int) -> None:
    action = action_of(0x6, asc, ascq)
    assert action in REPEATABLE or action is Action.RESERVATIONS_LOST


def test_rows_are_unique_and_say_why() -> None:
    codes = [(row.sense_key, row.asc, row.ascq) for row in SENSE_ACTIONS]
    assert len(set(codes)) == len(codes)
    for row in SENSE_ACTIONS:
        assert row.why
        assert row.asc is not None or row.ascq is None
