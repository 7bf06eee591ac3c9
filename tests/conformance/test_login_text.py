# SPDX-License-Identifier: Apache-2.0
"""The text of the login phase: parts, bounds, form, and which key may come when (RFC 7143 6.1 to
6.3)."""

from __future__ import annotations

from typing import Any

import pytest

from pyscsi_init.errors import ProtocolError
from pyscsi_init.login.text import encode_pairs
from pyscsi_init.testing.scripted import ScriptedTarget
from tests.conformance.logging_in import (
    NO_AUTH,
    SECURITY_KEYS,
    answer_for_ever,
    operational,
    outcome_of,
    rounds,
)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]


@pytest.mark.conformance("LOGIN-012")
async def test_a_text_in_parts() -> None:
    more = {"continue_": True, "transit": False}
    outcome = await outcome_of(
        rounds(
            (b"TargetPortalGro", more),
            (b"upTag=", more),
            (b"1\0AuthMethod=None\0", {"transit": False}),
        )
    )
    for request in outcome.requests[1:3]:
        assert (bytes(request.data), request.transit, request.continue_) == (b"", False, False)
    assert outcome.in_force.target_portal_group_tag == 1


MANY = encode_pairs([(f"X-com.example.{'k' * 40}{number}", "1") for number in range(135)])
"""Less than 8192 bytes; that none of them is understood takes more."""


@pytest.mark.conformance("LOGIN-013")
async def test_a_long_text_of_ours_goes_in_parts() -> None:
    assert len(MANY) <= 8192
    outcome = await outcome_of(
        rounds(NO_AUTH, (MANY, {"transit": False}), ("", {"transit": False}))
    )
    long, rest = outcome.requests[2:4]
    assert (len(long.data), long.continue_, long.transit) == (8192, True, False)
    assert (rest.continue_, rest.transit) == (False, True)
    whole = bytes(long.data) + bytes(rest.data)
    assert whole.count(b"=NotUnderstood\0") == 135
    assert all(len(request.data) <= 8192 for request in outcome.requests)


@pytest.mark.conformance("LOGIN-013")
async def test_an_answer_to_half_a_text() -> None:
    outcome = await outcome_of(
        rounds(NO_AUTH, (MANY, {"transit": False}), ("X-a=1", {"transit": False}), honest=False)
    )
    assert isinstance(outcome.failure, ProtocolError)


@pytest.mark.conformance("LOGIN-014")
async def test_c_and_t_together() -> None:
    outcome = await outcome_of(rounds((NO_AUTH, {"continue_": True}), honest=False))
    assert isinstance(outcome.failure, ProtocolError)
    assert "the C and the T bit" in str(outcome.failure)
    assert not any(pdu.continue_ and pdu.transit for pdu in outcome.requests)


@pytest.mark.conformance("LOGIN-015")
async def test_8_kib_of_keys_in_parts() -> None:
    text = encode_pairs(
        [("TargetAlias", "a" * 8100), ("MaxBurstLength", "4096"), ("X-a", "1" * 60)]
    )
    assert len(text) > 8192
    parts: list[Any] = [
        (text[at : at + 1000], {"continue_": True, "transit": False})
        for at in range(0, len(text), 1000)
    ]
    outcome = await outcome_of(rounds(NO_AUTH, *parts, (b"", {"transit": False}), ""))
    assert outcome.in_force.max_burst_length == 4096
    assert len(outcome.in_force.target_alias) == 8100


@pytest.mark.conformance("LOGIN-015")
async def test_a_text_without_an_end() -> None:
    async def play(target: ScriptedTarget) -> None:
        peer = await target.accept()
        await answer_for_ever(peer, b"x" * 8192, continue_=True, transit=False)

    outcome = await outcome_of(play)
    assert isinstance(outcome.failure, ProtocolError)
    assert len(outcome.requests) < 20


@pytest.mark.conformance("LOGIN-016")
@pytest.mark.parametrize(
    ("text", "accepted"),
    [
        (b"TargetAlias=no end", False),
        (b"\0\0TargetAlias=a\0\0\0", True),
        (b"TargetAlias\0", False),
        (b"=x\0", False),
        (b"X-" + b"k" * 62 + b"=1\0", False),
        (b"1Key=1\0", False),
        (b"TargetAlias=a=b=c\0", True),
    ],
)
async def test_pairs_that_are_odd(text: bytes, accepted: bool) -> None:
    outcome = await outcome_of(operational(text))
    if accepted:
        assert outcome.in_force.target_alias in ("a", "a=b=c")
    else:
        assert isinstance(outcome.failure, ProtocolError)


@pytest.mark.conformance("LOGIN-017")
@pytest.mark.parametrize(
    "answers",
    [
        [(b"MaxBurstLength=512\0MaxBurstLength=512\0", {"transit": False})],
        [("MaxBurstLength=512", {"transit": False}), ("MaxBurstLength=512", {})],
    ],
    ids=["in one response", "in two"],
)
async def test_a_key_twice(answers: list[Any]) -> None:
    outcome = await outcome_of(rounds(NO_AUTH, *answers, honest=False))
    assert isinstance(outcome.failure, ProtocolError)
    assert "twice" in str(outcome.failure)


@pytest.mark.conformance("LOGIN-018")
async def test_keys_of_another_stage() -> None:
    outcome = await outcome_of(rounds("AuthMethod=None MaxBurstLength=512", honest=False))
    assert isinstance(outcome.failure, ProtocolError)
    outcome = await outcome_of(operational("CHAP_A=5"))
    assert isinstance(outcome.failure, ProtocolError)
    outcome = await outcome_of(rounds())
    any_stage = {"InitiatorName", "InitiatorAlias", "TargetName", "SessionType"}
    assert outcome.keys(0).keys() <= SECURITY_KEYS | any_stage
    assert not outcome.keys(1).keys() & SECURITY_KEYS


PROPOSALS = "MaxOutstandingR2T=4 DataPDUInOrder=No FirstBurstLength=4096"


@pytest.mark.conformance("LOGIN-019")
async def test_proposals_are_answered() -> None:
    """In a discovery session we offer none of these, so the target's are proposals."""
    outcome = await outcome_of(rounds(NO_AUTH, (PROPOSALS, {"transit": False})), discovery=True)
    assert outcome.keys(2) == {
        "MaxOutstandingR2T": "Irrelevant",
        "DataPDUInOrder": "Irrelevant",
        "FirstBurstLength": "Irrelevant",
    }
    outcome = await outcome_of(operational(PROPOSALS), discovery=True)
    assert isinstance(outcome.failure, ProtocolError)
