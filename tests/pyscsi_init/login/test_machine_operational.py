# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 13: the operational keys, in whole logins; and targets as they are in the field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pyscsi_init.errors import NegotiationFailed, ProtocolError
from pyscsi_init.login import Parameters
from pyscsi_init.settings import Settings

from .conftest import Script

Operational = Callable[..., Script]


def finish(talk: Script, text: str) -> Parameters:
    talk.answer(text)
    return talk.machine.result.parameters


def test_offers_are_explicit(operational: Operational) -> None:
    talk = operational()
    talk.request()
    assert talk.pairs == {
        "HeaderDigest": "None",
        "DataDigest": "None",
        "MaxRecvDataSegmentLength": "262144",
        "MaxConnections": "1",
        "InitialR2T": "No",
        "ImmediateData": "Yes",
        "MaxBurstLength": "1048576",
        "FirstBurstLength": "262144",
        "DefaultTime2Wait": "2",
        "DefaultTime2Retain": "0",
        "MaxOutstandingR2T": "8",
        "DataPDUInOrder": "Yes",
        "DataSequenceInOrder": "Yes",
        "ErrorRecoveryLevel": "0",
        "TaskReporting": "ResponseFence,RFC3720",
        "iSCSIProtocolLevel": "1",
    }


def test_neg_008_a_target_that_answers_nothing(operational: Operational) -> None:
    parameters = finish(operational(), "")
    assert parameters == Parameters(max_recv_data_segment_length=262144, target_portal_group_tag=1)


def test_a_target_that_takes_everything(operational: Operational) -> None:
    talk = operational(Settings(header_digest=("CRC32C", "None"), data_digest=("None", "CRC32C")))
    parameters = finish(
        talk,
        "HeaderDigest=CRC32C DataDigest=CRC32C MaxRecvDataSegmentLength=16777215 MaxConnections=1 "
        "InitialR2T=No ImmediateData=Yes MaxBurstLength=1048576 FirstBurstLength=262144 "
        "DefaultTime2Wait=5 DefaultTime2Retain=0 MaxOutstandingR2T=8 DataPDUInOrder=Yes "
        "DataSequenceInOrder=Yes ErrorRecoveryLevel=0 TaskReporting=ResponseFence "
        "iSCSIProtocolLevel=1 TargetAlias=box",
    )
    assert parameters == Parameters(
        header_digest=True,
        data_digest=True,
        max_recv_data_segment_length=262144,
        target_max_recv_data_segment_length=16777215,
        initial_r2t=False,
        max_burst_length=1048576,
        first_burst_length=262144,
        default_time2wait=5,
        default_time2retain=0,
        max_outstanding_r2t=8,
        task_reporting="ResponseFence",
        target_alias="box",
        target_portal_group_tag=1,
    )
    assert parameters.as_keys()["HeaderDigest"] == "CRC32C"


@pytest.mark.parametrize("name", ["HeaderDigest", "DataDigest"])
@pytest.mark.parametrize(
    ("offer", "answer", "on"),
    [
        (("None",), "None", False),
        (("None",), None, False),
        (("None",), "Reject", False),
        (("CRC32C",), "CRC32C", True),
        (("None", "CRC32C"), "CRC32C", True),
        (("None", "CRC32C"), "None", False),
        (("CRC32C", "None"), "CRC32C", True),
        (("CRC32C", "None"), "None", False),
        (("CRC32C", "None"), None, False),
        (("CRC32C", "None"), "Reject", False),
        (("None",), "CRC32C", ProtocolError),
        (("CRC32C",), "None", ProtocolError),
        (("CRC32C",), "Reject", NegotiationFailed),
        (("CRC32C",), "Irrelevant", NegotiationFailed),
        (("CRC32C",), None, NegotiationFailed),
        (("CRC32C", "None"), "NotUnderstood", ProtocolError),
    ],
)
def test_neg_012_digests(
    operational: Operational, name: str, offer: tuple[str, ...], answer: str | None, on: Any
) -> None:
    field = {"HeaderDigest": "header_digest", "DataDigest": "data_digest"}[name]
    talk = operational(Settings(**{field: offer}))
    text = "" if answer is None else f"{name}={answer}"
    if isinstance(on, bool):
        assert getattr(finish(talk, text), field) is on
        return
    with pytest.raises(on, match=name) as caught:
        talk.answer(text)
    if on is NegotiationFailed:
        assert caught.value.key == name
    assert not talk.machine.finished


@pytest.mark.parametrize(
    ("offer", "answer", "result"),
    [
        (False, "No", False),
        (False, "Yes", True),
        (False, None, True),
        (True, "Yes", True),
        (True, None, True),
        (True, "No", ProtocolError),
        (False, "no", ProtocolError),
        (False, "0", ProtocolError),
    ],
)
def test_neg_014_initial_r2t(
    operational: Operational, offer: bool, answer: str | None, result: Any
) -> None:
    talk = operational(Settings(initial_r2t=offer))
    text = "" if answer is None else f"InitialR2T={answer}"
    if isinstance(result, bool):
        assert finish(talk, text).initial_r2t is result
    else:
        with pytest.raises(result):
            talk.answer(text)


@pytest.mark.parametrize(
    ("offer", "answer", "result"),
    [
        (True, "Yes", True),
        (True, "No", False),
        (True, None, True),
        (False, "No", False),
        (False, None, False),
        (False, "Yes", ProtocolError),
        (True, "True", ProtocolError),
        (True, "1", ProtocolError),
    ],
)
def test_neg_015_immediate_data(
    operational: Operational, offer: bool, answer: str | None, result: Any
) -> None:
    talk = operational(Settings(immediate_data=offer))
    text = "" if answer is None else f"ImmediateData={answer}"
    if isinstance(result, bool):
        assert finish(talk, text).immediate_data is result
    else:
        with pytest.raises(result):
            talk.answer(text)


def test_neg_004_irrelevant_first_burst(operational: Operational) -> None:
    parameters = finish(
        operational(), "InitialR2T=Yes ImmediateData=No FirstBurstLength=Irrelevant"
    )
    assert (parameters.initial_r2t, parameters.immediate_data) == (True, False)


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("MaxRecvDataSegmentLength=512", "target_max_recv_data_segment_length", 512),
        ("MaxRecvDataSegmentLength=16777215", "target_max_recv_data_segment_length", 2**24 - 1),
        ("", "target_max_recv_data_segment_length", 8192),
        ("MaxBurstLength=512", "max_burst_length", 512),
        ("MaxBurstLength=0x40000", "max_burst_length", 262144),
        ("MaxBurstLength=Reject", "max_burst_length", 262144),
        ("DefaultTime2Wait=5", "default_time2wait", 5),
        ("DefaultTime2Retain=0", "default_time2retain", 0),
        ("MaxOutstandingR2T=1", "max_outstanding_r2t", 1),
        ("TaskReporting=RFC3720", "task_reporting", "RFC3720"),
        ("TaskReporting=NotUnderstood", "task_reporting", "RFC3720"),
        ("iSCSIProtocolLevel=NotUnderstood", "iscsi_protocol_level", 1),
        ("iSCSIProtocolLevel=0", "iscsi_protocol_level", 0),
    ],
)
def test_neg_016_to_024_results(
    operational: Operational, text: str, field: str, value: object
) -> None:
    assert getattr(finish(operational(), text), field) == value


@pytest.mark.parametrize(
    "text",
    [
        "MaxRecvDataSegmentLength=256",
        "MaxRecvDataSegmentLength=16777216",
        "MaxBurstLength=1048577",
        "MaxBurstLength=262144~524288",
        "MaxBurstLength=18446744073709551616",
        "MaxBurstLength=NotUnderstood",
        "FirstBurstLength=100",
        "DefaultTime2Wait=1",
        "DefaultTime2Wait=3601",
        "DefaultTime2Retain=1",
        "MaxOutstandingR2T=0",
        "MaxConnections=4",
        "ErrorRecoveryLevel=3",
        "DataPDUInOrder=No",
        "TaskReporting=FastAbort",
        "iSCSIProtocolLevel=2",
        "InitiatorName=iqn.2001-04.com.example:x",
    ],
)
def test_neg_010_answers_that_cannot_be(operational: Operational, text: str) -> None:
    talk = operational()
    with pytest.raises(ProtocolError, match=text.partition("=")[0]):
        talk.answer(text)
    assert talk.machine.requests() == []


def test_neg_023_fast_abort_when_offered(operational: Operational) -> None:
    talk = operational(task_reporting=("FastAbort", "ResponseFence", "RFC3720"), protocol_level=2)
    parameters = finish(talk, "TaskReporting=FastAbort iSCSIProtocolLevel=2")
    assert (parameters.task_reporting, parameters.iscsi_protocol_level) == ("FastAbort", 2)


def test_neg_018_first_burst_is_clamped_to_max_burst(operational: Operational) -> None:
    parameters = finish(operational(), "MaxBurstLength=4096 FirstBurstLength=65536")
    assert (parameters.max_burst_length, parameters.first_burst_length) == (4096, 4096)
    assert finish(operational(), "MaxBurstLength=4096").first_burst_length == 4096


def test_neg_005_unknown_keys_are_answered(operational: Operational) -> None:
    talk = operational()
    talk.answer("X-com.example.foo=1 FooBar=2", transit=False)
    talk.answer()
    assert talk.pairs == {"X-com.example.foo": "NotUnderstood", "FooBar": "NotUnderstood"}
    assert talk.machine.finished


def test_neg_025_markers_are_rejected(operational: Operational) -> None:
    talk = operational()
    talk.answer("IFMarker=Yes OFMarkInt=2048~8192", transit=False)
    talk.answer()
    assert talk.pairs == {"IFMarker": "Reject", "OFMarkInt": "Reject"}


def test_neg_026_aliases_and_architecture(script: type[Script]) -> None:
    talk = script(initiator_alias="Rechner Süd", node_architecture="ExampleOS/1")
    talk.answer({"AuthMethod": "None", "TargetAlias": "Größe" * 40})
    assert talk.pairs["InitiatorAlias"] == "Rechner Süd"
    talk.answer({"X#NodeArchitecture": "NotUnderstood"})
    assert talk.pairs["X#NodeArchitecture"] == "ExampleOS/1"
    assert talk.machine.result.parameters.target_alias == "Größe" * 40


def test_quirk_08_legal_lengths_in_multiples_of_four(operational: Operational) -> None:
    talk = operational(
        Settings(
            max_recv_data_segment_length=16777215,
            max_burst_length=16777215,
            first_burst_length=70001,
            immediate_data=False,
            initial_r2t=True,
        )
    )
    talk.request()
    assert talk.pairs["MaxBurstLength"] == talk.pairs["MaxRecvDataSegmentLength"] == "16777212"
    assert talk.pairs["FirstBurstLength"] == "70000"


def test_disc_001_keys_of_a_discovery_session(script: type[Script]) -> None:
    talk = script(
        Settings(header_digest=("CRC32C",), max_recv_data_segment_length=8192),
        discovery=True,
        target_name=None,
    )
    talk.answer("AuthMethod=None")
    assert talk.pairs["SessionType"] == "Discovery"
    assert "TargetName" not in talk.pairs
    talk.answer("HeaderDigest=None DataDigest=None MaxRecvDataSegmentLength=8192")
    assert talk.pairs == {
        "HeaderDigest": "None",
        "DataDigest": "None",
        "MaxRecvDataSegmentLength": "32768",
        "DefaultTime2Wait": "2",
        "DefaultTime2Retain": "0",
        "ErrorRecoveryLevel": "0",
    }
    assert talk.machine.result.parameters.max_recv_data_segment_length == 32768


def test_quirk_11_freebsd_ctld(operational: Operational) -> None:
    talk = operational()
    parameters = finish(
        talk,
        "HeaderDigest=None DataDigest=None MaxConnections=1 InitialR2T=Yes ImmediateData=Yes "
        "MaxBurstLength=1048576 FirstBurstLength=131072 MaxOutstandingR2T=1 DefaultTime2Wait=2 "
        "DefaultTime2Retain=0 ErrorRecoveryLevel=0 DataPDUInOrder=Yes DataSequenceInOrder=Yes "
        "TaskReporting=NotUnderstood iSCSIProtocolLevel=NotUnderstood "
        "MaxRecvDataSegmentLength=131072",
    )
    assert parameters.target_max_recv_data_segment_length == 131072


def test_quirk_11_irrelevant_in_discovery(script: type[Script]) -> None:
    talk = script(discovery=True, target_name=None).security_done()
    talk.answer(
        "HeaderDigest=None DataDigest=None DefaultTime2Wait=2 DefaultTime2Retain=0 "
        "ErrorRecoveryLevel=0",
        tsih=0xBADD,
    )
    assert talk.machine.result.tsih == 0xBADD


def test_quirk_39_tgt(operational: Operational) -> None:
    """What tgt 1.0.85 answers, MaxRecvDataSegmentLength not among it (trap 8)."""
    parameters = finish(
        operational(),
        "HeaderDigest=None DataDigest=None MaxConnections=1 InitialR2T=Yes ImmediateData=Yes "
        "MaxBurstLength=262144 FirstBurstLength=65536 DefaultTime2Wait=2 DefaultTime2Retain=0 "
        "MaxOutstandingR2T=1 DataPDUInOrder=Yes DataSequenceInOrder=Yes ErrorRecoveryLevel=0 "
        "TaskReporting=NotUnderstood iSCSIProtocolLevel=NotUnderstood",
    )
    assert parameters.target_max_recv_data_segment_length == 8192
    assert parameters.default_time2retain == 0


def test_quirk_40_istgt_declares_what_looks_like_an_echo(operational: Operational) -> None:
    parameters = finish(operational(), "MaxRecvDataSegmentLength=262144")
    assert parameters.target_max_recv_data_segment_length == 262144


def test_quirk_38_private_keys_in_any_response(
    script: type[Script], operational: Operational
) -> None:
    talk = script()
    talk.answer("AuthMethod=None X-com.cisco.protocol=draft20-final")
    talk.answer("X-com.cisco.PingTimeout=5 IFMarker=No OFMarker=No")
    assert talk.machine.finished
