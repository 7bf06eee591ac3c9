# SPDX-License-Identifier: Apache-2.0
"""The key registry against RFC 7143 section 13, and the result functions from both sides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import ProtocolError
from pyscsi_init.login.keys import (
    KEYS,
    Kind,
    Result,
    Scope,
    Sender,
    Use,
    answer_for,
    canonical_value,
    check_answer,
    check_full_feature_keys,
)
from pyscsi_init.login.parameters import Parameters

TABLE = """
HeaderDigest             13.1  list    FIRST_MATCH IO  CO None    -   -        BOTH
DataDigest               13.1  list    FIRST_MATCH IO  CO None    -   -        BOTH
MaxConnections           13.2  number  MINIMUM     LO  SW 1       1   65535    BOTH irrelevant
InitialR2T               13.10 boolean OR          LO  SW Yes     -   -        BOTH irrelevant
ImmediateData            13.11 boolean AND         LO  SW Yes     -   -        BOTH irrelevant
MaxRecvDataSegmentLength 13.12 number  DECLARATIVE ALL CO 8192    512 16777215 BOTH
MaxBurstLength           13.13 number  MINIMUM     LO  SW 262144  512 16777215 BOTH irrelevant
FirstBurstLength         13.14 number  MINIMUM     LO  SW 65536   512 16777215 BOTH irrelevant
DefaultTime2Wait         13.15 number  MAXIMUM     LO  SW 2       0   3600     BOTH
DefaultTime2Retain       13.16 number  MINIMUM     LO  SW 20      0   3600     BOTH
MaxOutstandingR2T        13.17 number  MINIMUM     LO  SW 1       1   65535    BOTH irrelevant
DataPDUInOrder           13.18 boolean OR          LO  SW Yes     -   -        BOTH irrelevant
DataSequenceInOrder      13.19 boolean OR          LO  SW Yes     -   -        BOTH irrelevant
ErrorRecoveryLevel       13.20 number  MINIMUM     LO  SW 0       0   2        BOTH
TaskReporting            13.23 list    FIRST_MATCH LO  SW RFC3720 -   -        BOTH irrelevant
iSCSIProtocolLevel       13.24 number  MINIMUM     LO  SW 1       0   31       BOTH irrelevant
"""


@pytest.mark.parametrize("line", TABLE.strip().splitlines(), ids=lambda line: line.split()[0])
def test_neg_012_to_024_rows(line: str) -> None:
    name, clause, kind, result, use, scope, default, low, high, sender, *irrelevant = line.split()
    row = KEYS[name]
    assert row.clause == clause
    assert row.kind is Kind[kind.upper()]
    assert row.result is Result[result]
    assert row.use is Use(use)
    assert row.scope is Scope(scope)
    assert row.default == default
    if low != "-":
        assert (row.low, row.high) == (int(low), int(high))
    assert row.sender is Sender[sender]
    assert row.irrelevant_in_discovery == bool(irrelevant)
    assert not row.any_stage


def test_neg_012_to_024_defaults_are_those_of_parameters() -> None:
    keys = Parameters().as_keys()
    for line in TABLE.strip().splitlines():
        name = line.split()[0]
        assert keys[name] == KEYS[name].default


def test_login_018_any_stage_keys_are_those_of_section_12() -> None:
    assert {row.name for row in KEYS.values() if row.any_stage and row.use is not Use.SECURITY} == {
        *("SessionType", "InitiatorName", "TargetName", "TargetAddress"),
        *("InitiatorAlias", "TargetAlias", "TargetPortalGroupTag"),
    }
    assert {row.name for row in KEYS.values() if row.use is Use.SECURITY} == {
        *("AuthMethod", "CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R"),
        *("KRB_AP_REQ", "KRB_AP_REP", "TargetAuth", "SRP_U", "SRP_GROUP"),
        *("SRP_s", "SRP_A", "SRP_B", "SRP_M", "SRP_HM"),
    }


def test_every_row_has_its_own_name() -> None:
    assert all(name == row.name for name, row in KEYS.items())
    assert len(KEYS) == 45


BOOLEANS = [
    # key, the offer, the other side's wish, the result
    *(
        ("ImmediateData", a, b, "Yes" if a == b == "Yes" else "No")
        for a in ("Yes", "No")
        for b in ("Yes", "No")
    ),
    *(
        ("InitialR2T", a, b, "No" if a == b == "No" else "Yes")
        for a in ("Yes", "No")
        for b in ("Yes", "No")
    ),
    *(
        ("DataPDUInOrder", a, b, "No" if a == b == "No" else "Yes")
        for a in ("Yes", "No")
        for b in ("Yes", "No")
    ),
    *(
        ("DataSequenceInOrder", a, b, "No" if a == b == "No" else "Yes")
        for a in ("Yes", "No")
        for b in ("Yes", "No")
    ),
]
NUMBERS = [
    ("MaxBurstLength", "1000", "2000", "1000"),
    ("MaxBurstLength", "2000", "1000", "1000"),
    ("MaxBurstLength", "0x200", "16777215", "512"),
    ("DefaultTime2Wait", "2", "5", "5"),
    ("DefaultTime2Wait", "5", "2", "5"),
    ("DefaultTime2Retain", "20", "0", "0"),
    ("MaxOutstandingR2T", "1", "16", "1"),
    ("MaxConnections", "4", "1", "1"),
    ("ErrorRecoveryLevel", "2", "0", "0"),
    ("iSCSIProtocolLevel", "2", "1", "1"),
]
LISTS = [
    ("HeaderDigest", "foo,CRC32C,None", "None,CRC32C", "CRC32C"),
    ("HeaderDigest", "None,CRC32C", "CRC32C,None", "None"),
    ("DataDigest", "foo,bar", "CRC32C,None", "Reject"),
    ("DataDigest", "CRC32C", "None", "Reject"),
    ("TaskReporting", "FastAbort,ResponseFence,RFC3720", "ResponseFence,RFC3720", "ResponseFence"),
]


@pytest.mark.parametrize(("name", "offered", "own", "result"), BOOLEANS + NUMBERS + LISTS)
def test_neg_010_result_functions_when_the_target_proposes(
    name: str, offered: str, own: str, result: str
) -> None:
    assert answer_for(KEYS[name], offered, own) == result


@pytest.mark.parametrize(("name", "offered", "own", "result"), BOOLEANS + NUMBERS)
def test_neg_010_result_functions_when_we_propose(
    name: str, offered: str, own: str, result: str
) -> None:
    check_answer(KEYS[name], offered, result)


@pytest.mark.parametrize(
    ("name", "offered", "answer", "legal"),
    [
        ("ImmediateData", "Yes", "Yes", True),
        ("ImmediateData", "Yes", "No", True),
        ("ImmediateData", "No", "No", True),
        ("ImmediateData", "No", "Yes", False),
        ("InitialR2T", "No", "No", True),
        ("InitialR2T", "No", "Yes", True),
        ("InitialR2T", "Yes", "Yes", True),
        ("InitialR2T", "Yes", "No", False),
        ("MaxBurstLength", "262144", "262144", True),
        ("MaxBurstLength", "262144", "0x40000", True),
        ("MaxBurstLength", "262144", "512", True),
        ("MaxBurstLength", "262144", "262145", False),
        ("MaxBurstLength", "262144", "511", False),
        ("MaxBurstLength", "262144", "262144~524288", False),
        ("FirstBurstLength", "65536", "100", False),
        ("DefaultTime2Wait", "2", "5", True),
        ("DefaultTime2Wait", "2", "1", False),
        ("DefaultTime2Wait", "2", "3601", False),
        ("DefaultTime2Retain", "20", "0", True),
        ("DefaultTime2Retain", "20", "21", False),
        ("MaxOutstandingR2T", "8", "0", False),
        ("MaxOutstandingR2T", "8", "1", True),
        ("MaxConnections", "1", "0", False),
        ("MaxConnections", "1", "4", False),
        ("MaxConnections", "65535", "65536", False),
        ("ErrorRecoveryLevel", "2", "3", False),
        ("HeaderDigest", "None", "CRC32C", False),
        ("HeaderDigest", "CRC32C", "None", False),
        ("HeaderDigest", "CRC32C,None", "None", True),
        ("HeaderDigest", "CRC32C,None", "CRC32C,None", False),
        ("HeaderDigest", "CRC32C,None", "crc32c", False),
        ("TaskReporting", "ResponseFence,RFC3720", "FastAbort", False),
        ("iSCSIProtocolLevel", "1", "2", False),
        ("iSCSIProtocolLevel", "2", "0", True),
    ],
)
def test_neg_010_answers_to_our_offer(name: str, offered: str, answer: str, legal: bool) -> None:
    if legal:
        check_answer(KEYS[name], offered, answer)
    else:
        with pytest.raises(ProtocolError):
            check_answer(KEYS[name], offered, answer)


@given(
    st.sampled_from([row for row in KEYS.values() if row.kind is Kind.NUMBER and row.negotiated]),
    st.data(),
)
def test_neg_010_both_sides_of_a_number_agree(row: object, data: st.DataObject) -> None:
    assert isinstance(row, type(KEYS["MaxBurstLength"]))
    numbers = st.integers(row.low, row.high)
    offered, own = str(data.draw(numbers)), str(data.draw(numbers))
    answer = answer_for(row, offered, own)
    check_answer(row, offered, answer)
    assert answer_for(row, own, offered) == answer


def test_neg_025_markers_are_rejected_never_not_understood() -> None:
    for name, value in (
        ("IFMarker", "Yes"),
        ("OFMarker", "No"),
        ("IFMarkInt", "2048~8192"),
        ("OFMarkInt", "2048"),
    ):
        assert answer_for(KEYS[name], value, "") == "Reject"


def test_canonical_value() -> None:
    assert canonical_value(KEYS["MaxBurstLength"], "0x40000") == "262144"
    assert canonical_value(KEYS["TaskReporting"], "FastAbort") == "FastAbort"


def test_txt_004_keys_of_full_feature_phase() -> None:
    check_full_feature_keys(
        [
            ("TargetName", "a"),
            ("TargetAddress", "x"),
            ("TargetAlias", "alias"),
            ("TargetName", "b"),
            ("TargetAlias", "alias"),
            ("X-com.example.a", "1"),
            ("MaxRecvDataSegmentLength", "512"),
        ]
    )
    for pairs in (
        [("MaxBurstLength", "1024")],
        [("HeaderDigest", "None")],
        [("CHAP_A", "5")],
        [("MaxRecvDataSegmentLength", "511")],
        [("MaxRecvDataSegmentLength", "512"), ("MaxRecvDataSegmentLength", "512")],
    ):
        with pytest.raises(ProtocolError):
            check_full_feature_keys(pairs)
