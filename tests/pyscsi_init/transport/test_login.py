# SPDX-License-Identifier: Apache-2.0
"""Which portal comes next: the plan as a table, and the loop that follows it."""

from __future__ import annotations

from typing import cast

import pytest

from pyscsi_init import Chap, Secret
from pyscsi_init.errors import (
    AuthenticationFailed,
    AuthorizationFailed,
    ConnectError,
    IscsiError,
    LocalProtocolError,
    LoginError,
    LoginRedirected,
    LoginRejected,
    LoginTimeout,
    NegotiationFailed,
    ProtocolError,
    TargetAuthenticationFailed,
    TargetNotFound,
    TargetUnavailable,
)
from pyscsi_init.login import Parameters
from pyscsi_init.names import Portal
from pyscsi_init.transport.login import MAX_REDIRECTS, LoginPlan, Step, combined, log_in
from pyscsi_init.transport.session import LoginOutcome, Session, SessionStatistics

A, B, C = Portal("10.0.0.1"), Portal("10.0.0.2"), Portal("10.0.0.3")
CHAP = Chap(user="u", secret=Secret("secret-secret-1"))
MD5_CHAP = Chap(user="u", secret=Secret("secret-secret-1"), algorithms=(5,))


def rejected(
    status_class: int, detail: int, kind: type[LoginRejected] = LoginRejected
) -> IscsiError:
    return kind("no", status_class=status_class, status_detail=detail)


def moved(*addresses: str, permanent: bool = False) -> LoginRedirected:
    return LoginRedirected("moved", addresses=addresses, permanent=permanent)


REFUSED = rejected(2, 1, AuthenticationFailed)


@pytest.mark.parametrize(
    ("error", "chap", "algorithm", "step"),
    [
        (ConnectError("refused"), None, None, Step.NEXT_PORTAL),
        (LoginTimeout("slow"), None, None, Step.NEXT_PORTAL),
        (LoginError("ended"), None, None, Step.NEXT_PORTAL),
        (rejected(3, 1, TargetUnavailable), None, None, Step.NEXT_PORTAL),
        (rejected(2, 3, TargetNotFound), None, None, Step.NEXT_PORTAL),
        (rejected(2, 2, AuthorizationFailed), None, None, Step.NEXT_PORTAL),
        (NegotiationFailed("no", key="X", value="y"), None, None, Step.NEXT_PORTAL),
        (ProtocolError("garbage"), None, None, Step.NEXT_PORTAL),
        (LocalProtocolError("closed"), None, None, Step.GIVE_UP),
        (TargetAuthenticationFailed("impostor"), CHAP, 7, Step.GIVE_UP),
        (REFUSED, None, None, Step.GIVE_UP),
        (REFUSED, CHAP, 7, Step.AGAIN_WITH_MD5),
        (REFUSED, CHAP, None, Step.AGAIN_WITH_MD5),
        (REFUSED, CHAP, 5, Step.GIVE_UP),
        (REFUSED, MD5_CHAP, 5, Step.GIVE_UP),
        (REFUSED, MD5_CHAP, None, Step.GIVE_UP),
        (rejected(2, 0), CHAP, 7, Step.AGAIN_WITH_MD5),
        (rejected(2, 0), CHAP, None, Step.NEXT_PORTAL),
        (rejected(2, 0), CHAP, 5, Step.NEXT_PORTAL),
        (moved("10.0.0.9:3261"), None, None, Step.FOLLOW),
        (moved("not an address", "10.0.0.9"), None, None, Step.FOLLOW),
        (moved(), None, None, Step.NEXT_PORTAL),
        (moved("not an address"), None, None, Step.NEXT_PORTAL),
    ],
)
def test_what_follows_from_a_failure(
    error: IscsiError, chap: Chap | None, algorithm: int | None, step: Step
) -> None:
    assert LoginPlan([A, B], chap).next_step(A, error, algorithm) is step


class Attempts:
    """Plays the sessions's part: what each portal says, in the order it is asked."""

    def __init__(self, *script: tuple[Portal, IscsiError | None, int | None]) -> None:
        self.script = list(script)
        self.asked: list[Portal] = []
        self.chaps: list[Chap | None] = []
        self.statistics = SessionStatistics()
        self.parameters = Parameters()

    async def log_in_at(self, portal: Portal, chap: Chap | None) -> LoginOutcome:
        self.asked.append(portal)
        self.chaps.append(chap)
        expected, error, algorithm = self.script.pop(0)
        assert portal == expected
        return LoginOutcome(error, algorithm)


async def run(attempts: Attempts, plan: LoginPlan) -> None:
    await log_in(cast("Session", attempts), plan)
    assert not attempts.script


DOWN = ConnectError("down", portal="p", reason="r")


@pytest.mark.anyio
async def test_portals_are_tried_in_order() -> None:
    attempts = Attempts((A, DOWN, None), (B, LoginTimeout("slow"), None), (C, None, None))
    await run(attempts, LoginPlan([A, B, C], None))
    assert attempts.statistics.login_failures == 2


@pytest.mark.anyio
async def test_all_of_them_fail() -> None:
    attempts = Attempts((A, DOWN, None), (B, rejected(3, 1, TargetUnavailable), None))
    with pytest.raises(TargetUnavailable, match="no portal of 2 let us in: down; no"):
        await run(attempts, LoginPlan([A, B], None))


@pytest.mark.anyio
@pytest.mark.parametrize("permanent", [False, True])
async def test_a_redirect_is_followed(permanent: bool) -> None:
    """RFC 7143 11.13.5: 0101 for this once, 0102 for good."""
    plan = LoginPlan([A, B], None)
    attempts = Attempts((A, moved("10.0.0.3:3260,1", permanent=permanent), None), (C, None, None))
    attempts.script[1] = (Portal("10.0.0.3", 3260, 1), None, None)
    await run(attempts, plan)
    first = plan.portals[0]
    assert (first.host == "10.0.0.3") is permanent
    assert plan.portals[1] == B


@pytest.mark.anyio
async def test_a_chain_of_permanent_redirects() -> None:
    plan = LoginPlan([A], None)
    await run(
        Attempts(
            (A, moved("10.0.0.2", permanent=True), None),
            (B, moved("10.0.0.3", permanent=True), None),
            (C, None, None),
        ),
        plan,
    )
    assert plan.portals == [C]


@pytest.mark.anyio
async def test_a_loop_of_redirects_ends_and_the_next_portal_is_tried() -> None:
    circle = [(A, moved("10.0.0.2"), None), (B, moved("10.0.0.1"), None)]
    plan = LoginPlan([A, C], None)
    attempts = Attempts(*(circle * 4)[: MAX_REDIRECTS + 1], (C, None, None))
    await run(attempts, plan)


@pytest.mark.anyio
async def test_each_login_may_be_redirected_anew() -> None:
    plan = LoginPlan([A], None)
    for _ in range(MAX_REDIRECTS + 2):
        await run(Attempts((A, moved("10.0.0.2"), None), (B, None, None)), plan)


@pytest.mark.anyio
async def test_md5_is_tried_once_and_remembered() -> None:
    plan = LoginPlan([A], CHAP)
    attempts = Attempts((A, REFUSED, 7), (A, None, 5))
    await run(attempts, plan)
    chaps = [chap for chap in attempts.chaps if chap is not None]
    assert [chap.algorithms for chap in chaps] == [CHAP.algorithms, (5,)]
    again = Attempts((A, REFUSED, 5))
    with pytest.raises(AuthenticationFailed):
        await run(again, plan)
    assert again.chaps[0] is not None
    assert again.chaps[0].algorithms == (5,)


@pytest.mark.anyio
async def test_a_wrong_secret_is_not_tried_everywhere() -> None:
    attempts = Attempts((A, REFUSED, 5))
    with pytest.raises(AuthenticationFailed):
        await run(attempts, LoginPlan([A, B], MD5_CHAP))


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ([DOWN], ConnectError),
        ([DOWN, DOWN], ConnectError),
        ([DOWN, ProtocolError("ssh")], ProtocolError),
        ([ProtocolError("ssh"), LoginTimeout("slow")], LoginTimeout),
    ],
)
def test_the_most_telling_error_gives_its_class(
    errors: list[IscsiError], kind: type[IscsiError]
) -> None:
    error = combined(errors)
    assert type(error) is kind
    for each in {str(each) for each in errors}:
        assert each.split(":")[-1].strip() in str(error)
