# SPDX-License-Identifier: Apache-2.0
"""Logins against a scripted target: what it says round by round, and how the attempt ended.

Everything that a test of a login needs is one call of :func:`outcome_of`. It gives the library the
scripted target's connections, so a virtual clock can drive both ends, and afterwards holds against
every login that all connections were closed by the initiator with nothing more sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio

import pyscsi_init
from pyscsi_init import Portal, Session, Settings
from pyscsi_init.errors import IscsiError
from pyscsi_init.login import Parameters
from pyscsi_init.login.text import Pair, decode_pairs
from pyscsi_init.pdu import LoginRequest
from pyscsi_init.testing.scripted import ScriptedConnection, ScriptedTarget

INITIATOR = "iqn.2026-11.example.host:one"
QUIET = Settings(noop_interval=0)
READ = bytes.fromhex("28000000000000000100") + bytes(6)
WRITE = bytes.fromhex("2a000000000000002000") + bytes(6)
NO_AUTH = "TargetPortalGroupTag=1 AuthMethod=None"
STAY: dict[str, Any] = {"transit": False}
"""The fields of a response that does not leave the stage."""
SECURITY_KEYS = {"AuthMethod", "CHAP_A", "CHAP_I", "CHAP_C", "CHAP_N", "CHAP_R"}

Text = str | bytes | Sequence[Pair] | None
"""``"Key=value Key=value"``, bytes as they stand, pairs, or None for honest answers."""

Play = Callable[[ScriptedTarget], Coroutine[Any, Any, Any]]
Use = Callable[[Session, ScriptedConnection], Awaitable[object]]


def pairs_of(text: str) -> list[Pair]:
    """The pairs of ``"Key=value Key=value"``."""
    return [(name, value) for name, _, value in (each.partition("=") for each in text.split())]


def said(request: LoginRequest) -> dict[str, str]:
    """What a request says."""
    return dict(decode_pairs(bytes(request.data)))


async def answer(peer: ScriptedConnection, text: Text = None, **fields: Any) -> LoginRequest:
    """Answer the next Login Request, and give it: where it wants to go, unless told otherwise."""
    request = await peer.expect(LoginRequest)
    if isinstance(text, bytes):
        fields["data"] = text
        text = ()
    pairs = pairs_of(text) if isinstance(text, str) else text
    await peer.send(peer.login_answer(request, None if pairs is None else list(pairs), **fields))
    return request


async def answer_for_ever(peer: ScriptedConnection, text: Text = "", **fields: Any) -> None:
    """The same answer until the initiator has enough of it."""
    while not peer.ended:
        try:
            await answer(peer, text, **fields)
        except AssertionError:
            if not peer.ended:
                raise


async def back(session: Session, losses: int = 1) -> None:
    """Return when the session has been lost so often, and is there again."""
    while session.statistics.recoveries < losses or session.recovering:  # noqa: ASYNC110
        await anyio.sleep(0.05)


def rounds(*answers: Text | tuple[Text, dict[str, Any]], honest: bool = True) -> Play:
    """A target that says these texts (or texts with fields of the response), and is honest after
    them; without ``honest`` it then waits for the end."""

    async def play(target: ScriptedTarget) -> None:
        peer = await target.accept()
        for each in answers:
            text, fields = each if isinstance(each, tuple) else (each, {})
            await answer(peer, text, **fields)
        if honest and not peer.full_feature:
            await peer.log_in()
        elif not honest:
            await peer.expect_end()

    return play


def operational(text: Text, **fields: Any) -> Play:
    """A target that has no authentication, and answers our offers with exactly this."""

    async def play(target: ScriptedTarget) -> None:
        peer = await target.accept()
        await answer(peer, NO_AUTH)
        await answer(peer, text, **fields)

    return play


@dataclass(slots=True)
class Outcome:
    """How a login ended."""

    target: ScriptedTarget
    error: IscsiError | None = None
    parameters: Parameters | None = None
    tsih: int = 0
    requests: list[LoginRequest] = field(default_factory=list)
    """All Login Requests of all connections."""

    @property
    def in_force(self) -> Parameters:
        """What was negotiated; there must have been no error."""
        assert self.parameters is not None, self.error
        return self.parameters

    @property
    def failure(self) -> IscsiError:
        """The error; there must have been one."""
        assert self.error is not None, "the login was let through"
        return self.error

    def keys(self, number: int) -> dict[str, str]:
        """What a request says."""
        return said(self.requests[number])


async def outcome_of(
    play: Play,
    *,
    use: Use | None = None,
    allowed: Iterable[str] = (),
    discovery: bool = False,
    portals: Sequence[Portal] = (),
    **how: Any,
) -> Outcome:
    """Log in to a target that plays ``play``; then ``use`` the session, and log out."""
    how.setdefault("settings", QUIET)
    how.setdefault("initiator_name", INITIATOR)
    async with ScriptedTarget(allowed=allowed).running() as target:
        outcome = Outcome(target)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(play, target)
            name = None if discovery else target.name
            try:
                async with pyscsi_init.open_session(
                    portals or [target.portal], name, connector=target.connect, **how
                ) as session:
                    outcome.parameters = session.parameters
                    outcome.tsih = session.tsih
                    if use is not None:
                        await use(session, target.connections[-1])
                    tasks.start_soon(target.connections[-1].log_out)
            except IscsiError as error:
                outcome.error = error
                tasks.cancel_scope.cancel()
        for connection in target.connections:
            await connection.expect_end()
        outcome.requests = target.recorder.sent(LoginRequest)
        return outcome


@asynccontextmanager
async def session_of(
    target: ScriptedTarget, peers: list[ScriptedConnection] | None = None, **how: Any
) -> AsyncIterator[Session]:
    """A session with an honest target, which also answers the logout of its last connection."""
    how.setdefault("settings", QUIET)
    how.setdefault("initiator_name", INITIATOR)
    async with anyio.create_task_group() as tasks:

        async def log_in() -> None:
            peer = await target.log_in()
            if peers is not None:
                peers.append(peer)

        tasks.start_soon(log_in)
        async with pyscsi_init.open_session(
            [target.portal], target.name, connector=target.connect, **how
        ) as session:
            yield session
            tasks.start_soon(target.connections[-1].log_out)
