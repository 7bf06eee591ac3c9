# SPDX-License-Identifier: Apache-2.0
"""Every code has a name: commands, statuses and additional sense codes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.scsi import Opcode, Status, command_name, sense_text, status_name
from pyscsi_init.scsi.asc import ASC_TEXT, SENSE_TEXT


@pytest.mark.parametrize(
    ("cdb", "name"),
    [
        ("00", "TEST UNIT READY"),
        ("08", "READ(6)"),
        ("28", "READ(10)"),
        ("8a", "WRITE(16)"),
        ("1e", "PREVENT ALLOW MEDIUM REMOVAL"),
        ("34", "PRE-FETCH(10)"),
        ("35", "SYNCHRONIZE CACHE(10)"),
        ("89", "COMPARE AND WRITE"),
        ("9e 10", "READ CAPACITY(16)"),
        ("9e 12", "GET LBA STATUS"),
        ("9e f0", "READ CAPACITY(16)"),
        ("9e", "SERVICE ACTION IN(16)"),
        ("9e 1f", "SERVICE ACTION IN(16) service action 1Fh"),
        ("5e 01", "PERSISTENT RESERVE IN READ RESERVATION"),
        ("5f 05", "PERSISTENT RESERVE OUT PREEMPT AND ABORT"),
        ("a3 0a", "REPORT TARGET PORT GROUPS"),
        ("f7", "command F7h"),
        ("", "an empty CDB"),
    ],
)
def test_command_name(cdb: str, name: str) -> None:
    assert command_name(bytes.fromhex(cdb)) == name


@given(st.binary(max_size=16))
def test_every_cdb_has_a_name(cdb: bytes) -> None:
    assert command_name(memoryview(cdb))


def test_every_operation_code_is_named_in_capitals() -> None:
    for opcode in Opcode:
        assert command_name(bytes((opcode,))).isupper()


@pytest.mark.parametrize(
    ("status", "name"),
    [(Status.GOOD, "GOOD"), (0x28, "TASK SET FULL"), (0x10, "status 10h"), (0xFF, "status FFh")],
)
def test_status_name(status: int, name: str) -> None:
    assert status_name(status) == name


@pytest.mark.parametrize(
    ("asc", "ascq", "text"),
    [
        (0x11, 0x00, "unrecovered read error"),
        (0x11, 0x7E, "unrecovered read error"),
        (0x29, 0x07, "i_t nexus loss occurred"),
        (0x27, 0x07, "space allocation failed write protect"),
        (0x47, 0x7F, "some commands cleared by iscsi protocol event"),
        (0x29, 0x80, "power on, reset, or bus device reset occurred, vendor specific"),
        (0x94, 0x01, "vendor specific"),
        (0x7E, 0x00, "unknown additional sense code"),
    ],
)
def test_sense_text(asc: int, ascq: int, text: str) -> None:
    assert sense_text(asc, ascq) == text


def test_every_pair_has_words_that_fit_in_a_sentence() -> None:
    for asc in range(256):
        for ascq in range(256):
            words = sense_text(asc, ascq)
            assert words
            assert words == words.strip().lower()
    assert all(asc in ASC_TEXT for asc, _ in SENSE_TEXT)
