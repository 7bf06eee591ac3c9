# SPDX-License-Identifier: Apache-2.0
"""Logins at a target that is strict, moved, silent, or an impostor."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator

import anyio
import pytest

import pyscsi_init
from pyscsi_init import Chap, LogicalUnit, Secret, Settings, discover, open_lun
from pyscsi_init.errors import (
    AuthenticationFailed,
    AuthorizationFailed,
    ConnectError,
    IscsiError,
    LoginRedirected,
    LoginRejected,
    LoginTimeout,
    TargetAuthenticationFailed,
    TargetNotFound,
    TargetRemoved,
    TargetUnavailable,
)
from pyscsi_init.testing import (
    Listener,
    RamDisk,
    Target,
    TargetChap,
    TargetServer,
)
from tests.support.python_target import (
    INITIATOR,
    MEBI,
    PATIENCE,
    WAIT,
    make_target,
    opened,
    until,
    url_of,
)

pytestmark = pytest.mark.anyio

MD5, SHA1, SHA256, SHA3_256 = 5, 6, 7, 8
USER, SECRET = "initiator", "initiator-secret-1"
TARGET_USER, TARGET_SECRET = "target", "target-secret-234"


async def round_trip(lun: LogicalUnit, length: int = 40_001, offset: int = 12_345) -> None:
    data = os.urandom(length)
    with anyio.fail_after(PATIENCE):
        await lun.write(offset, data)
        await lun.flush()
        assert await lun.read(offset, length) == data


def account(*algorithms: int, encoding: str = "hex") -> TargetChap:
    return TargetChap(
        user=USER,
        secret=SECRET.encode(),
        mutual_user=TARGET_USER,
        mutual_secret=TARGET_SECRET.encode(),
        algorithms=algorithms or (MD5, SHA1, SHA256, SHA3_256),
        encoding=encoding,
    )


def credentials(*, mutual: bool, secret: str = SECRET, target_secret: str = TARGET_SECRET) -> Chap:
    return Chap(
        user=USER,
        secret=Secret(secret),
        mutual_user=TARGET_USER if mutual else "",
        mutual_secret=Secret(target_secret) if mutual else None,
    )


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ((2, 0), LoginRejected),
        ((2, 1), AuthenticationFailed),
        ((2, 2), AuthorizationFailed),
        ((2, 3), TargetNotFound),
        ((2, 4), TargetRemoved),
        ((2, 0x0B), LoginRejected),
        ((3, 0), TargetUnavailable),
        ((3, 1), TargetUnavailable),
        ((3, 2), TargetUnavailable),
        ((3, 0x7F), TargetUnavailable),
        ((9, 9), IscsiError),
    ],
)
async def test_a_refused_first_login_is_told_at_once(
    status: tuple[int, int], error: type[IscsiError]
) -> None:
    target = make_target()
    target.faults.refuse_logins = [status] * 3
    with pytest.raises(error) as caught:
        async with opened(target):
            pass
    if isinstance(caught.value, LoginRejected):
        assert (caught.value.status_class, caught.value.status_detail) == status
    assert target.sessions == []


async def test_another_portal_is_tried_when_one_refuses() -> None:
    target = make_target()
    target.faults.refuse_logins = [(3, 1)]
    server = TargetServer([target], portals=[Listener(), Listener(tag=2)])
    async with server.running():
        portals = ",".join(portal.address for portal in server.portals)
        async with open_lun(url_of(portals), initiator_name=INITIATOR) as lun:
            assert lun.session.portal is not None
            assert lun.session.portal.port == server.portals[1].port
            await round_trip(lun)


@pytest.mark.parametrize("silent", [True, False], ids=["silent", "closed"])
async def test_a_portal_without_an_answer(silent: bool) -> None:
    server = TargetServer([make_target()], portals=[Listener(silent=True)])
    settings = Settings(login_timeout=0.2, connect_timeout=1)
    async with server.running() as portal:
        if not silent:
            server.stop_listening()
        error = LoginTimeout if silent else ConnectError
        with anyio.fail_after(PATIENCE), pytest.raises(error):
            async with open_lun(
                url_of(portal.address), settings=settings, initiator_name=INITIATOR
            ):
                pass


async def test_a_cancelled_login_leaves_nothing() -> None:
    server = TargetServer([make_target()], portals=[Listener(silent=True)])
    async with server.running() as portal:

        async def log_in() -> None:
            async with open_lun(url_of(portal.address), initiator_name=INITIATOR):
                raise AssertionError("nobody answered")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(log_in)
            await until(lambda: server.connections)
            tasks.cancel_scope.cancel()
        assert len(server.connections) == 1
        server.listeners[0].silent = False


# -- redirects ----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def two_portals(chap: TargetChap | None = None) -> AsyncIterator[tuple[Target, TargetServer]]:
    """One target, seen on two portals; logins at the first are sent to the second."""
    target = make_target(chap=chap)
    server = TargetServer([target], portals=[Listener(), Listener(tag=2)])
    async with server.running():
        yield target, server


@pytest.mark.parametrize("permanent", [False, True])
async def test_a_redirect_is_followed_and_only_a_permanent_one_remembered(permanent: bool) -> None:
    async with two_portals() as (target, server):
        first, second = server.portals
        target.redirect_to(second.address, permanent=permanent, portal_group_tag=1)
        async with open_lun(url_of(first.address), settings=WAIT, initiator_name=INITIATOR) as lun:
            assert lun.session.portal is not None
            assert lun.session.portal.port == second.port
            await round_trip(lun)
            # It moves back. Who was sent away for good does not ask at the old address.
            target.redirects.clear()
            target.drop_connections()
            await round_trip(lun)
            assert lun.session.portal.port == (second if permanent else first).port


async def test_a_redirect_repeats_the_authentication() -> None:
    async with two_portals(account()) as (target, server):
        first, second = server.portals
        target.redirect_to(second.address, portal_group_tag=1)
        url = url_of(first.address)
        chap = credentials(mutual=True)
        async with open_lun(url, chap=chap, initiator_name=INITIATOR) as lun:
            await round_trip(lun)
        with pytest.raises(AuthenticationFailed):
            async with open_lun(
                url,
                chap=credentials(mutual=False, secret="wrong-secret-00"),
                initiator_name=INITIATOR,
            ):
                pass


async def test_redirects_in_a_circle_end() -> None:
    async with two_portals() as (target, server):
        first, second = server.portals
        target.redirect_to(second.address, portal_group_tag=1)
        target.redirect_to(first.address, permanent=True, portal_group_tag=2)
        with anyio.fail_after(PATIENCE), pytest.raises(LoginRedirected):
            async with open_lun(url_of(first.address), initiator_name=INITIATOR):
                pass
        assert server.counters.connections <= 12


async def test_a_redirect_to_nowhere_is_an_error() -> None:
    async with two_portals() as (target, server):
        target.redirect_to("127.0.0.1:1")
        with pytest.raises(ConnectError, match=r"127\.0\.0\.1:1"):
            async with open_lun(url_of(server.portals[0].address), initiator_name=INITIATOR):
                pass


async def test_a_redirected_recovery() -> None:
    """The volume moves while it is in use: logout request, redirect, and the data is there."""
    async with two_portals() as (target, server):
        first, second = server.portals
        async with open_lun(url_of(first.address), settings=WAIT, initiator_name=INITIATOR) as lun:
            await lun.write(5, b"before")
            target.redirect_to(second.address, portal_group_tag=1)
            target.sessions[0].async_message(1, parameters=(0, 0, 1))
            await until(lambda: lun.session.statistics.recoveries)
            assert lun.session.portal is not None
            assert lun.session.portal.port == second.port
            assert await lun.read(5, 6) == b"before"
            await round_trip(lun)


# -- CHAP ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["hex", "base64"])
@pytest.mark.parametrize("mutual", [False, True])
@pytest.mark.parametrize("algorithm", [MD5, SHA1, SHA256, SHA3_256])
async def test_chap(algorithm: int, mutual: bool, encoding: str) -> None:
    target = make_target(chap=account(algorithm, encoding=encoding))
    async with opened(target, chap=credentials(mutual=mutual)) as lun:
        await round_trip(lun)
        target.drop_connections()
        await round_trip(lun)
        assert lun.session.statistics.login_failures == 0


@pytest.mark.parametrize("algorithm", [MD5, SHA1, SHA256, SHA3_256])
async def test_an_impostor_is_found(algorithm: int) -> None:
    """A target that does not know its secret, or proves with ours: no session, no command."""
    target = make_target(chap=account(algorithm))
    wrong = "another-secret-99"
    with pytest.raises(TargetAuthenticationFailed) as caught:
        async with opened(target, chap=credentials(mutual=True, target_secret=wrong)):
            pass
    assert not any(secret in str(caught.value) for secret in (wrong, SECRET, TARGET_SECRET))
    for fault in ("wrong_mutual_response", "reflect_challenge"):
        impostor = TargetChap(
            user=USER,
            secret=SECRET.encode(),
            mutual_user=TARGET_USER,
            mutual_secret=TARGET_SECRET.encode(),
            algorithms=(algorithm,),
            **{fault: True},  # type: ignore[arg-type]
        )
        target = make_target(chap=impostor)
        with pytest.raises(TargetAuthenticationFailed):
            async with opened(target, chap=credentials(mutual=True)):
                pass
        assert not target.counters.commands


async def test_a_wrong_secret_or_none_is_refused() -> None:
    target = make_target(chap=account())
    for chap in (credentials(mutual=False, secret="wrong-secret-00"), None):
        with pytest.raises(AuthenticationFailed) as caught:
            async with opened(target, chap=chap):
                pass
        assert "wrong-secret-00" not in str(caught.value)
    assert not target.counters.commands


async def test_a_session_whose_account_is_taken_away_and_given_back() -> None:
    target = make_target(chap=account())
    async with opened(target, chap=credentials(mutual=False)) as lun:
        accounts, target.chap = target.chap, (TargetChap(user="other", secret=b"x" * 16),)
        target.drop_connections()
        await until(lambda: lun.session.statistics.login_failures)
        target.chap = accounts
        await round_trip(lun)


@pytest.mark.parametrize("mutual", [False, True])
async def test_discovery_with_chap(mutual: bool) -> None:
    """Discovery has credentials of its own, and a target is only named to who has them."""
    targets = [Target(f"iqn.2026-11.example:t{n}", luns={0: RamDisk(MEBI)}) for n in range(40)]
    server = TargetServer(
        targets, portals=[Listener(), Listener(tag=2)], discovery_chap=account(SHA256)
    )
    async with server.running() as portal:
        found = await discover(portal, chap=credentials(mutual=mutual), initiator_name=INITIATOR)
        assert {one.name for one in found} == {target.name for target in targets}
        assert all(len(one.portals) == 2 for one in found)
        for chap in (None, credentials(mutual=False, secret="wrong-secret-00")):
            with pytest.raises(AuthenticationFailed):
                await discover(portal, chap=chap, initiator_name=INITIATOR)
        async with pyscsi_init.open_session(
            found[0].portals, found[0].name, initiator_name=INITIATOR
        ) as session:
            assert len(await session.report_luns()) == 1
