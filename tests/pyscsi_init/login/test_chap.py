# SPDX-License-Identifier: Apache-2.0
"""CHAP: RFC 1994 4.1, RFC 7143 9.2.1 and 12.1.3."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyscsi_init.errors import (
    ConfigurationError,
    LocalProtocolError,
    ProtocolError,
    SecretError,
    TargetAuthenticationFailed,
)
from pyscsi_init.login.chap import (
    ALGORITHMS,
    ChapInitiator,
    ChapStep,
    chap_response,
    check_chap,
)
from pyscsi_init.login.text import decode_binary, encode_base64, encode_hex
from pyscsi_init.secret import Chap, Secret

SECRET = Secret("secret-96-bits-min")
MUTUAL = Secret("another-96-bits-min")
CHALLENGE = bytes(range(16))
VECTORS = {
    5: "715edccb98dc92e85418ce7a64ea47db",
    6: "f2b48f5dd70cda72de2d1998f9757e3aa4761f64",
    7: "499922afbddfd8bce138637b9c073f91275a0214a3bfd0833cb46808d2356bd0",
    8: "49aa50e6c19a74f4e3213cc88ff95b224885b13ea77642c24af3b7959b6c5175",
}


def started(chap: Chap, draw: Callable[[int], bytes] | None = None) -> ChapInitiator:
    initiator = ChapInitiator(chap, draw or (lambda length: b"\x55" * length))
    initiator.first_keys()
    return initiator


def answer(**changes: str) -> dict[str, str]:
    keys = {"CHAP_A": "5", "CHAP_I": "0x2a", "CHAP_C": encode_hex(CHALLENGE)} | changes
    return {key: value for key, value in keys.items() if value != "-"}


@pytest.mark.parametrize("algorithm", sorted(VECTORS))
def test_sec_003_vectors(algorithm: int) -> None:
    response = chap_response(algorithm, 0x2A, SECRET, CHALLENGE)
    assert response.hex() == VECTORS[algorithm]
    assert len(response) == ALGORITHMS[algorithm].length


def test_sec_003_base64_vector() -> None:
    assert encode_base64(chap_response(5, 0x2A, SECRET, CHALLENGE)) == "0bcV7cy5jckuhUGM56ZOpH2w=="


@pytest.mark.parametrize("algorithm", sorted(VECTORS))
def test_sec_002_one_way_exchange(make_chap: Callable[..., Chap], algorithm: int) -> None:
    initiator = ChapInitiator(make_chap(), bytes)
    assert initiator.first_keys() == [("CHAP_A", "5,8,7,6")]
    assert initiator.receive(answer(CHAP_A=str(algorithm))) == [
        ("CHAP_N", "joe"),
        ("CHAP_R", "0x" + VECTORS[algorithm]),
    ]
    assert initiator.algorithm == algorithm
    assert initiator.step is ChapStep.DONE
    assert initiator.receive({}) == []


@pytest.mark.parametrize(
    ("algorithms", "offer"),
    [((5,), "5"), ((7, 5), "7,5"), ((7,), "7,5"), ((8, 7, 6), "8,7,6,5")],
)
def test_sec_001_md5_is_always_offered(
    make_chap: Callable[..., Chap], algorithms: tuple[int, ...], offer: str
) -> None:
    assert ChapInitiator(make_chap(algorithms=algorithms), bytes).first_keys() == [
        ("CHAP_A", offer)
    ]


@pytest.mark.parametrize("value", ["6", "0", "foo", "5,6", "", "-5", "05"])
def test_sec_004_algorithm_must_be_one_of_the_offer(
    make_chap: Callable[..., Chap], value: str
) -> None:
    initiator = started(make_chap(algorithms=(5,)))
    with pytest.raises(ProtocolError):
        initiator.receive(answer(CHAP_A=value))
    assert not initiator.response_sent


@pytest.mark.parametrize("value", ["0", "255", "0x7f", "0XFF"])
def test_sec_005_identifiers(make_chap: Callable[..., Chap], value: str) -> None:
    assert len(started(make_chap()).receive(answer(CHAP_I=value))) == 2


@pytest.mark.parametrize("value", ["256", "-1", "abc", "", "0x100"])
def test_sec_005_no_identifiers(make_chap: Callable[..., Chap], value: str) -> None:
    with pytest.raises(ProtocolError):
        started(make_chap()).receive(answer(CHAP_I=value))


@pytest.mark.parametrize("length", [1, 16, 255, 256, 1024])
def test_sec_006_challenge_lengths(make_chap: Callable[..., Chap], length: int) -> None:
    challenge = bytes(7 for _ in range(length))
    expected = ("CHAP_R", encode_hex(chap_response(5, 0x2A, SECRET, challenge)))
    for text in (encode_hex(challenge), encode_base64(challenge)):
        assert started(make_chap()).receive(answer(CHAP_C=text))[1] == expected


@pytest.mark.parametrize("text", ["0x", "0b", "0x" + "00" * 1025, "0b!", "00112233", "5", ""])
def test_sec_006_challenges_that_are_none(make_chap: Callable[..., Chap], text: str) -> None:
    with pytest.raises(ProtocolError):
        started(make_chap()).receive(answer(CHAP_C=text))


@pytest.mark.parametrize(
    "keys",
    [
        {},
        answer(CHAP_I="-"),
        answer(CHAP_C="-"),
        answer(CHAP_A="-"),
        {"CHAP_R": "0x00", "CHAP_N": "t"},
        answer(CHAP_N="t"),
        answer(CHAP_R="0x00"),
    ],
)
def test_sec_008_keys_must_match_the_step(
    make_chap: Callable[..., Chap], keys: dict[str, str]
) -> None:
    with pytest.raises(ProtocolError):
        started(make_chap()).receive(keys)


def test_sec_008_target_proof_that_nobody_asked_for(make_chap: Callable[..., Chap]) -> None:
    initiator = started(make_chap())
    initiator.receive(answer())
    with pytest.raises(ProtocolError):
        initiator.receive({"CHAP_N": "t", "CHAP_R": "0x" + "00" * 16})


class Mutual:
    """A mutual exchange up to the target's proof."""

    def __init__(self, algorithm: int = 5, **changes: object) -> None:
        chap = Chap(user="joe", secret=SECRET, mutual_secret=MUTUAL, **changes)  # type: ignore[arg-type]
        self.initiator = started(chap)
        keys = dict(self.initiator.receive(answer(CHAP_A=str(algorithm))))
        assert list(keys) == ["CHAP_N", "CHAP_R", "CHAP_I", "CHAP_C"]
        self.algorithm = algorithm
        self.identifier = int(keys["CHAP_I"])
        self.challenge = decode_binary(keys["CHAP_C"], 1024)

    def proof(self, secret: Secret) -> bytes:
        return chap_response(self.algorithm, self.identifier, secret, self.challenge)

    def finish(self, response: bytes, name: str = "tom") -> None:
        assert self.initiator.receive({"CHAP_N": name, "CHAP_R": encode_hex(response)}) == []


@pytest.mark.parametrize("algorithm", sorted(VECTORS))
def test_sec_012_mutual_exchange(algorithm: int) -> None:
    mutual = Mutual(algorithm)
    assert mutual.initiator.step is ChapStep.RESPONSE_SENT
    mutual.finish(mutual.proof(MUTUAL))
    assert mutual.initiator.step is ChapStep.DONE


def test_sec_012_every_wrong_bit_is_seen() -> None:
    length = 16
    for bit in range(8 * length):
        mutual = Mutual()
        proof = bytearray(mutual.proof(MUTUAL))
        proof[bit // 8] ^= 1 << bit % 8
        with pytest.raises(TargetAuthenticationFailed, match="did not prove itself"):
            mutual.finish(bytes(proof))


@pytest.mark.parametrize("change", [lambda r: r[:15], lambda r: r + b"\0", lambda _: b"\0"])
def test_sec_012_wrong_length(change: Callable[[bytes], bytes]) -> None:
    mutual = Mutual()
    with pytest.raises(TargetAuthenticationFailed):
        mutual.finish(change(mutual.proof(MUTUAL)))


def test_sec_012_missing_proof() -> None:
    for keys in ({}, {"CHAP_N": "tom"}):
        with pytest.raises(TargetAuthenticationFailed, match="no CHAP_R"):
            Mutual().initiator.receive(keys)
    mutual = Mutual()
    with pytest.raises(ProtocolError):
        mutual.initiator.receive({"CHAP_R": encode_hex(mutual.proof(MUTUAL))})


@pytest.mark.parametrize("name", ["t", "t" * 255, "", "Größe"])
def test_sec_013_any_name_without_a_configured_one(name: str) -> None:
    mutual = Mutual()
    mutual.finish(mutual.proof(MUTUAL), name)


def test_sec_013_the_configured_name_of_the_target() -> None:
    mutual = Mutual(mutual_user="tom")
    mutual.finish(mutual.proof(MUTUAL), "tom")
    for name in ("Tom", "", "tomm"):
        mutual = Mutual(mutual_user="tom")
        with pytest.raises(TargetAuthenticationFailed, match="expected"):
            mutual.finish(mutual.proof(MUTUAL), name)


@pytest.mark.parametrize("user", ["", "j", "j" * 255, "jürgen"])
def test_sec_013_own_names(make_chap: Callable[..., Chap], user: str) -> None:
    assert started(make_chap(user=user)).receive(answer())[0] == ("CHAP_N", user)


@pytest.mark.parametrize("user", ["j" * 256, "ü" * 128, "a\0b", "\ud800"])
def test_sec_013_names_that_cannot_be(make_chap: Callable[..., Chap], user: str) -> None:
    with pytest.raises(ConfigurationError):
        check_chap(make_chap(user=user))


def test_sec_014_a_proof_with_our_own_secret_is_none() -> None:
    mutual = Mutual()
    with pytest.raises(TargetAuthenticationFailed, match="our own secret"):
        mutual.finish(mutual.proof(SECRET))


def test_sec_015_challenges_are_fresh(make_chap: Callable[..., Chap]) -> None:
    import os

    seen: set[str] = set()
    for _ in range(100):
        initiator = started(make_chap(mutual_secret=MUTUAL), os.urandom)
        keys = dict(initiator.receive(answer()))
        assert keys["CHAP_C"] not in seen
        assert keys["CHAP_C"] != encode_hex(CHALLENGE)
        assert keys["CHAP_I"] != "42"
        seen.add(keys["CHAP_C"])


def test_sec_015_never_the_targets_challenge(make_chap: Callable[..., Chap]) -> None:
    draws = iter([CHALLENGE, b"n" * 16, b"\x2a"])
    initiator = started(make_chap(mutual_secret=MUTUAL), lambda _: next(draws))
    keys = dict(initiator.receive(answer()))
    assert keys["CHAP_C"] == encode_hex(b"n" * 16)
    assert keys["CHAP_I"] == "43"


def test_sec_015_a_source_that_repeats_itself_is_refused(make_chap: Callable[..., Chap]) -> None:
    initiator = started(make_chap(mutual_secret=MUTUAL), lambda length: CHALLENGE[:length])
    with pytest.raises(LocalProtocolError):
        initiator.receive(answer())
    short = started(make_chap(mutual_secret=MUTUAL), lambda _: b"x")
    with pytest.raises(LocalProtocolError):
        short.receive(answer())


def test_sec_016_our_challenge_from_another_connection() -> None:
    pending = Mutual()
    other = started(Chap(user="joe", secret=SECRET))
    with pytest.raises(ProtocolError, match="reflects"):
        other.receive(answer(CHAP_C=encode_hex(pending.challenge)))
    assert not other.response_sent


@pytest.mark.parametrize("end", ["verified", "forgotten", "collected"])
def test_sec_016_a_challenge_is_pending_only_as_long_as_its_login(end: str) -> None:
    pending = Mutual()
    challenge = pending.challenge
    if end == "verified":
        pending.finish(pending.proof(MUTUAL))
    elif end == "forgotten":
        pending.initiator.forget()
    else:
        del pending
    assert started(Chap(user="joe", secret=SECRET)).receive(answer(CHAP_C=encode_hex(challenge)))


@pytest.mark.parametrize("length", [12, 16, 255, 1000])
def test_sec_017_secrets(length: int) -> None:
    check_chap(Chap(user="", secret=Secret(b"\xff" * length)))


def test_sec_017_short_secrets() -> None:
    for chap in (
        Chap(user="joe", secret=Secret("x" * 11)),
        Chap(user="joe", secret=SECRET, mutual_secret=Secret("x" * 11)),
    ):
        with pytest.raises(SecretError, match="11 bytes"):
            check_chap(chap)
    check_chap(Chap(user="joe", secret=Secret("x"), allow_short_secret=True))
    with pytest.raises(SecretError, match="empty"):
        check_chap(Chap(user="joe", secret=Secret(""), allow_short_secret=True))


def test_sec_017_one_secret_for_both_directions() -> None:
    with pytest.raises(SecretError, match="same"):
        check_chap(Chap(user="joe", secret=SECRET, mutual_secret=Secret("secret-96-bits-min")))


@pytest.mark.parametrize("algorithms", [(), (4,), (5, 5), (5, 9)])
def test_algorithms_that_do_not_exist(
    make_chap: Callable[..., Chap], algorithms: tuple[int, ...]
) -> None:
    with pytest.raises(ConfigurationError):
        check_chap(make_chap(algorithms=algorithms))


def test_sec_019_nothing_secret_is_printed() -> None:
    mutual = Mutual()
    texts = [repr(mutual.initiator)]
    mutual.initiator.forget()
    for response in (mutual.proof(SECRET), b"\0" * 16):
        again = Mutual()
        with pytest.raises(TargetAuthenticationFailed) as caught:
            again.finish(response)
        texts += [str(caught.value), repr(caught.value)]
    for text in texts:
        assert "secret-96" not in text
        assert "another-96" not in text
        assert VECTORS[5] not in text
        assert mutual.proof(MUTUAL).hex() not in text
