# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 6.2 Text Mode Negotiation, key by key."""

from __future__ import annotations

import pytest

from pyscsi_init.errors import LocalProtocolError, ProtocolError
from pyscsi_init.login.keys import KEYS
from pyscsi_init.login.negotiation import Negotiation
from pyscsi_init.login.parameters import operational_keys, own_values
from pyscsi_init.settings import Settings


def offered(discovery: bool = False, **settings: object) -> Negotiation:
    own = own_values(Settings(**settings), discovery=discovery)  # type: ignore[arg-type]
    negotiation = Negotiation(own, discovery=discovery)
    for name in operational_keys(discovery=discovery, leading=True):
        negotiation.offer(name)
    return negotiation


@pytest.mark.parametrize(
    ("name", "answer", "in_force"),
    [
        ("MaxBurstLength", "Reject", "262144"),
        ("MaxBurstLength", "Irrelevant", "262144"),
        ("FirstBurstLength", "Irrelevant", "65536"),
        ("MaxOutstandingR2T", "Reject", "1"),
        ("ImmediateData", "Irrelevant", "Yes"),
        ("HeaderDigest", "Reject", "None"),
        ("DefaultTime2Retain", "Reject", "20"),
        ("TaskReporting", "NotUnderstood", "RFC3720"),
        ("iSCSIProtocolLevel", "NotUnderstood", "1"),
        ("MaxBurstLength", "0x8000", "32768"),
        ("InitialR2T", "Yes", "Yes"),
        ("InitialR2T", "No", "No"),
    ],
)
def test_neg_003_answers_and_what_is_in_force(name: str, answer: str, in_force: str) -> None:
    negotiation = offered()
    assert negotiation.receive(name, answer) is None
    assert negotiation.in_force(name) == in_force


def test_neg_006_not_understood_for_a_key_of_the_standard() -> None:
    for name in operational_keys(discovery=False, leading=True):
        tolerated = name in ("TaskReporting", "iSCSIProtocolLevel")
        if tolerated:
            offered().receive(name, "NotUnderstood")
        else:
            with pytest.raises(ProtocolError):
                offered().receive(name, "NotUnderstood")


@pytest.mark.parametrize(
    ("settings", "name", "in_force"),
    [
        ({"initial_r2t": False}, "InitialR2T", "Yes"),
        ({"initial_r2t": True}, "InitialR2T", "Yes"),
        ({"immediate_data": False}, "ImmediateData", "No"),
        ({"immediate_data": True}, "ImmediateData", "Yes"),
        ({"max_burst_length": 2**20}, "MaxBurstLength", "262144"),
        ({"default_time2retain": 0}, "DefaultTime2Retain", "20"),
        ({"max_outstanding_r2t": 8}, "MaxOutstandingR2T", "1"),
        ({"header_digest": ("CRC32C",)}, "HeaderDigest", "None"),
    ],
)
def test_neg_008_an_unanswered_offer_is_not_in_force(
    settings: dict[str, object], name: str, in_force: str
) -> None:
    assert offered(**settings).in_force(name) == in_force


@pytest.mark.parametrize("word", ["Reject", "Irrelevant", "NotUnderstood"])
@pytest.mark.parametrize("name", ["MaxConnections", "FooBar", "OFMarker", "AuthMethod"])
def test_neg_007_reserved_words_are_no_proposals(name: str, word: str) -> None:
    negotiation = Negotiation(own_values(Settings()))
    with pytest.raises(ProtocolError):
        negotiation.receive(name, word)


def test_neg_005_unknown_keys() -> None:
    negotiation = offered()
    for name in ("X-com.example.foo", "FooBar"):
        assert negotiation.receive(name, "1") == (name, "NotUnderstood")
        with pytest.raises(ProtocolError):
            negotiation.receive(name, "1")


def test_login_017_a_key_comes_once() -> None:
    negotiation = offered()
    negotiation.receive("MaxBurstLength", "1024")
    with pytest.raises(ProtocolError, match="twice"):
        negotiation.receive("MaxBurstLength", "1024")
    negotiation.receive("TargetAddress", "a")
    negotiation.receive("TargetAddress", "b")
    with pytest.raises(LocalProtocolError):
        negotiation.offer("MaxBurstLength")


@pytest.mark.parametrize(
    ("name", "proposal", "answer", "in_force"),
    [
        ("MaxOutstandingR2T", "4", "4", "4"),
        ("MaxOutstandingR2T", "16", "8", "8"),
        ("DataPDUInOrder", "No", "Yes", "Yes"),
        ("FirstBurstLength", "4096", "4096", "4096"),
        ("MaxConnections", "9", "1", "1"),
        ("InitialR2T", "No", "No", "No"),
        ("ErrorRecoveryLevel", "2", "0", "0"),
        ("DefaultTime2Wait", "0", "2", "2"),
        ("HeaderDigest", "foo,CRC32C,None", "CRC32C", "CRC32C"),
        ("DataDigest", "foo,bar", "Reject", "None"),
        ("IFMarker", "Yes", "Reject", None),
        ("OFMarker", "No", "Reject", None),
        ("OFMarkInt", "2048~8192", "Reject", None),
        ("IFMarkInt", "2048~8192", "Reject", None),
    ],
)
def test_login_019_proposals_of_the_target(
    name: str, proposal: str, answer: str, in_force: str | None
) -> None:
    own = own_values(Settings(header_digest=("None", "CRC32C")))
    negotiation = Negotiation(own)
    assert negotiation.receive(name, proposal) == (name, answer)
    if in_force is not None:
        assert negotiation.in_force(name) == in_force
    assert negotiation.was_sent(name)
    with pytest.raises(ProtocolError):
        negotiation.receive(name, proposal)


@pytest.mark.parametrize(
    ("name", "proposal"),
    [
        ("MaxOutstandingR2T", "0"),
        ("DataPDUInOrder", "no"),
        ("MaxBurstLength", "1~2"),
        ("HeaderDigest", ""),
        ("ErrorRecoveryLevel", "3"),
        ("MaxRecvDataSegmentLength", "511"),
        ("MaxRecvDataSegmentLength", "16777216"),
        ("MaxRecvDataSegmentLength", "NotUnderstood"),
        ("TargetPortalGroupTag", "65536"),
        ("InitiatorName", "iqn.2001-04.com.example:x"),
        ("SessionType", "Normal"),
        ("SendTargets", "All"),
    ],
)
def test_neg_009_proposals_that_cannot_be(name: str, proposal: str) -> None:
    with pytest.raises(ProtocolError):
        Negotiation(own_values(Settings())).receive(name, proposal)


def test_neg_022_discovery_answers_level_0_and_irrelevant() -> None:
    negotiation = Negotiation(own_values(Settings(), discovery=True), discovery=True)
    assert negotiation.receive("ErrorRecoveryLevel", "2") == ("ErrorRecoveryLevel", "0")
    for name, row in KEYS.items():
        if row.irrelevant_in_discovery:
            value = {"boolean-value": "Yes", "numerical-value": "1024"}.get(
                row.kind.value, "RFC3720"
            )
            if name == "iSCSIProtocolLevel":
                value = "1"
            assert negotiation.receive(name, value) == (name, "Irrelevant")


@pytest.mark.parametrize("value", ["512", "8192", "16777215", "0x1000"])
def test_neg_016_the_target_declares_its_own_length(value: str) -> None:
    negotiation = offered()
    assert negotiation.receive("MaxRecvDataSegmentLength", value) is None
    assert negotiation.declared_number("MaxRecvDataSegmentLength") == int(value, 0)


@pytest.mark.parametrize("answer", ["No", "Reject", "Irrelevant", "NotUnderstood"])
def test_neg_025_answers_to_a_legacy_marker_offer(answer: str) -> None:
    negotiation = Negotiation({})
    negotiation.send("IFMarker", "No")
    assert negotiation.receive("IFMarker", answer) is None


@pytest.mark.parametrize("name", ["X#NodeArchitecture", "InitiatorAlias", "X-com.example.key"])
@pytest.mark.parametrize("answer", ["NotUnderstood", "Reject"])
def test_neg_026_informational_keys_may_be_refused(name: str, answer: str) -> None:
    negotiation = Negotiation({})
    negotiation.send(name, "something")
    assert negotiation.receive(name, answer) is None


@pytest.mark.parametrize("answer", ["NotUnderstood", "Reject", "iqn.2001-04.com.example:x"])
def test_neg_006_answers_to_a_name(answer: str) -> None:
    negotiation = Negotiation({})
    negotiation.send("TargetName", "iqn.2001-04.com.example:disk")
    with pytest.raises(ProtocolError):
        negotiation.receive("TargetName", answer)


def test_login_029_leading_only_keys_on_another_connection() -> None:
    negotiation = Negotiation(own_values(Settings()), leading=False)
    with pytest.raises(ProtocolError, match="leading"):
        negotiation.receive("MaxBurstLength", "4096")
    assert negotiation.receive("HeaderDigest", "None") == ("HeaderDigest", "None")


def test_a_key_without_default_has_nothing_in_force() -> None:
    with pytest.raises(LocalProtocolError):
        Negotiation({}).in_force("TargetAlias")
