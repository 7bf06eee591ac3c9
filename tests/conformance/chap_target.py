# SPDX-License-Identifier: Apache-2.0
"""The target's half of CHAP, honest or not, made of hashlib alone (RFC 1994, RFC 7143 12.1.3)."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from pyscsi_init import Chap, Secret
from pyscsi_init.pdu import LoginRequest
from pyscsi_init.testing.scripted import ScriptedConnection, ScriptedTarget
from tests.conformance.logging_in import Play, answer, said

USER, SECRET = "joe", "secret-96-bits-min"
TARGET_USER, TARGET_SECRET = "tom", "another-96-bits-min"
CHALLENGE = bytes(range(16))
IDENTIFIER = 0x2A
HASHES = {5: "md5", 6: "sha1", 7: "sha256", 8: "sha3_256"}
VECTORS = {
    5: "715edccb98dc92e85418ce7a64ea47db",
    6: "f2b48f5dd70cda72de2d1998f9757e3aa4761f64",
    7: "499922afbddfd8bce138637b9c073f91275a0214a3bfd0833cb46808d2356bd0",
    8: "49aa50e6c19a74f4e3213cc88ff95b224885b13ea77642c24af3b7959b6c5175",
}
"""The response to CHALLENGE with IDENTIFIER and SECRET, by algorithm."""


def credentials(*, mutual: bool = False, **changes: Any) -> Chap:
    """What the initiator is given."""
    values: dict[str, Any] = {"user": USER, "secret": Secret(SECRET)}
    if mutual:
        values |= {"mutual_secret": Secret(TARGET_SECRET), "mutual_user": TARGET_USER}
    return Chap(**(values | changes))


def response_of(algorithm: int, identifier: int, secret: str | bytes, challenge: bytes) -> bytes:
    """The hash of RFC 1994 4.1."""
    key = secret.encode() if isinstance(secret, str) else secret
    return hashlib.new(HASHES[algorithm], bytes((identifier,)) + key + challenge).digest()


def binary(text: str) -> bytes:
    """The bytes of a hex- or base64-constant."""
    if text[:2] in ("0b", "0B"):
        return base64.b64decode(text[2:], validate=True)
    assert text[:2] in ("0x", "0X")
    digits = text[2:]
    return bytes.fromhex(digits if len(digits) % 2 == 0 else "0" + digits)


def step(
    algorithm: int | str = 5, identifier: int | str = IDENTIFIER, challenge: bytes | str = CHALLENGE
) -> str:
    """The keys by which a target asks for a proof."""
    text = challenge if isinstance(challenge, str) else f"0x{challenge.hex()}"
    return f"CHAP_A={algorithm} CHAP_I={identifier} CHAP_C={text}"


def proof(
    request: LoginRequest, secret: str = TARGET_SECRET, *, algorithm: int = 5, user: str = "tom"
) -> str:
    """The keys by which a target proves itself, to the challenge in the request."""
    keys = said(request)
    response = response_of(algorithm, int(keys["CHAP_I"], 0), secret, binary(keys["CHAP_C"]))
    return f"CHAP_N={user} CHAP_R=0x{response.hex()}"


def until_proof(text: str, **fields: Any) -> Play:
    """A target that accepts CHAP, asks with this step, and then waits for the end."""

    async def play(target: ScriptedTarget) -> None:
        peer = await target.accept()
        await answer(peer, "AuthMethod=CHAP TargetPortalGroupTag=1")
        await answer(peer, text, **fields)
        await peer.expect_end()

    return play


async def authenticate(
    peer: ScriptedConnection,
    *,
    algorithm: int = 5,
    challenge: bytes = CHALLENGE,
    secret: str | bytes = SECRET,
    user: str = USER,
    mutual: bool = False,
) -> LoginRequest:
    """An honest target: asks, verifies, proves itself if asked, and gives the request with
    CHAP_R."""
    await answer(peer, "AuthMethod=CHAP TargetPortalGroupTag=1")
    await answer(peer, step(algorithm, challenge=challenge))
    request = await peer.expect(LoginRequest)
    keys = said(request)
    expected = response_of(algorithm, IDENTIFIER, secret, challenge)
    assert keys["CHAP_N"] == user
    assert binary(keys["CHAP_R"]) == expected
    assert set(keys) == {"CHAP_N", "CHAP_R"} | ({"CHAP_I", "CHAP_C"} if mutual else set())
    pairs = [
        (name, value)
        for name, _, value in (
            each.partition("=")
            for each in (proof(request, algorithm=algorithm).split() if mutual else [])
        )
    ]
    await peer.send(peer.login_answer(request, pairs))
    return request


def honest(**how: Any) -> Play:
    """A target that authenticates the next connection, and is honest after that."""

    async def play(target: ScriptedTarget) -> None:
        peer = await target.accept()
        await authenticate(peer, **how)
        await peer.log_in()

    return play
