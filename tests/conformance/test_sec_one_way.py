# SPDX-License-Identifier: Apache-2.0
"""AuthMethod and CHAP as we prove ourselves (RFC 7143 6.3.2, 12.1; RFC 1994)."""

from __future__ import annotations

from typing import Any

import pytest

from pyscsi_init import Chap, Secret
from pyscsi_init.errors import IscsiError, NegotiationFailed, ProtocolError
from pyscsi_init.login import LoginMachine
from pyscsi_init.login.text import encode_pairs
from pyscsi_init.pdu import LoginRequest, LoginResponse
from pyscsi_init.testing.scripted import ScriptedTarget
from tests.conformance.chap_target import (
    CHALLENGE,
    IDENTIFIER,
    SECRET,
    USER,
    VECTORS,
    authenticate,
    binary,
    credentials,
    honest,
    proof,
    response_of,
    step,
    until_proof,
)
from tests.conformance.logging_in import (
    INITIATOR,
    QUIET,
    Outcome,
    Play,
    answer,
    outcome_of,
    pairs_of,
    rounds,
    said,
)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]

CHAP_KEYS = {"CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R"}


async def refused(play: Play, chap: Chap | None = None, **how: Any) -> Outcome:
    """A login that must fail, with no proof sent and nothing of full feature phase."""
    outcome = await outcome_of(play, chap=chap or credentials(), **how)
    assert isinstance(outcome.failure, IscsiError)
    assert all(request.current_stage == 0 for request in outcome.requests)
    return outcome


def without_proof(outcome: Outcome) -> None:
    """No CHAP_R was ever sent."""
    assert not any("CHAP_R" in said(request) for request in outcome.requests)


@pytest.mark.conformance("SEC-001")
@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("algorithms", [(5, 8, 7, 6), (7,), (8, 7, 6), (5,)])
async def test_md5_is_always_offered(algorithms: tuple[int, ...], mutual: bool) -> None:
    chap = credentials(mutual=mutual, algorithms=algorithms)
    outcome = await outcome_of(honest(mutual=mutual), chap=chap)
    assert outcome.error is None
    offer = outcome.keys(1)["CHAP_A"].split(",")
    assert "5" in offer
    assert [int(each) for each in offer][: len(algorithms)] == list(algorithms)


@pytest.mark.conformance("SEC-002")
@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("late", [False, True])
async def test_each_step_has_its_keys(mutual: bool, late: bool) -> None:
    async def play(target: ScriptedTarget) -> None:
        peer = await target.accept()
        if late:
            await answer(peer, "AuthMethod=CHAP")
            await answer(peer, step())
            request = await peer.expect(LoginRequest)
            pairs = pairs_of(proof(request)) if mutual else []
            await peer.send(peer.login_answer(request, pairs, transit=False))
        else:
            await authenticate(peer, mutual=mutual)
        await peer.log_in()

    outcome = await outcome_of(play, chap=credentials(mutual=mutual))
    assert outcome.error is None
    security = [request for request in outcome.requests if request.current_stage == 0]
    groups = [set(said(request)) for request in security]
    first = {"InitiatorName", "TargetName", "SessionType", "AuthMethod"}
    last = {"CHAP_N", "CHAP_R"} | ({"CHAP_I", "CHAP_C"} if mutual else set())
    assert groups == [first, {"CHAP_A"}, last, *([set()] if late else [])]
    assert [request.transit for request in security] == [False, False, True, True][: len(security)]
    assert security[-1].next_stage == 1


@pytest.mark.conformance("SEC-003")
@pytest.mark.parametrize("algorithm", sorted(VECTORS))
async def test_vectors(algorithm: int) -> None:
    chap = credentials(algorithms=(algorithm,))
    outcome = await outcome_of(honest(algorithm=algorithm), chap=chap)
    response = binary(outcome.keys(2)["CHAP_R"])
    assert response.hex() == VECTORS[algorithm]
    assert len(response) == {5: 16, 6: 20, 7: 32, 8: 32}[algorithm]


@pytest.mark.conformance("SEC-004")
@pytest.mark.parametrize("chosen", ["6", "foo", "5,6", "0", "Reject", "05"])
async def test_an_algorithm_that_was_not_offered(chosen: str) -> None:
    outcome = await refused(until_proof(step(chosen)), credentials(algorithms=(5,)))
    assert isinstance(outcome.failure, ProtocolError)
    without_proof(outcome)


@pytest.mark.conformance("SEC-004")
@pytest.mark.quirk("Q-05")
async def test_the_list_that_an_old_target_refuses_is_offered_again_as_5_alone() -> None:
    async def play(target: ScriptedTarget) -> None:
        first = await target.accept()
        await answer(first, "AuthMethod=CHAP")
        await first.refuse_login(2, 1)
        second = await target.accept()
        await authenticate(second)
        await second.log_in()

    outcome = await outcome_of(play, chap=credentials())
    assert outcome.error is None
    offers = [said(request).get("CHAP_A") for request in outcome.requests]
    assert [offer for offer in offers if offer] == ["5,8,7,6", "5"]


@pytest.mark.conformance("SEC-005")
@pytest.mark.parametrize(
    ("text", "value"), [("0", 0), ("255", 255), ("0x7f", 0x7F), ("0X2A", 0x2A)]
)
async def test_identifiers(text: str, value: int) -> None:
    outcome = await outcome_of(
        rounds("AuthMethod=CHAP", step(identifier=text), ""), chap=credentials()
    )
    assert outcome.error is None
    expected = response_of(5, value, SECRET, CHALLENGE)
    assert binary(outcome.keys(2)["CHAP_R"]) == expected


@pytest.mark.conformance("SEC-005")
@pytest.mark.parametrize("text", ["256", "-1", "abc", "", "0x100"])
async def test_no_identifiers(text: str) -> None:
    without_proof(await refused(until_proof(step(identifier=text))))


@pytest.mark.conformance("SEC-006")
@pytest.mark.parametrize("length", [1, 16, 255, 256, 1024])
async def test_lengths_of_challenges(length: int) -> None:
    challenge = bytes(number % 251 for number in range(length))
    outcome = await outcome_of(honest(challenge=challenge), chap=credentials())
    assert outcome.error is None


@pytest.mark.conformance("SEC-006")
@pytest.mark.quirk("Q-18")
async def test_a_long_challenge_in_parts() -> None:
    challenge = bytes(1024)
    text = encode_pairs(pairs_of(step(challenge=challenge)))
    more = {"continue_": True, "transit": False}
    outcome = await outcome_of(
        rounds("AuthMethod=CHAP", (text[:700], more), (text[700:1500], more), text[1500:], ""),
        chap=credentials(),
    )
    assert outcome.error is None
    expected = response_of(5, IDENTIFIER, SECRET, challenge)
    assert binary(outcome.keys(4)["CHAP_R"]) == expected


@pytest.mark.conformance("SEC-006")
@pytest.mark.parametrize("text", ["0x", "0b", "", "0x" + "00" * 1025])
async def test_challenges_that_are_none_or_too_long(text: str) -> None:
    without_proof(await refused(until_proof(step(challenge=text))))


@pytest.mark.conformance("SEC-007")
@pytest.mark.parametrize(
    "text",
    [
        "0x" + CHALLENGE.hex(),
        "0X" + CHALLENGE.hex().upper(),
        "0x" + CHALLENGE.hex()[1:],  # 31 digits are 16 bytes too
        "0bAAECAwQFBgcICQoLDA0ODw==",
        "0BAAECAwQFBgcICQoLDA0ODw==",
    ],
)
async def test_encodings_of_one_challenge(text: str) -> None:
    play = rounds("AuthMethod=CHAP", step(challenge=text), "")
    outcome = await outcome_of(play, chap=credentials())
    assert binary(outcome.keys(2)["CHAP_R"]).hex() == VECTORS[5]


@pytest.mark.conformance("SEC-007")
@pytest.mark.parametrize(
    "text",
    [
        "0xfg00",
        "0bAAEC!wQF",
        "0bAAECAwQFBgcICQoLDA0ODw=",
        "0bAAECAwQFBgcICQoLDA0ODw",
        "0bAA==AA==",
        CHALLENGE.hex(),
        "5233100606242806050955395731361295",
    ],
)
async def test_encodings_that_are_none(text: str) -> None:
    without_proof(await refused(until_proof(step(challenge=text))))


@pytest.mark.conformance("SEC-008")
@pytest.mark.parametrize(
    "text",
    [
        "CHAP_A=5 CHAP_C=0x00",
        "CHAP_A=5 CHAP_I=1",
        "CHAP_I=1 CHAP_C=0x00",
        "CHAP_N=tom CHAP_R=0x00",
        f"{step()} CHAP_R=0x00",
        "",
    ],
)
async def test_keys_of_another_step(text: str) -> None:
    outcome = await refused(until_proof(text))
    assert isinstance(outcome.failure, ProtocolError)
    without_proof(outcome)


@pytest.mark.conformance("SEC-008")
@pytest.mark.parametrize(
    "text", ["CHAP_A=5", "CHAP_N=tom CHAP_R=0x00112233445566778899aabbccddeeff"]
)
async def test_keys_after_our_proof(text: str) -> None:
    """Repeated, or a proof that nobody asked for: the login ends."""
    outcome = await refused(
        rounds("AuthMethod=CHAP", step(), (text, {"transit": False}), honest=False)
    )
    assert isinstance(outcome.failure, ProtocolError)


@pytest.mark.conformance("SEC-008")
async def test_an_unknown_key_beside_the_challenge() -> None:
    play = rounds("AuthMethod=CHAP", f"{step()} X-com.example.a=1", "")
    outcome = await outcome_of(play, chap=credentials())
    assert outcome.error is None
    assert outcome.keys(2)["X-com.example.a"] == "NotUnderstood"


@pytest.mark.conformance("SEC-009")
@pytest.mark.parametrize(
    "answers",
    [
        ["AuthMethod=None"],
        [("AuthMethod=CHAP", {"transit": True, "next_stage": 1})],
        [("AuthMethod=CHAP", {"transit": True, "next_stage": 3})],
        ["AuthMethod=CHAP", (step(), {"transit": True, "next_stage": 1})],
        ["AuthMethod=CHAP", ("", {"transit": True, "next_stage": 1})],
        [""],
    ],
)
async def test_authentication_is_not_skipped(answers: list[Any]) -> None:
    outcome = await refused(rounds(*answers, honest=False))
    assert outcome.keys(0)["AuthMethod"] == "CHAP"
    assert isinstance(outcome.failure, ProtocolError)
    without_proof(outcome)


@pytest.mark.conformance("SEC-010")
@pytest.mark.parametrize(
    ("method", "error"),
    [("Reject", NegotiationFailed), ("KRB5", ProtocolError), ("SRP", ProtocolError)],
)
@pytest.mark.parametrize("chap", [None, credentials()], ids=["None", "CHAP"])
async def test_methods_that_end_the_login(
    method: str, error: type[IscsiError], chap: Chap | None
) -> None:
    outcome = await outcome_of(
        rounds((f"AuthMethod={method}", {"transit": False}), honest=False), chap=chap
    )
    assert isinstance(outcome.failure, error)
    assert len(outcome.requests) == 1
    assert "CHAP" in str(outcome.failure) or "chap" in str(outcome.failure)


@pytest.mark.conformance("SEC-010")
async def test_none_goes_on_without_chap() -> None:
    """Offers are CHAP or None, never both: what was given is meant."""
    outcome = await outcome_of(rounds("AuthMethod=None"))
    assert outcome.error is None
    assert outcome.keys(0)["AuthMethod"] == "None"
    assert not any(CHAP_KEYS & said(request).keys() for request in outcome.requests)
    outcome = await refused(rounds("AuthMethod=None", honest=False))
    assert isinstance(outcome.failure, ProtocolError)


@pytest.mark.conformance("SEC-011")
async def test_a_method_that_the_target_names() -> None:
    """No session of ours leaves it to the target, so the login alone is asked."""
    machine = LoginMachine(
        QUIET,
        initiator_name=INITIATOR,
        target_name="iqn.2026-11.example:disk",
        isid=bytes.fromhex("800000000001"),
        random_bytes=bytes,
        chap=credentials(),
        propose_auth_method=False,
    )
    (request,) = machine.requests()
    assert "AuthMethod" not in said(request)
    machine.receive(LoginResponse(data=encode_pairs([("AuthMethod", "CHAP,None")])))
    (request,) = machine.requests()
    assert said(request) == {"AuthMethod": "CHAP", "CHAP_A": "5,8,7,6"}
    machine.receive(LoginResponse(data=encode_pairs(pairs_of(step()))))
    (request,) = machine.requests()
    assert said(request) == {"CHAP_N": USER, "CHAP_R": "0x" + VECTORS[5]}


@pytest.mark.conformance("SEC-017")
@pytest.mark.parametrize("secret", [b"x" * 12, b"x" * 16, bytes(range(1, 256)), b"\xff\xfe" * 8])
async def test_secrets_that_are_long_enough(secret: bytes) -> None:
    chap = credentials(secret=Secret(secret))
    assert (await outcome_of(honest(secret=secret), chap=chap)).error is None
