# SPDX-License-Identifier: Apache-2.0
"""RFC 7143 6.3.2 and 12.1: the security stage in whole logins."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyscsi_init.errors import (
    AuthenticationFailed,
    LocalProtocolError,
    LoginRedirected,
    LoginRejected,
    NegotiationFailed,
    ProtocolError,
    SecretError,
    TargetAuthenticationFailed,
)
from pyscsi_init.login.chap import chap_response
from pyscsi_init.login.text import decode_binary, encode_base64, encode_hex
from pyscsi_init.pdu import Stage
from pyscsi_init.secret import Chap, Secret

from .conftest import MUTUAL_SECRET, SECRET, TARGET, Script

MakeChap = Callable[..., Chap]
CHALLENGE = bytes(range(16))
STEP = f"CHAP_A=5 CHAP_I=42 CHAP_C={encode_hex(CHALLENGE)}"
RESPONSE = "0x715edccb98dc92e85418ce7a64ea47db"


def to_response(talk: Script, step: str = STEP) -> Script:
    """Play the exchange up to our CHAP_R, which is then the next request."""
    talk.answer("AuthMethod=CHAP TargetPortalGroupTag=1")
    talk.answer(step)
    return talk


def proof(talk: Script, secret: str = MUTUAL_SECRET) -> str:
    """The target's CHAP_N and CHAP_R for the challenge in the last request."""
    identifier = int(talk.pairs["CHAP_I"])
    challenge = decode_binary(talk.pairs["CHAP_C"], 1024)
    return (
        f"CHAP_N=tom CHAP_R={encode_hex(chap_response(5, identifier, Secret(secret), challenge))}"
    )


def test_sec_002_one_way_login(script: type[Script], make_chap: MakeChap) -> None:
    talk = script(chap=make_chap())
    assert talk.machine.chap_algorithm_chosen is None
    talk.answer("AuthMethod=CHAP TargetPortalGroupTag=1")
    assert talk.pairs["AuthMethod"] == "CHAP"
    assert not talk.last.transit
    talk.answer(STEP)
    assert talk.pairs == {"CHAP_A": "5,8,7,6"}
    assert not talk.last.transit
    assert talk.machine.chap_algorithm_chosen == 5
    talk.answer()
    assert talk.pairs == {"CHAP_N": "joe", "CHAP_R": RESPONSE}
    assert (talk.last.transit, talk.last.next_stage) == (True, 1)
    assert talk.machine.stage is Stage.LOGIN_OPERATIONAL_NEGOTIATION
    talk.answer()
    assert talk.machine.finished


def test_sec_002_the_target_ends_the_stage_later(script: type[Script], make_chap: MakeChap) -> None:
    talk = to_response(script(chap=make_chap()))
    talk.answer(transit=False)
    talk.answer()
    assert (bytes(talk.last.data), talk.last.transit) == (b"", True)
    talk.answer()
    assert talk.machine.finished


@pytest.fixture
def mutual(script: type[Script], make_chap: MakeChap) -> Script:
    """A mutual login whose next request has CHAP_R and our challenge."""
    chap = make_chap(mutual_secret=Secret(MUTUAL_SECRET), mutual_user="tom")
    return to_response(script(chap=chap))


@pytest.mark.parametrize("late", [False, True])
def test_sec_012_mutual_login(mutual: Script, late: bool) -> None:
    mutual.answer(proof, transit=not late)
    assert list(mutual.pairs) == ["CHAP_N", "CHAP_R", "CHAP_I", "CHAP_C"]
    assert mutual.last.transit
    if late:
        mutual.answer()
    mutual.answer()
    assert mutual.machine.finished


@pytest.mark.parametrize("transit", [False, True])
def test_sec_012_wrong_proof(mutual: Script, transit: bool) -> None:
    with pytest.raises(TargetAuthenticationFailed, match="mutual secret"):
        mutual.answer(lambda talk: proof(talk, "some-other-96-bits"), transit=transit)
    assert mutual.machine.requests() == []


@pytest.mark.parametrize("transit", [False, True])
def test_sec_012_missing_proof(mutual: Script, transit: bool) -> None:
    with pytest.raises(TargetAuthenticationFailed):
        mutual.answer(transit=transit)
    assert mutual.machine.requests() == []


def test_sec_012_proof_without_a_name(mutual: Script) -> None:
    with pytest.raises(ProtocolError, match="CHAP_N"):
        mutual.answer(lambda talk: proof(talk).split()[1])


def test_sec_014_reflected_proof(mutual: Script) -> None:
    with pytest.raises(TargetAuthenticationFailed, match="our own secret"):
        mutual.answer(lambda talk: proof(talk, SECRET))


@pytest.mark.parametrize("step", ["CHAP_A=6", "CHAP_A=foo", "CHAP_A=5,6"])
def test_sec_004_algorithm_not_offered(
    script: type[Script], make_chap: MakeChap, step: str
) -> None:
    talk = script(chap=make_chap(algorithms=(5,)))
    with pytest.raises(ProtocolError):
        to_response(talk, STEP.replace("CHAP_A=5", step))
    assert talk.machine.requests() == []


def test_sec_006_a_1024_byte_challenge_in_parts(script: type[Script], make_chap: MakeChap) -> None:
    talk = script(chap=make_chap())
    talk.answer("AuthMethod=CHAP")
    text = f"CHAP_A=5\0CHAP_I=1\0CHAP_C={encode_hex(bytes(1024))}\0".encode()
    talk.answer(text[:1000], continue_=True, transit=False)
    talk.answer(text[1000:], transit=False)
    talk.answer()
    assert talk.pairs["CHAP_R"] == encode_hex(chap_response(5, 1, Secret(SECRET), bytes(1024)))


@pytest.mark.parametrize("encode", [encode_hex, encode_base64, lambda c: encode_hex(c).upper()])
def test_sec_007_encodings_give_one_response(
    script: type[Script], make_chap: MakeChap, encode: Callable[[bytes], str]
) -> None:
    talk = to_response(script(chap=make_chap()), f"CHAP_A=5 CHAP_I=42 CHAP_C={encode(CHALLENGE)}")
    talk.request()
    assert talk.pairs["CHAP_R"] == RESPONSE


@pytest.mark.parametrize(
    "step",
    ["", "CHAP_A=5", "CHAP_A=5 CHAP_I=1", "CHAP_N=x CHAP_R=0x00", STEP + " CHAP_R=0x00"],
)
def test_sec_008_keys_of_another_step(script: type[Script], make_chap: MakeChap, step: str) -> None:
    with pytest.raises(ProtocolError):
        to_response(script(chap=make_chap()), step)


def test_sec_008_more_keys_than_asked_for(script: type[Script], make_chap: MakeChap) -> None:
    with pytest.raises(ProtocolError, match="twice"):
        to_response(script(chap=make_chap())).answer("CHAP_A=5", transit=False)
    with pytest.raises(ProtocolError):
        to_response(script(chap=make_chap())).answer("CHAP_N=x CHAP_R=0x00")
    with pytest.raises(ProtocolError, match="before us"):
        script(chap=make_chap()).answer("AuthMethod=CHAP " + STEP)
    with pytest.raises(ProtocolError, match="not negotiated"):
        script().answer("AuthMethod=None " + STEP)


def test_sec_008_an_unknown_key_is_answered(script: type[Script], make_chap: MakeChap) -> None:
    talk = to_response(script(chap=make_chap()), STEP + " X-com.example.a=1")
    talk.request()
    assert talk.pairs["X-com.example.a"] == "NotUnderstood"
    assert talk.pairs["CHAP_R"] == RESPONSE


@pytest.mark.parametrize(
    "fields", [{"transit": True, "next_stage": 1}, {"transit": True, "next_stage": 3}]
)
def test_sec_009_the_target_cannot_skip(
    script: type[Script], make_chap: MakeChap, fields: dict[str, int]
) -> None:
    for text in ("", "AuthMethod=CHAP", "AuthMethod=None"):
        with pytest.raises(ProtocolError):
            script(chap=make_chap()).answer(text, **fields)
    talk = script(chap=make_chap())
    talk.answer("AuthMethod=CHAP")
    with pytest.raises(ProtocolError):
        talk.answer(STEP, **fields)


def test_sec_009_no_answer_to_auth_method(script: type[Script], make_chap: MakeChap) -> None:
    with pytest.raises(ProtocolError, match="AuthMethod"):
        script(chap=make_chap()).answer("TargetPortalGroupTag=1")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("Reject", NegotiationFailed),
        ("Irrelevant", NegotiationFailed),
        ("NotUnderstood", ProtocolError),
        ("KRB5", ProtocolError),
        ("SRP", ProtocolError),
        ("None", ProtocolError),
    ],
)
def test_sec_010_answers_to_chap(
    script: type[Script], make_chap: MakeChap, answer: str, error: type[Exception]
) -> None:
    with pytest.raises(error, match="AuthMethod"):
        script(chap=make_chap()).answer({"AuthMethod": answer})


@pytest.mark.parametrize(
    ("answer", "error"), [("Reject", NegotiationFailed), ("CHAP", ProtocolError)]
)
def test_sec_010_answers_to_none(script: type[Script], answer: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="--chap-user"):
        script().answer({"AuthMethod": answer}, transit=False)


def test_sec_010_none_was_chosen(script: type[Script]) -> None:
    talk = script().security_done()
    talk.answer()
    assert talk.machine.finished


def test_sec_011_the_target_names_the_method(script: type[Script], make_chap: MakeChap) -> None:
    talk = script(chap=make_chap(), propose_auth_method=False)
    talk.answer("AuthMethod=CHAP,None")
    assert "AuthMethod" not in talk.pairs
    talk.answer(STEP)
    assert talk.pairs == {"AuthMethod": "CHAP", "CHAP_A": "5,8,7,6"}
    talk.answer()
    talk.answer()
    assert talk.machine.finished


def test_sec_011_the_target_names_only_what_we_do_not_have(
    script: type[Script], make_chap: MakeChap
) -> None:
    for arguments, methods in (({"chap": make_chap()}, "KRB5,None"), ({}, "CHAP")):
        talk = script(propose_auth_method=False, **arguments)
        with pytest.raises(NegotiationFailed):
            talk.answer({"AuthMethod": methods}, transit=False)


def test_sec_011_both_sides_skip_security(script: type[Script]) -> None:
    talk = script(propose_auth_method=False)
    talk.answer("TargetPortalGroupTag=1")
    talk.answer()
    assert talk.machine.finished


def test_sec_016_reflection_across_connections(make_chap: MakeChap, mutual: Script) -> None:
    mutual.request()
    challenge = mutual.pairs["CHAP_C"]
    other = Script(chap=make_chap())
    with pytest.raises(ProtocolError, match="reflects"):
        to_response(other, f"CHAP_A=5 CHAP_I=1 CHAP_C={challenge}")
    assert other.machine.requests() == []
    assert "CHAP_R" not in other.keys_sent


def test_sec_016_a_failed_login_has_no_challenge_pending(
    make_chap: MakeChap, mutual: Script
) -> None:
    with pytest.raises(AuthenticationFailed):
        mutual.answer(status_class=2, status_detail=1)
    challenge = mutual.pairs["CHAP_C"]
    to_response(Script(chap=make_chap()), f"CHAP_A=5 CHAP_I=1 CHAP_C={challenge}")


def test_sec_017_short_secrets_end_the_login_before_it_begins(
    script: type[Script], make_chap: MakeChap
) -> None:
    with pytest.raises(SecretError):
        script(chap=make_chap(secret=Secret("x" * 11)))
    with pytest.raises(SecretError):
        script(chap=make_chap(mutual_secret=Secret(SECRET)))
    to_response(script(chap=make_chap(secret=Secret("short"), allow_short_secret=True)))


def test_sec_019_rejection_after_chap_r(
    script: type[Script], make_chap: MakeChap, caplog: pytest.LogCaptureFixture
) -> None:
    talk = to_response(script(chap=make_chap()))
    with pytest.raises(AuthenticationFailed) as caught:
        talk.answer(status_class=2, status_detail=1)
    assert "0201h" in str(caught.value)
    assert "'joe'" in str(caught.value)
    assert TARGET in str(caught.value)
    printed = [str(caught.value), repr(caught.value), caplog.text, repr(talk.machine)]
    printed += [repr(request) for request in talk.sent]
    for text in printed:
        assert SECRET not in text
        assert RESPONSE[2:] not in text


@pytest.mark.parametrize("detail", [0, 1])
def test_trap_1_the_retry_with_md5_alone_can_be_decided(
    script: type[Script], make_chap: MakeChap, detail: int
) -> None:
    """tgt 1.0.85 takes 7 for SHA1, and says 0200 to the longer response of SHA-256."""
    talk = to_response(
        script(chap=make_chap(algorithms=(7, 5))), STEP.replace("CHAP_A=5", "CHAP_A=7")
    )
    with pytest.raises(LoginRejected, match="algorithm 5 alone"):
        talk.answer(status_class=2, status_detail=detail)
    assert talk.machine.chap_algorithm_chosen == 7


def test_quirk_05_the_list_is_refused(script: type[Script], make_chap: MakeChap) -> None:
    talk = script(chap=make_chap())
    talk.answer("AuthMethod=CHAP")
    with pytest.raises(AuthenticationFailed, match="old targets take 5 alone"):
        talk.answer(status_class=2, status_detail=1)
    assert talk.machine.chap_algorithm_chosen is None


def test_login_022_redirect_after_chap(script: type[Script], make_chap: MakeChap) -> None:
    talk = to_response(script(chap=make_chap()))
    with pytest.raises(LoginRedirected):
        talk.answer("TargetAddress=10.0.0.2", status_class=1, status_detail=1)


def test_login_025_chap_cannot_begin_in_the_operational_stage(
    script: type[Script], make_chap: MakeChap
) -> None:
    with pytest.raises(LocalProtocolError):
        script(chap=make_chap(), first_stage=Stage.LOGIN_OPERATIONAL_NEGOTIATION)
    talk = script(first_stage=Stage.LOGIN_OPERATIONAL_NEGOTIATION)
    with pytest.raises(AuthenticationFailed, match="wants CHAP"):
        talk.answer(status_class=2, status_detail=1)
