# SPDX-License-Identifier: Apache-2.0
"""CHAP as the target proves itself, and what keeps it from being worthless (RFC 7143 9.2)."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Portal, Secret
from pyscsi_init.errors import (
    AuthenticationFailed,
    ConfigurationError,
    IscsiError,
    ProtocolError,
    SecretError,
    TargetAuthenticationFailed,
)
from pyscsi_init.pdu import LoginRequest, TextRequest
from pyscsi_init.testing.scripted import ScriptedConnection, ScriptedTarget
from tests.conformance.chap_target import (
    CHALLENGE,
    HASHES,
    SECRET,
    TARGET_SECRET,
    VECTORS,
    authenticate,
    binary,
    credentials,
    honest,
    proof,
    step,
)
from tests.conformance.logging_in import (
    INITIATOR,
    QUIET,
    Outcome,
    answer,
    back,
    outcome_of,
    pairs_of,
    rounds,
    said,
)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]


async def proving(
    change: Callable[[LoginRequest], str], *, good: bool = False, transit: bool = True, **chap: Any
) -> Outcome:
    """A mutual login in which the target's proof is what ``change`` makes of the request; the
    initiator must close the connection, unless it is ``good``."""

    async def play(target: ScriptedTarget) -> None:
        peer = await target.accept()
        await answer(peer, "AuthMethod=CHAP")
        await answer(peer, step())
        request = await peer.expect(LoginRequest)
        pairs = pairs_of(change(request))
        await peer.send(peer.login_answer(request, pairs, transit=transit))
        if good:
            await peer.log_in()
        else:
            await peer.expect_end()

    return await outcome_of(play, chap=credentials(mutual=True, **chap))


def damaged(request: LoginRequest, change: Any) -> str:
    """A right proof, then changed."""
    name, _, text = proof(request).partition(" CHAP_R=")
    return f"{name} CHAP_R=0x{change(bytearray(binary(text))).hex()}"


def one_bit(response: bytearray) -> bytes:
    response[7] ^= 0x10
    return bytes(response)


@pytest.mark.conformance("SEC-012")
@pytest.mark.parametrize("algorithm", sorted(HASHES))
async def test_a_target_that_proves_itself(algorithm: int) -> None:
    chap = credentials(mutual=True, algorithms=(algorithm,))
    outcome = await outcome_of(honest(mutual=True, algorithm=algorithm), chap=chap)
    assert outcome.error is None


@pytest.mark.conformance("SEC-012")
@pytest.mark.parametrize("transit", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda request: damaged(request, one_bit),
        lambda request: damaged(request, lambda response: response[:15]),
        lambda request: damaged(request, lambda response: response + b"\0"),
        lambda request: "",
    ],
    ids=["one bit", "15 bytes", "17 bytes", "nothing"],
)
async def test_a_target_that_does_not(change: Any, transit: bool) -> None:
    outcome = await proving(change, transit=transit)
    assert isinstance(outcome.failure, TargetAuthenticationFailed)
    assert len(outcome.requests) == 3


@pytest.mark.conformance("SEC-013")
@pytest.mark.quirk("Q-23")
async def test_the_name_of_the_target() -> None:
    outcome = await proving(lambda request: proof(request, user="tim"))
    assert isinstance(outcome.failure, TargetAuthenticationFailed)
    for name in ("t", "t" * 255, ""):
        for expected in {"", name}:
            outcome = await proving(
                functools.partial(proof, user=name), good=True, mutual_user=expected
            )
            assert outcome.error is None


@pytest.mark.conformance("SEC-013")
@pytest.mark.parametrize("user", ["", "j", "j" * 255, "iqn.2001-04.com.example:other"])
async def test_our_own_name(user: str) -> None:
    outcome = await outcome_of(honest(user=user), chap=credentials(user=user))
    assert outcome.error is None
    assert outcome.keys(2)["CHAP_N"] == user


@pytest.mark.conformance("SEC-014")
async def test_a_proof_with_our_own_secret() -> None:
    outcome = await proving(lambda request: proof(request, SECRET))
    assert isinstance(outcome.failure, TargetAuthenticationFailed)
    assert "our own secret" in str(outcome.failure)


@pytest.mark.conformance("SEC-015")
async def test_challenges_are_fresh() -> None:
    challenges: set[bytes] = set()
    async with ScriptedTarget().running() as target:
        for number in range(100):
            async with anyio.create_task_group() as tasks:

                async def play() -> None:
                    peer = await target.accept()
                    keys = said(await authenticate(peer, mutual=True))
                    challenges.add(binary(keys["CHAP_C"]))
                    assert int(keys["CHAP_I"], 0) != 0x2A
                    await peer.log_in()
                    await peer.log_out()

                tasks.start_soon(play)
                async with pyscsi_init.open_session(
                    [target.portal],
                    target.name,
                    chap=credentials(mutual=True),
                    settings=QUIET,
                    initiator_name=INITIATOR,
                    connector=target.connect,
                ):
                    pass
            assert len(challenges) == number + 1
    assert CHALLENGE not in challenges
    assert {len(challenge) for challenge in challenges} == {16}


async def two_logins(target: ScriptedTarget, tasks: anyio.abc.TaskGroup) -> list[Exception]:
    """Two mutual logins at once; their errors, in order of coming."""
    errors: list[Exception] = []

    async def log_in() -> None:
        try:
            async with pyscsi_init.open_session(
                [target.portal],
                target.name,
                chap=credentials(mutual=True),
                settings=QUIET,
                initiator_name=INITIATOR,
                connector=target.connect,
            ):
                pass
        except IscsiError as error:
            errors.append(error)

    tasks.start_soon(log_in)
    tasks.start_soon(log_in)
    return errors


async def to_challenge(peer: ScriptedConnection, challenge: bytes) -> LoginRequest:
    """Play up to our proof, which is given and not answered."""
    await answer(peer, "AuthMethod=CHAP")
    await answer(peer, step(challenge=challenge))
    return await peer.expect(LoginRequest)


@pytest.mark.conformance("SEC-015")
async def test_two_logins_at_once_have_two_challenges() -> None:
    async with ScriptedTarget().running() as target, anyio.create_task_group() as tasks:
        await two_logins(target, tasks)
        peers = [await target.accept() for _ in range(2)]
        requests = [await to_challenge(peer, CHALLENGE) for peer in peers]
        first, second = (said(request) for request in requests)
        assert first["CHAP_C"] != second["CHAP_C"]
        for peer, request in zip(peers, requests, strict=True):
            await peer.send(peer.login_answer(request, pairs_of(proof(request))))
            await peer.log_in()
            tasks.start_soon(peer.log_out)


@pytest.mark.conformance("SEC-016")
async def test_a_challenge_of_ours_that_comes_back_on_another_connection() -> None:
    async with ScriptedTarget().running() as target, anyio.create_task_group() as tasks:
        errors = await two_logins(target, tasks)
        first, second = await target.accept(), await target.accept()
        pending = await to_challenge(first, CHALLENGE)
        await answer(second, "AuthMethod=CHAP")
        await answer(second, step(challenge=binary(said(pending)["CHAP_C"])))
        await second.expect_end()
        assert not any(
            "CHAP_R" in said(request)
            for request in target.recorder.sent(LoginRequest, connection=second.number)
        )
        await first.send(first.login_answer(pending, pairs_of(proof(pending))))
        await first.log_in()
        tasks.start_soon(first.log_out)
    (error,) = errors
    assert isinstance(error, ProtocolError)
    assert "reflects" in str(error)


@pytest.mark.conformance("SEC-017")
@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"secret": Secret("x" * 11)}, SecretError),
        ({"mutual_secret": Secret("x" * 11)}, SecretError),
        ({"mutual_secret": Secret(SECRET)}, SecretError),
        ({"secret": Secret("")}, SecretError),
        ({"user": "j" * 256}, ConfigurationError),
    ],
)
async def test_what_is_not_even_tried(
    changes: dict[str, Any], error: type[ConfigurationError]
) -> None:
    async def play(target: ScriptedTarget) -> None:
        await target.accept(within=1)

    outcome = await outcome_of(play, chap=credentials(mutual=True, **changes))
    assert isinstance(outcome.failure, error)
    assert outcome.requests == []


@pytest.mark.conformance("SEC-017")
async def test_short_secrets_by_an_explicit_word() -> None:
    chap = credentials(secret=Secret("short"), allow_short_secret=True)
    assert (await outcome_of(honest(secret="short"), chap=chap)).error is None


@pytest.mark.conformance("SEC-018")
async def test_every_connection_authenticates() -> None:
    async def play(target: ScriptedTarget) -> None:
        for challenge in (CHALLENGE, b"another challenge"):
            peer = await target.accept()
            await authenticate(peer, challenge=challenge, mutual=True)
            await peer.log_in()

    async def use(session: pyscsi_init.Session, peer: ScriptedConnection) -> None:
        peer.rst()
        await back(session)

    outcome = await outcome_of(play, use=use, chap=credentials(mutual=True))
    assert outcome.error is None
    assert len(outcome.target.connections) == 2


@pytest.mark.conformance("SEC-018")
async def test_discovery_has_credentials_of_its_own() -> None:
    async with ScriptedTarget().running() as target, anyio.create_task_group() as tasks:

        async def play() -> None:
            peer = await target.accept()
            await authenticate(peer, user="finder", secret="finder-secret-1")
            await peer.log_in()
            request = await peer.expect(TextRequest)
            await peer.send(peer.text(request, [("TargetName", target.name)]))
            await peer.log_out()
            peer = await target.accept()
            await authenticate(peer)
            await peer.log_in()
            await peer.log_out()

        tasks.start_soon(play)
        finder = credentials(user="finder", secret=Secret("finder-secret-1"))
        how: dict[str, Any] = {"initiator_name": INITIATOR, "connector": target.connect}
        found = await pyscsi_init.discover(target.portal, chap=finder, settings=QUIET, **how)
        assert [each.name for each in found] == [target.name]
        async with pyscsi_init.open_session(
            [target.portal], target.name, chap=credentials(), settings=QUIET, **how
        ):
            pass


@pytest.mark.conformance("SEC-019")
@pytest.mark.parametrize("mutual", [False, True])
async def test_nothing_secret_is_told(mutual: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    status = {"status_class": 2, "status_detail": 1}
    play = rounds("AuthMethod=CHAP", step(), ("", status), honest=False)
    outcome = await outcome_of(play, chap=credentials(mutual=mutual, algorithms=(5,)))
    error = outcome.failure
    assert isinstance(error, AuthenticationFailed)
    assert len(outcome.target.connections) == 1
    hidden = [SECRET, TARGET_SECRET, VECTORS[5], CHALLENGE.hex()]
    hidden += [outcome.keys(2).get("CHAP_C", VECTORS[5])[2:]]
    assert outcome.keys(2)["CHAP_R"] == "0x" + VECTORS[5]
    chain: list[BaseException] = [error]
    while (below := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(below)
    printed = [caplog.text, *(f"{each} {each!r} {vars(each)}" for each in chain)]
    for text in printed:
        for secret in hidden:
            assert secret not in text


@pytest.mark.conformance("SEC-020")
@pytest.mark.conformance("LOGIN-022")
@pytest.mark.parametrize("mutual", [False, True])
async def test_a_redirection_after_authentication(mutual: bool) -> None:
    """The other portal authenticates anew, with a challenge of its own."""

    async def play(target: ScriptedTarget) -> None:
        here = await target.accept()
        await authenticate(here, mutual=mutual)
        moved = b"TargetAddress=127.0.0.9:3999\0"
        await answer(here, moved, status_class=1, status_detail=1, transit=False)
        there = await target.accept()
        assert (there.portal.host, there.portal.port) == ("127.0.0.9", 3999)
        await authenticate(there, challenge=b"a challenge of its own", mutual=mutual)
        await there.log_in()

    outcome = await outcome_of(play, chap=credentials(mutual=mutual), portals=[Portal("10.0.0.1")])
    assert outcome.error is None
    firsts = [request for request in outcome.requests if "InitiatorName" in said(request)]
    assert len(firsts) == 2
    assert said(firsts[0]) == said(firsts[1])
    assert bytes(firsts[0].isid) == bytes(firsts[1].isid)
    assert firsts[1].tsih == 0
