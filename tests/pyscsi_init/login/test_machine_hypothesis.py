# SPDX-License-Identifier: Apache-2.0
"""Any target at all: the login machine ends in a known state, or in an error of its own tree."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pyscsi_init.errors import LoginError, ProtocolError
from pyscsi_init.login.keys import KEYS
from pyscsi_init.login.parameters import Parameters
from pyscsi_init.login.text import encode_hex, encode_pairs
from pyscsi_init.secret import Chap, Secret
from pyscsi_init.settings import Settings

from .conftest import MUTUAL_SECRET, SECRET, Script

KEY = st.one_of(
    st.sampled_from(sorted(KEYS)),
    st.sampled_from(["CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R", "AuthMethod"]),
    st.from_regex(r"X-[a-z.]{1,10}", fullmatch=True),
)
VALUE = st.one_of(
    st.sampled_from(
        ["Yes", "No", "None", "CHAP", "CRC32C", "Reject", "Irrelevant", "NotUnderstood"]
    ),
    st.sampled_from(["5", "7", "0", "1", "512", "8192", "262144", "0x10", "1~2", "", "RFC3720"]),
    st.sampled_from([encode_hex(bytes(16)), encode_hex(b"\1"), "0bAAAA", "0x"]),
    st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=8),
)
TEXT = st.one_of(
    st.lists(st.tuples(KEY, VALUE), max_size=4).map(encode_pairs),
    st.binary(max_size=40),
    st.sampled_from(
        [
            b"AuthMethod=CHAP\0",
            b"AuthMethod=None\0",
            b"CHAP_A=5\0CHAP_I=1\0CHAP_C=0x0102\0",
            b"CHAP_N=t\0CHAP_R=0x00\0",
            b"",
        ]
    ),
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "transit": st.booleans(),
        "continue_": st.sampled_from([False, False, True]),
        "current_stage": st.sampled_from([0, 1, 2, 3]),
        "next_stage": st.sampled_from([0, 1, 2, 3]),
        "tsih": st.sampled_from([0, 1]),
        "version_active": st.sampled_from([0, 0, 0, 1]),
        "initiator_task_tag": st.sampled_from([7, 7, 7, 8]),
        "status_class": st.sampled_from([0, 0, 0, 0, 1, 2, 3, 9]),
        "status_detail": st.integers(0, 255),
    },
)
CHAPS = st.sampled_from(
    [
        None,
        Chap(user="joe", secret=Secret(SECRET)),
        Chap(user="joe", secret=Secret(SECRET), mutual_secret=Secret(MUTUAL_SECRET)),
    ]
)


@given(CHAPS, st.booleans(), st.booleans(), st.lists(st.tuples(TEXT, FIELDS), max_size=10))
def test_any_target(
    chap: Chap | None, discovery: bool, propose: bool, rounds: list[tuple[bytes, dict[str, Any]]]
) -> None:
    talk = Script(chap=chap, discovery=discovery, propose_auth_method=propose)
    for text, fields in rounds:
        if talk.machine.finished:
            break
        try:
            talk.answer(text, **fields)
        except (ProtocolError, LoginError):
            assert talk.machine.requests() == []
            assert not talk.machine.finished
            return
    if talk.machine.finished:
        assert talk.machine.requests() == []
        assert talk.machine.result.tsih != 0
        assert chap is None or "CHAP_R" in talk.keys_sent
        check(talk.machine.result.parameters)


ANSWERS = {
    "HeaderDigest": ["None", "CRC32C", "Reject"],
    "ImmediateData": ["Yes", "No"],
    "InitialR2T": ["Yes", "No"],
    "MaxBurstLength": ["512", "4096", "65536", "Reject"],
    "FirstBurstLength": ["512", "65536", "Irrelevant"],
    "MaxRecvDataSegmentLength": ["512", "16777215"],
    "DefaultTime2Wait": ["2", "3600"],
    "MaxOutstandingR2T": ["1", "2"],
    "TaskReporting": ["NotUnderstood", "RFC3720"],
}


@given(
    st.fixed_dictionaries({}, optional={key: st.sampled_from(v) for key, v in ANSWERS.items()}),
    st.booleans(),
    st.booleans(),
)
def test_any_honest_target(answers: dict[str, str], initial_r2t: bool, immediate: bool) -> None:
    offer = Settings(
        header_digest=("None", "CRC32C"), initial_r2t=initial_r2t, immediate_data=immediate
    )
    talk = Script(offer).security_done()
    if initial_r2t:
        answers.pop("InitialR2T", None)
    if not immediate:
        answers.pop("ImmediateData", None)
    talk.answer(answers)
    parameters = talk.machine.result.parameters
    check(parameters)
    assert parameters.header_digest == (answers.get("HeaderDigest") == "CRC32C")
    assert parameters.initial_r2t == (answers.get("InitialR2T", "Yes") == "Yes")
    assert parameters.immediate_data == (immediate and answers.get("ImmediateData", "Yes") == "Yes")


def check(parameters: Parameters) -> None:
    assert 512 <= parameters.first_burst_length <= parameters.max_burst_length < 2**24
    assert 512 <= parameters.target_max_recv_data_segment_length < 2**24
    assert 512 <= parameters.max_recv_data_segment_length < 2**24
    assert 2 <= parameters.default_time2wait <= 3600
    assert parameters.error_recovery_level == 0
    assert parameters.max_connections == 1
    assert 1 <= parameters.max_outstanding_r2t <= 8
