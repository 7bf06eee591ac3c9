# SPDX-License-Identifier: Apache-2.0
"""The target's answers to operational keys, held against RFC 7143 13."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import ProtocolError
from pyscsi_init.testing.negotiation import Negotiated, Negotiation
from pyscsi_init.testing.settings import TargetSettings


def negotiate(
    settings: TargetSettings, *pairs: tuple[str, str]
) -> tuple[dict[str, str], Negotiated]:
    negotiation = Negotiation(settings, discovery=False)
    return dict(negotiation.receive(list(pairs))), negotiation.result


@pytest.mark.parametrize(
    ("key", "field", "own", "offer", "answer"),
    [
        ("MaxBurstLength", "max_burst_length", 4096, "8192", "4096"),
        ("MaxBurstLength", "max_burst_length", 8192, "4096", "4096"),
        ("MaxBurstLength", "max_burst_length", 8192, "0x1000", "4096"),
        ("DefaultTime2Wait", "default_time2wait", 2, "0", "2"),
        ("DefaultTime2Wait", "default_time2wait", 2, "5", "5"),
        ("DefaultTime2Retain", "default_time2retain", 0, "20", "0"),
        ("InitialR2T", "initial_r2t", False, "No", "No"),
        ("InitialR2T", "initial_r2t", False, "Yes", "Yes"),
        ("InitialR2T", "initial_r2t", True, "No", "Yes"),
        ("ImmediateData", "immediate_data", True, "Yes", "Yes"),
        ("ImmediateData", "immediate_data", True, "No", "No"),
        ("ImmediateData", "immediate_data", False, "Yes", "No"),
        ("MaxOutstandingR2T", "max_outstanding_r2t", 4, "16", "4"),
        ("ErrorRecoveryLevel", "error_recovery_level", 0, "2", "0"),
        ("DataPDUInOrder", "data_pdu_in_order", True, "No", "Yes"),
        ("MaxConnections", "max_connections", 1, "8", "1"),
    ],
)
def test_result_functions(key: str, field: str, own: object, offer: str, answer: str) -> None:
    answers, result = negotiate(TargetSettings(**{field: own}), (key, offer))  # type: ignore[arg-type]
    assert answers == {key: answer}
    expected = answer == "Yes" if answer in ("Yes", "No") else int(answer)
    assert getattr(result, field) == expected


def test_the_initiators_order_of_digests_decides() -> None:
    answers, result = negotiate(TargetSettings(), ("HeaderDigest", "CRC32C,None"))
    assert answers == {"HeaderDigest": "CRC32C"}
    assert result.header_digest
    assert not result.data_digest


def test_no_digest_in_common_is_rejected() -> None:
    answers, result = negotiate(TargetSettings(data_digest=("None",)), ("DataDigest", "CRC32C"))
    assert answers == {"DataDigest": "Reject"}
    assert not result.data_digest


def test_declarations_are_not_answered() -> None:
    answers, result = negotiate(TargetSettings(), ("MaxRecvDataSegmentLength", "512"))
    assert answers == {}
    assert result.initiator_max_recv_data_segment_length == 512


@pytest.mark.parametrize(
    ("key", "answer"),
    [
        ("X-com.example.unknown", "NotUnderstood"),
        ("OFMarker", "No"),
        ("OFMarkInt", "Reject"),
        ("TaskReporting", "RFC3720"),
    ],
)
def test_other_keys(key: str, answer: str) -> None:
    value = "RFC3720,FastAbort" if key == "TaskReporting" else "1"
    assert negotiate(TargetSettings(), (key, value))[0] == {key: answer}


def test_a_key_may_come_once() -> None:
    with pytest.raises(ProtocolError, match="twice"):
        negotiate(TargetSettings(), ("InitialR2T", "Yes"), ("InitialR2T", "Yes"))


@pytest.mark.parametrize("value", ["yes", "1", "True", ""])
def test_a_boolean_is_yes_or_no(value: str) -> None:
    with pytest.raises(ProtocolError):
        negotiate(TargetSettings(), ("ImmediateData", value))


def test_what_is_out_of_range_is_rejected_and_the_default_holds() -> None:
    answers, result = negotiate(TargetSettings(), ("MaxBurstLength", "511"))
    assert answers == {"MaxBurstLength": "Reject"}
    assert result.max_burst_length == 262144


def test_the_target_offers_what_the_default_would_break() -> None:
    negotiation = Negotiation(
        TargetSettings(
            max_burst_length=4096,
            first_burst_length=2048,
            max_recv_data_segment_length=1024,
            default_time2retain=20,
        ),
        discovery=False,
    )
    assert dict(negotiation.offers()) == {
        "MaxRecvDataSegmentLength": "1024",
        "MaxBurstLength": "4096",
        "FirstBurstLength": "2048",
    }
    assert negotiation.waits_for_answers
    assert negotiation.offers() == []
    assert negotiation.receive([("MaxBurstLength", "1024"), ("FirstBurstLength", "1024")]) == []
    assert not negotiation.waits_for_answers
    assert negotiation.result.max_burst_length == 1024


def test_in_a_discovery_session_data_keys_are_irrelevant() -> None:
    negotiation = Negotiation(TargetSettings(), discovery=True)
    answers = dict(negotiation.receive([("MaxBurstLength", "4096"), ("ErrorRecoveryLevel", "2")]))
    assert answers == {"MaxBurstLength": "Irrelevant", "ErrorRecoveryLevel": "0"}


def test_an_answer_can_be_a_lie() -> None:
    settings = TargetSettings(answers={"MaxBurstLength": "1048577", "InitialR2T": None})
    answers, result = negotiate(settings, ("MaxBurstLength", "4096"), ("InitialR2T", "No"))
    assert answers == {"MaxBurstLength": "1048577"}
    assert (result.max_burst_length, result.initial_r2t) == (4096, False)
