# SPDX-License-Identifier: Apache-2.0
"""The policy of the security stage, apart from PDUs and stages."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyscsi_init.errors import ProtocolError, TargetAuthenticationFailed
from pyscsi_init.login.negotiation import Negotiation
from pyscsi_init.login.security import AUTH_METHOD, SecurityNegotiation
from pyscsi_init.secret import Chap, Secret


def negotiated(chap: Chap | None) -> SecurityNegotiation:
    method = SecurityNegotiation.method(chap)
    negotiation = Negotiation({AUTH_METHOD: method})
    security = SecurityNegotiation(chap, negotiation, lambda length: b"r" * length)
    negotiation.offer(AUTH_METHOD)
    negotiation.receive(AUTH_METHOD, method)
    return security


def test_sec_009_the_stage_ends_when_every_authentication_is_done(
    make_chap: Callable[..., Chap],
) -> None:
    security = negotiated(make_chap())
    for keys in ({}, {"CHAP_A": "5", "CHAP_I": "1", "CHAP_C": "0x00"}):
        assert not security.may_transit
        with pytest.raises(ProtocolError, match="without authentication"):
            security.check_complete()
        security.receive(keys)
    assert security.may_transit
    security.check_complete()


def test_sec_012_the_stage_does_not_end_before_the_targets_proof(
    make_chap: Callable[..., Chap],
) -> None:
    security = negotiated(make_chap(mutual_secret=Secret("another-96-bits-min")))
    assert security.mutual
    security.receive({})
    security.receive({"CHAP_A": "5", "CHAP_I": "1", "CHAP_C": "0x00"})
    assert security.may_transit
    assert security.response_sent
    with pytest.raises(TargetAuthenticationFailed):
        security.check_complete()


def test_without_credentials_there_is_nothing_to_complete() -> None:
    security = negotiated(None)
    assert security.may_transit
    assert not security.mutual
    assert (security.chap_user, security.chap_algorithm) == (None, None)
    security.check_complete()
