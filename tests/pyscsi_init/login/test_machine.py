# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 6.3 Login Phase: PDUs, stages, C and T bits, status, bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pyscsi_init.errors import (
    LocalProtocolError,
    LoginRejected,
    ProtocolError,
)
from pyscsi_init.login import Parameters
from pyscsi_init.login.text import decode_pairs, encode_pairs
from pyscsi_init.pdu import LoginResponse, Stage
from pyscsi_init.settings import Settings

from .conftest import INITIATOR, TARGET, Script

OPERATIONAL = Stage.LOGIN_OPERATIONAL_NEGOTIATION


def test_login_001_first_request(script: type[Script]) -> None:
    """RFC 7143 6.3: the initial request names the initiator, the target and the session type."""
    talk = script()
    request = talk.request()
    assert request.encode()[0] == 0x43
    assert (request.current_stage, request.next_stage, request.transit) == (0, 1, True)
    assert (request.tsih, request.cid, request.cmd_sn) == (0, 3, 11)
    assert decode_pairs(request.data) == [
        ("InitiatorName", INITIATOR),
        ("TargetName", TARGET),
        ("SessionType", "Normal"),
        ("AuthMethod", "None"),
    ]


def test_login_008_names_are_sent_once(operational: Callable[..., Script]) -> None:
    talk = operational()
    talk.answer(transit=False)
    talk.answer()
    assert talk.machine.finished
    later = {key for request in talk.sent[1:] for key, _ in decode_pairs(request.data)}
    assert "MaxBurstLength" in later
    assert not {"InitiatorName", "TargetName", "SessionType"} & later


def test_login_003_one_request_at_a_time(script: type[Script]) -> None:
    talk = script()
    talk.request()
    assert talk.machine.requests() == []
    with pytest.raises(LocalProtocolError):
        _ = talk.machine.result


def test_login_003_another_tag(script: type[Script]) -> None:
    with pytest.raises(ProtocolError, match="Task Tag"):
        script().answer(initiator_task_tag=8)


def test_login_003_a_response_that_nobody_asked_for(operational: Callable[..., Script]) -> None:
    talk = operational()
    with pytest.raises(ProtocolError):
        talk.machine.receive(LoginResponse(initiator_task_tag=7, transit=True, next_stage=3))
    talk = operational()
    talk.answer()
    with pytest.raises(ProtocolError):
        talk.machine.receive(LoginResponse(initiator_task_tag=7))
    assert talk.machine.finished


def test_login_004_version(script: type[Script]) -> None:
    with pytest.raises(ProtocolError, match="version 1"):
        script().answer(version_active=1)
    with pytest.raises(LoginRejected, match="unsupported version") as caught:
        script().answer(version_active=1, status_class=2, status_detail=5)
    assert caught.value.status_detail == 5


def test_login_006_tsih_counts_in_the_final_response_only(
    operational: Callable[..., Script],
) -> None:
    talk = operational()
    talk.answer(transit=False, tsih=0x7777)
    talk.answer(tsih=0x1234, stat_sn=5)
    assert talk.machine.result.tsih == 0x1234
    assert talk.machine.result.response.stat_sn == 5
    assert all(request.tsih == 0 for request in talk.sent)


def test_login_007_no_tsih(operational: Callable[..., Script]) -> None:
    with pytest.raises(ProtocolError, match="TSIH"):
        operational().answer(tsih=0)


@pytest.mark.parametrize(
    "fields",
    [
        {"current_stage": 1},
        {"current_stage": 2},
        {"current_stage": 3},
        {"next_stage": 0},
        {"next_stage": 2},
        {"next_stage": 3},
    ],
)
def test_login_009_stages_in_the_security_stage(
    script: type[Script], fields: dict[str, int]
) -> None:
    with pytest.raises(ProtocolError, match="stage"):
        script().answer("AuthMethod=None", **fields)


@pytest.mark.parametrize(
    "fields", [{"current_stage": 0}, {"next_stage": 0}, {"next_stage": 1}, {"next_stage": 2}]
)
def test_login_009_stages_in_the_operational_stage(
    operational: Callable[..., Script], fields: dict[str, int]
) -> None:
    with pytest.raises(ProtocolError, match="stage"):
        operational().answer(**fields)


def test_login_009_both_good_paths(
    script: type[Script], operational: Callable[..., Script]
) -> None:
    talk = operational()
    assert (talk.request().current_stage, talk.last.next_stage) == (1, 3)
    straight = script(first_stage=OPERATIONAL)
    assert (straight.request().current_stage, straight.last.next_stage) == (1, 3)
    assert "AuthMethod" not in straight.pairs
    assert "MaxBurstLength" in straight.pairs
    assert straight.pairs["InitiatorName"] == INITIATOR
    straight = script(first_stage=OPERATIONAL)
    straight.answer()
    assert straight.machine.finished


def test_login_010_t_without_being_asked(
    script: type[Script], make_chap: Callable[..., Any]
) -> None:
    with pytest.raises(ProtocolError, match="without being asked"):
        script(chap=make_chap()).answer("AuthMethod=CHAP", transit=True, next_stage=1)


@pytest.mark.parametrize("rounds", [1, 6, 16])
def test_login_011_the_target_takes_its_time(
    operational: Callable[..., Script], rounds: int
) -> None:
    talk = operational()
    for _ in range(rounds):
        talk.answer(transit=False)
    assert talk.request().transit
    assert bytes(talk.last.data) == b""
    talk.machine.receive(
        LoginResponse(initiator_task_tag=7, transit=True, current_stage=1, next_stage=3, tsih=1)
    )
    assert talk.machine.finished


def test_login_011_the_target_takes_for_ever(operational: Callable[..., Script]) -> None:
    talk = operational()
    for _ in range(16):
        talk.answer(transit=False)
    with pytest.raises(ProtocolError, match="says nothing"):
        talk.answer(transit=False)


def test_login_011_the_target_talks_for_ever(operational: Callable[..., Script]) -> None:
    talk = operational()
    for number in range(126):
        talk.answer({f"X-com.example.{number}": "1"}, transit=False)
    with pytest.raises(ProtocolError, match="does not come to an end"):
        talk.answer({"X-com.example.last": "1"}, transit=False)


def test_login_012_a_key_split_anywhere(script: type[Script]) -> None:
    """RFC 7143 6.2: a response with C=1 is answered by a request with no data segment."""
    talk = script()
    talk.answer(b"TargetPortalGro", continue_=True, transit=False)
    talk.answer(b"upTag=", continue_=True, transit=False)
    for request in [talk.sent[1], talk.request()]:
        assert (bytes(request.data), request.transit, request.continue_) == (b"", False, False)
    talk.machine.receive(LoginResponse(initiator_task_tag=7, data=b"1\0AuthMethod=None\0"))
    talk.answer()
    talk.answer()
    assert talk.machine.result.parameters.target_portal_group_tag == 1


def test_login_013_a_long_text_of_ours(operational: Callable[..., Script]) -> None:
    talk = operational()
    keys = {f"X-com.example.{'k' * 40}{number}": "1" for number in range(180)}
    # The answers, NotUnderstood to every key, are longer than one PDU.
    data = encode_pairs(list(keys.items()))
    talk.answer(data[:8192], transit=False, continue_=True)
    talk.answer(data[8192:], transit=False)
    talk.answer()
    assert (talk.last.continue_, talk.last.transit, len(talk.last.data)) == (True, False, 8192)
    talk.answer()
    assert (talk.last.continue_, talk.last.transit) == (False, True)
    assert talk.machine.finished
    assert set(keys) <= set(talk.keys_sent)


@pytest.mark.parametrize("fields", [{"text": b"X=1\0"}, {"continue_": True}])
def test_login_013_an_answer_to_half_a_text(
    operational: Callable[..., Script], fields: dict[str, Any]
) -> None:
    talk = operational()
    keys = {f"X-com.example.{'k' * 40}{number}": "1" for number in range(120)}
    talk.answer(keys, transit=False)
    with pytest.raises(ProtocolError, match="before it has all"):
        talk.answer(**fields)


def test_login_014_c_and_t(script: type[Script]) -> None:
    with pytest.raises(ProtocolError, match="C and T"):
        script().answer(b"A=1\0", continue_=True, transit=True)


def test_login_015_8_kib_of_keys(operational: Callable[..., Script]) -> None:
    talk = operational()
    data = encode_pairs([("TargetAlias", "a" * 8100), ("MaxConnections", "1")])
    for start in range(0, len(data), 100):
        talk.answer(data[start : start + 100], continue_=True, transit=False)
    talk.answer(transit=False)
    talk.answer()
    assert len(talk.machine.result.parameters.target_alias) == 8100


def test_login_015_a_text_without_an_end(operational: Callable[..., Script]) -> None:
    talk = operational()
    for _ in range(8):
        talk.answer(bytes(8192), continue_=True, transit=False)
    with pytest.raises(ProtocolError, match="longer than 65536"):
        talk.answer(b"\0", continue_=True, transit=False)


def test_login_015_empty_parts_without_an_end(operational: Callable[..., Script]) -> None:
    talk = operational()
    for _ in range(126):
        talk.answer(continue_=True, transit=False)
    with pytest.raises(ProtocolError, match="does not come to an end"):
        talk.answer(continue_=True, transit=False)


def test_login_013_more_than_8192_bytes_in_one_response(operational: Callable[..., Script]) -> None:
    with pytest.raises(ProtocolError, match="8192"):
        operational().answer(bytes(8193), transit=False)


@pytest.mark.parametrize("data", [b"A=b", b"A\0", b"=b\0", b"K" * 64 + b"=1\0", b"A=\xff\0"])
def test_login_016_malformed_text(operational: Callable[..., Script], data: bytes) -> None:
    with pytest.raises(ProtocolError):
        operational().answer(data)


def test_login_017_a_key_twice_in_one_response_or_in_two(
    operational: Callable[..., Script],
) -> None:
    with pytest.raises(ProtocolError, match="twice"):
        operational().answer(b"MaxBurstLength=512\0MaxBurstLength=512\0", transit=False)
    talk = operational()
    talk.answer("MaxBurstLength=512", transit=False)
    with pytest.raises(ProtocolError, match="twice"):
        talk.answer("MaxBurstLength=512")


def test_login_018_keys_of_another_stage(
    script: type[Script], operational: Callable[..., Script]
) -> None:
    for key in ("MaxBurstLength=512", "MaxRecvDataSegmentLength=8192", "SendTargets=All"):
        with pytest.raises(ProtocolError, match="stage 0"):
            script().answer(key)
    for key in ("AuthMethod=None", "CHAP_A=5", "SRP_s=0x1", "SendTargets=All"):
        with pytest.raises(ProtocolError, match="stage 1"):
            operational().answer(key)
    talk = script()
    talk.request()
    assert set(talk.pairs) == {"InitiatorName", "TargetName", "SessionType", "AuthMethod"}


def test_login_019_proposals_are_answered(script: type[Script]) -> None:
    talk = script(discovery=True, target_name=None).security_done()
    talk.answer("MaxOutstandingR2T=4 DataPDUInOrder=No FirstBurstLength=4096", transit=False)
    talk.answer()
    assert {key: talk.pairs[key] for key in talk.pairs} == {
        "MaxOutstandingR2T": "Irrelevant",
        "DataPDUInOrder": "Irrelevant",
        "FirstBurstLength": "Irrelevant",
    }
    assert talk.last.transit


def test_login_019_proposals_with_t(script: type[Script]) -> None:
    talk = script(discovery=True, target_name=None).security_done()
    with pytest.raises(ProtocolError, match="ends the stage"):
        talk.answer("MaxOutstandingR2T=4")


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("0", 0),
        ("1", 1),
        ("65535", 65535),
        ("0x0001", 1),
        (None, None),
    ],
)
def test_login_020_portal_group_tag(
    script: type[Script], text: str | None, tag: int | None
) -> None:
    talk = script()
    talk.answer({"AuthMethod": "None"} | ({} if text is None else {"TargetPortalGroupTag": text}))
    talk.answer()
    assert talk.machine.result.parameters.target_portal_group_tag == tag


def test_login_028_reinstatement_begins_from_the_start(operational: Callable[..., Script]) -> None:
    first = operational()
    first.answer("MaxBurstLength=512")
    second = operational()
    second.answer()
    assert second.sent[0].encode() == first.sent[0].encode()
    assert bytes(second.last.data) == bytes(first.last.data)
    assert second.machine.result.parameters.max_burst_length == 262144


def test_login_029_another_connection_of_a_session(script: type[Script]) -> None:
    session = Parameters(max_burst_length=4096, initial_r2t=False, target_alias="old")
    talk = script(Settings(header_digest=("CRC32C",)), tsih=0x55, leading_parameters=session)
    talk.answer("AuthMethod=None TargetPortalGroupTag=2")
    assert "SessionType" not in talk.pairs
    talk.answer("HeaderDigest=CRC32C MaxRecvDataSegmentLength=4096", tsih=0)
    assert set(talk.pairs) == {"HeaderDigest", "DataDigest", "MaxRecvDataSegmentLength"}
    result = talk.machine.result
    assert result.tsih == 0x55
    assert all(request.tsih == 0x55 for request in talk.sent)
    assert result.parameters == Parameters(
        header_digest=True,
        max_burst_length=4096,
        initial_r2t=False,
        max_recv_data_segment_length=262144,
        target_max_recv_data_segment_length=4096,
        target_alias="old",
        target_portal_group_tag=2,
    )


def test_login_029_another_session_than_was_asked_for(script: type[Script]) -> None:
    """What is in flight would go on in it, without a barrier."""
    talk = script(tsih=0x55, leading_parameters=Parameters())
    talk.answer("AuthMethod=None")
    with pytest.raises(ProtocolError, match="asked for session 85, got 86"):
        talk.answer("MaxRecvDataSegmentLength=4096", tsih=0x56)


def test_login_030_nothing_more_after_a_failure(operational: Callable[..., Script]) -> None:
    talk = operational()
    with pytest.raises(ProtocolError):
        talk.answer("MaxConnections=0")
    assert talk.machine.requests() == []
    assert not talk.machine.finished
    with pytest.raises(ProtocolError):
        talk.machine.receive(
            LoginResponse(initiator_task_tag=7, transit=True, current_stage=1, next_stage=3, tsih=1)
        )


@pytest.mark.parametrize(
    "arguments",
    [
        {"target_name": None},
        {"first_stage": Stage.FULL_FEATURE_PHASE},
        {"tsih": 5},
        {"leading_parameters": Parameters()},
        {"node_architecture": "x" * 256},
    ],
)
def test_arguments_that_contradict_each_other(
    script: type[Script], arguments: dict[str, Any]
) -> None:
    with pytest.raises(LocalProtocolError):
        script(**arguments)
