# SPDX-License-Identifier: Apache-2.0
"""The target's half of CHAP, with known vectors for every algorithm."""

from __future__ import annotations

import pytest

from pyscsi_init.login.text import encode_base64, encode_hex
from pyscsi_init.testing import TargetChap
from pyscsi_init.testing.chap import ChapExchange, ChapFailure, response

SECRET = b"secret-96-bits-min"
CHALLENGE = bytes(range(16))
VECTORS = {
    5: "715edccb98dc92e85418ce7a64ea47db",
    6: "f2b48f5dd70cda72de2d1998f9757e3aa4761f64",
    7: "499922afbddfd8bce138637b9c073f91275a0214a3bfd0833cb46808d2356bd0",
    8: "49aa50e6c19a74f4e3213cc88ff95b224885b13ea77642c24af3b7959b6c5175",
}


def random_bytes(count: int) -> bytes:
    return b"\x2a" if count == 1 else bytes(range(count))


def exchange(**account: object) -> ChapExchange:
    values = {"user": "host", "secret": SECRET, "challenge_length": 16, **account}
    return ChapExchange([TargetChap(**values)], random_bytes)  # type: ignore[arg-type]


@pytest.mark.parametrize("algorithm", VECTORS)
def test_vectors(algorithm: int) -> None:
    assert response(algorithm, 0x2A, SECRET, CHALLENGE).hex() == VECTORS[algorithm]


@pytest.mark.parametrize("algorithm", VECTORS)
@pytest.mark.parametrize("encode", [encode_hex, encode_base64])
def test_the_right_response_is_accepted(algorithm: int, encode: object) -> None:
    chap = exchange()
    assert chap.receive({"CHAP_A": f"99,{algorithm},5"}) == [
        ("CHAP_A", str(algorithm)),
        ("CHAP_I", "42"),
        ("CHAP_C", "0x000102030405060708090a0b0c0d0e0f"),
    ]
    proof = encode(bytes.fromhex(VECTORS[algorithm]))  # type: ignore[operator]
    assert chap.receive({"CHAP_N": "host", "CHAP_R": proof}) == []
    assert (chap.authenticated, chap.user) == (True, "host")


@pytest.mark.parametrize(
    ("name", "proof"),
    [
        ("other", VECTORS[5]),
        ("host", VECTORS[5][:-2] + "00"),
        ("host", VECTORS[5][:-2]),
        ("host", VECTORS[6]),
    ],
)
def test_any_other_is_not(name: str, proof: str) -> None:
    chap = exchange()
    chap.receive({"CHAP_A": "5"})
    with pytest.raises(ChapFailure):
        chap.receive({"CHAP_N": name, "CHAP_R": "0x" + proof})
    assert not chap.authenticated


def test_a_challenge_is_good_for_one_answer() -> None:
    chap = exchange()
    chap.receive({"CHAP_A": "5"})
    with pytest.raises(ChapFailure):
        chap.receive({"CHAP_N": "host", "CHAP_R": "0x00"})
    with pytest.raises(ChapFailure):
        chap.receive({"CHAP_N": "host", "CHAP_R": "0x" + VECTORS[5]})


def test_no_algorithm_in_common() -> None:
    with pytest.raises(ChapFailure):
        exchange(algorithms=(7,)).receive({"CHAP_A": "5,6"})


@pytest.mark.parametrize("keys", [{}, {"CHAP_N": "host", "CHAP_R": "0x00"}, {"CHAP_R": "0x00"}])
def test_steps_have_an_order(keys: dict[str, str]) -> None:
    with pytest.raises(ChapFailure):
        exchange().receive(keys)


def mutual(chap: ChapExchange, challenge: bytes = b"theirs") -> list[tuple[str, str]]:
    chap.receive({"CHAP_A": "5"})
    return chap.receive(
        {
            "CHAP_N": "host",
            "CHAP_R": "0x" + VECTORS[5],
            "CHAP_I": "7",
            "CHAP_C": encode_hex(challenge),
        }
    )


def test_mutual() -> None:
    chap = exchange(mutual_user="target", mutual_secret=b"the other secret", encoding="base64")
    assert mutual(chap) == [
        ("CHAP_N", "target"),
        ("CHAP_R", encode_base64(response(5, 7, b"the other secret", b"theirs"))),
    ]


def test_mutual_lies() -> None:
    honest = response(5, 7, b"the other secret", b"theirs")
    wrong = mutual(exchange(mutual_secret=b"the other secret", wrong_mutual_response=True))
    assert wrong[1][1] == encode_hex(honest[:-1] + bytes((honest[-1] ^ 1,)))
    reflected = mutual(exchange(mutual_secret=b"the other secret", reflect_challenge=True))
    assert reflected[1][1] == encode_hex(response(5, 7, SECRET, b"theirs"))


def test_our_own_challenge_is_not_answered() -> None:
    with pytest.raises(ChapFailure):
        mutual(exchange(mutual_secret=b"the other secret"), challenge=CHALLENGE)


def test_an_account_without_a_secret_of_its_own_proves_nothing() -> None:
    with pytest.raises(ChapFailure):
        mutual(exchange())


def test_secrets_are_not_shown() -> None:
    assert "secret-96" not in repr(TargetChap(user="u", secret=SECRET, mutual_secret=SECRET))
