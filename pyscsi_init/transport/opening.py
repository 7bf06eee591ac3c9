# SPDX-License-Identifier: Apache-2.0
"""Open a session: reactor, machine, first login, and the task that keeps it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence

import anyio
import anyio.to_thread

from ..errors import LocalProtocolError, LoginTimeout
from ..names import Portal, check_iscsi_name, make_isid
from ..secret import Chap
from ..session import SessionMachine
from ..settings import Settings
from .initiator_name import host_initiator_name
from .login import LoginPlan, log_in
from .loops import open_reactor
from .reactor import Reactor
from .recovery import Keeper
from .session import Session
from .sockets import Connector, connector_of
from .trace import open_trace

OPEN_TIMEOUT = 30.0
"""A first login that takes longer fails: the caller is there and waits for an answer."""


@contextlib.asynccontextmanager
async def open_session(
    portals: Sequence[Portal],
    target_name: str | None,
    *,
    chap: Chap | None = None,
    settings: Settings | None = None,
    initiator_name: str | None = None,
    isid: bytes | None = None,
    reactor: Reactor | None = None,
    open_timeout: float = OPEN_TIMEOUT,
    connector: Connector | None = None,
) -> AsyncIterator[Session]:
    """Log in and give the session; log out when the block ends.

    ``target_name`` None opens a discovery session (RFC 7143 4.3). ``portals`` are tried in order.
    Without ``isid`` a random one is used, so that this session never ends another one of this host
    (RFC 7143 6.3.5). ``reactor`` is for callers that drive other descriptors with it. ``connector``
    makes the connections, where they are not plain TCP ones in the network that ``settings`` name
    (see :data:`Connector`).

    Raises:
        ConnectError: no portal took a TCP connection.
        LoginError: no portal let us in; the subclass and the text say why.
        ConfigurationError: ``settings.trace`` names a file that cannot be written, or
            ``settings.network_namespace`` one that may not be entered.
        ProtocolError: what answers is no iSCSI target, or a broken one.
        TypeError: an argument is of another kind.

    Cancellation: the connection is closed; a session that was logged in already is logged out.
    """
    _check_kinds(portals, chap, settings)
    settings = settings or Settings()
    connector = connector_of(settings, connector)
    async with contextlib.AsyncExitStack() as stack:
        if reactor is None:
            reactor = await stack.enter_async_context(open_reactor())
        if initiator_name is None:
            initiator_name = await anyio.to_thread.run_sync(host_initiator_name)
        machine = SessionMachine(
            settings,
            initiator_name=check_iscsi_name(initiator_name),
            target_name=target_name,
            isid=isid or make_isid(secrets.token_bytes(3), secrets.randbelow(65536)),
            random_bytes=secrets.token_bytes,
            chap=chap,
            discovery=target_name is None,
        )
        session = Session(reactor, machine, settings, connector)
        what = f"session of {initiator_name} with {target_name or 'discovery'}"
        session.trace = await stack.enter_async_context(open_trace(settings, what))
        plan = LoginPlan(portals, chap)
        stack.push_async_callback(session.log_out)
        # Before the login: the connection may die as soon as it is up, and who would notice?
        keeper = Keeper(session, plan)
        stack.callback(keeper.stop)
        with anyio.move_on_after(open_timeout) as scope:
            await log_in(session, plan)
        if scope.cancelled_caught:
            raise LoginTimeout(
                f"no login within {open_timeout:g} s at {', '.join(map(str, portals))}"
            )
        reactor.spawn(keeper.run)
        yield session


def _check_kinds(portals: object, chap: object, settings: object) -> None:
    """What would be found out in the middle of a login otherwise."""
    if not isinstance(portals, Sequence) or not all(isinstance(each, Portal) for each in portals):
        raise TypeError(f"portals: {portals!r} is no list of Portal; Portal.parse(text) makes one")
    if not portals:
        raise LocalProtocolError("no portal to log in at: the list of portals is empty")
    if chap is not None and not isinstance(chap, Chap):
        raise TypeError(f"chap: {type(chap).__name__} is no Chap; write Chap(user=..., secret=...)")
    if settings is not None and not isinstance(settings, Settings):
        raise TypeError(
            f"settings: {type(settings).__name__} is no Settings; settings_from_mapping(values) "
            "makes them of a dictionary"
        )
