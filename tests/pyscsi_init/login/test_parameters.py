# SPDX-License-Identifier: Apache-2.0
"""Offers from settings, and parameters from a negotiation (RFC 7143 13)."""

from __future__ import annotations

import pytest

from pyscsi_init.login.keys import KEYS, Scope, Use
from pyscsi_init.login.negotiation import Negotiation
from pyscsi_init.login.parameters import (
    Parameters,
    negotiated_parameters,
    operational_keys,
    own_values,
)
from pyscsi_init.settings import Settings


def test_parameters_of_an_empty_negotiation_are_the_defaults() -> None:
    assert negotiated_parameters(Negotiation({})) == Parameters()


@pytest.mark.parametrize("discovery", [False, True])
def test_every_offer_is_legal(discovery: bool) -> None:
    for settings in (
        Settings(),
        Settings(max_recv_data_segment_length=512, max_burst_length=2**24 - 1),
    ):
        own = own_values(settings, discovery=discovery)
        for name in operational_keys(discovery=discovery, leading=True):
            KEYS[name].parse(own[name])
            assert not (discovery and KEYS[name].irrelevant_in_discovery)
        assert int(own["FirstBurstLength"]) <= int(own["MaxBurstLength"])


def test_login_029_further_connections_offer_no_leading_key() -> None:
    for name in operational_keys(discovery=False, leading=False):
        assert KEYS[name].scope is Scope.CONNECTION
        assert KEYS[name].use is not Use.LEADING_ONLY


@pytest.mark.conformance("NEG-020")
def test_neg_020_one_r2t_with_recovery_and_order() -> None:
    own = {"ErrorRecoveryLevel": "1", "MaxOutstandingR2T": "8", "DataSequenceInOrder": "Yes"}
    for in_order, outstanding in (("Yes", 1), ("No", 4)):
        negotiation = Negotiation(own | {"DataSequenceInOrder": in_order})
        for name, answer in (
            ("ErrorRecoveryLevel", "1"),
            ("MaxOutstandingR2T", "4"),
            ("DataSequenceInOrder", in_order),
        ):
            negotiation.offer(name)
            negotiation.receive(name, answer)
        parameters = negotiated_parameters(negotiation)
        assert parameters.error_recovery_level == 1
        assert parameters.max_outstanding_r2t == outstanding


def test_as_keys() -> None:
    keys = Parameters(
        header_digest=True, target_alias="box", target_portal_group_tag=0, initial_r2t=False
    ).as_keys()
    assert keys["HeaderDigest"] == "CRC32C"
    assert keys["DataDigest"] == "None"
    assert keys["InitialR2T"] == "No"
    assert (keys["TargetAlias"], keys["TargetPortalGroupTag"]) == ("box", "0")
    assert not {"TargetAlias", "TargetPortalGroupTag"} & set(Parameters().as_keys())
    assert set(keys) - {"TargetMaxRecvDataSegmentLength"} <= set(KEYS)
