# SPDX-License-Identifier: Apache-2.0
"""Redirections (RFC 7143 11.13.5, 13.8)."""

from __future__ import annotations

from typing import Any

import pytest

import pyscsi_init
from pyscsi_init import Portal
from pyscsi_init.errors import (
    LoginRedirected,
    ProtocolError,
)
from pyscsi_init.login.text import encode_pairs
from pyscsi_init.testing.scripted import ScriptedConnection, ScriptedTarget
from tests.conformance.logging_in import (
    Outcome,
    answer,
    back,
    outcome_of,
    rounds,
    said,
)

ELSEWHERE = Portal("127.0.0.9", 3999)

pytestmark = [pytest.mark.anyio, pytest.mark.virtual_clock]


async def redirected(data: bytes, detail: int = 1, **how: Any) -> tuple[Outcome, list[Portal]]:
    """The first portal answers with this; whatever portal comes next is honest."""

    async def play(target: ScriptedTarget) -> None:
        await answer(await target.accept(), data, status_class=1, status_detail=detail)
        await target.log_in()

    outcome = await outcome_of(play, **how)
    return outcome, [connection.portal for connection in outcome.target.connections]


@pytest.mark.conformance("LOGIN-022")
async def test_a_redirection_is_followed_with_a_whole_login() -> None:
    outcome, portals = await redirected(b"TargetAddress=127.0.0.9:3999\0")
    assert outcome.error is None
    assert (portals[1].host, portals[1].port) == ("127.0.0.9", 3999)
    first, second = outcome.requests[0], outcome.requests[1]
    assert (bytes(second.isid), second.tsih) == (bytes(first.isid), 0)
    assert said(second) == said(first)


@pytest.mark.conformance("LOGIN-022")
async def test_the_default_port() -> None:
    _, portals = await redirected(b"TargetAddress=127.0.0.9\0")
    assert portals[1] == Portal("127.0.0.9", 3260)


@pytest.mark.conformance("LOGIN-023")
@pytest.mark.parametrize("permanent", [False, True])
@pytest.mark.quirk("Q-06")
@pytest.mark.quirk("Q-23")
async def test_where_the_next_login_goes(permanent: bool) -> None:
    async def play(target: ScriptedTarget) -> None:
        moved = b"TargetAddress=127.0.0.9:3999\0"
        here = await target.accept()
        await answer(here, moved, status_class=1, status_detail=2 if permanent else 1)
        await target.log_in()
        await target.log_in()

    async def use(session: pyscsi_init.Session, peer: ScriptedConnection) -> None:
        peer.rst()
        await back(session)

    outcome = await outcome_of(play, use=use)
    portals = [connection.portal for connection in outcome.target.connections]
    here = outcome.target.portal
    assert portals == [here, ELSEWHERE, ELSEWHERE if permanent else here]


@pytest.mark.conformance("LOGIN-024")
@pytest.mark.parametrize(
    ("data", "detail", "portal"),
    [
        (b"TargetAddress=10.0.0.2:3261\0TargetAddress=10.0.0.3\0", 1, Portal("10.0.0.2", 3261)),
        (b"TargetAddress=[2001:db8::1]:3261\0", 1, Portal("2001:db8::1", 3261)),
        (b"TargetAddress=[2001:db8::1]\0", 1, Portal("2001:db8::1", 3260)),
        (b"TargetAddress=storage.example:3261\0", 1, Portal("storage.example", 3261)),
        (b"TargetAddress=10.0.0.2\0", 1, Portal("10.0.0.2", 3260)),
        (b"TargetAddress=10.0.0.2:3261,1\0", 1, Portal("10.0.0.2", 3261, 1)),
        (b"TargetAddress=10.0.0.2\0", 0, Portal("10.0.0.2", 3260)),
    ],
)
@pytest.mark.quirk("Q-25")
@pytest.mark.quirk("Q-26")
async def test_addresses_of_redirections(data: bytes, detail: int, portal: Portal) -> None:
    outcome, portals = await redirected(data, detail)
    assert outcome.error is None
    # An honest target's tag counts, whatever the address said.
    assert (portals[1].host, portals[1].port) == (portal.host, portal.port)


@pytest.mark.conformance("LOGIN-024")
async def test_a_redirection_to_nowhere() -> None:
    outcome = await outcome_of(rounds((b"", {"status_class": 1, "status_detail": 1}), honest=False))
    assert isinstance(outcome.failure, ProtocolError)


@pytest.mark.conformance("LOGIN-024")
async def test_redirections_in_a_circle() -> None:
    async def play(target: ScriptedTarget) -> None:
        while True:
            peer = await target.accept(within=1000)
            address = target.portal if peer.portal == ELSEWHERE else ELSEWHERE
            data = encode_pairs([("TargetAddress", str(address))])
            await answer(peer, data, status_class=1, status_detail=1)

    outcome = await outcome_of(play)
    assert isinstance(outcome.failure, LoginRedirected)
    portals = [connection.portal for connection in outcome.target.connections]
    assert 2 < len(portals) < 12
    assert portals[:3] == [outcome.target.portal, ELSEWHERE, outcome.target.portal]
