# SPDX-License-Identifier: Apache-2.0
"""SendTargets discovery (RFC 7143 4.3, appendix C): which targets a portal knows, and where they
are.

A discovery session of its own, with credentials of its own, in which nothing is sent but the one
text request and the logout. Names are kept as the target wrote them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace

import anyio

from ..errors import InvalidUrl, LocalProtocolError, ProtocolError
from ..names import Portal
from ..secret import Chap
from ..session import TextTask
from ..settings import Settings
from ..transport import Connector, Session, open_session
from .targets import DiscoveredTarget

log = logging.getLogger("pyscsi_init.discovery")

WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104  (nothing is bound: targets report these)


def parse_send_targets(
    pairs: Iterable[tuple[str, str]], connected: Portal
) -> list[DiscoveredTarget]:
    """The records of a SendTargets answer.

    A record without an address is at the portal that was asked (RFC 7143 appendix C); so is one
    whose address is a wildcard, which some targets report. Addresses that cannot be read are
    skipped, because one bad address must not hide the good ones.

    Raises:
        ProtocolError: an address comes before the first name.
    """
    targets: dict[str, list[Portal]] = {}
    aliases: dict[str, str] = {}
    name: str | None = None
    for key, value in pairs:
        if key == "TargetName":
            name = value
            targets.setdefault(name, [])
        elif key == "TargetAddress":
            if name is None:
                raise ProtocolError("SendTargets answer with a TargetAddress before any TargetName")
            try:
                portal = Portal.parse(value)
            except InvalidUrl as error:
                log.info("target %s has an address that cannot be read: %s", name, error)
                continue
            if portal.host in WILDCARDS:
                portal = Portal(connected.host, portal.port, portal.tag)
            if portal not in targets[name]:
                targets[name].append(portal)
        elif key == "TargetAlias" and name is not None:
            aliases[name] = value
        else:
            log.info("SendTargets answer with the unexpected key %s: skipped", key)
    return [
        DiscoveredTarget(name, tuple(portals) or (connected,), aliases.get(name, ""))
        for name, portals in targets.items()
    ]


async def send_targets(session: Session, what: str | None = None) -> list[tuple[str, str]]:
    """The raw pairs of a SendTargets request on an open session.

    By default ``All`` in a discovery session, and this target alone in a normal one.

    Raises:
        LocalProtocolError: RFC 7143 Appendix C does not allow this in such a session.
        ConnectionLost, TaskError, ProtocolError: there is no answer, or a broken one.
    """
    discovery = session.target_name is None
    if what is None:
        what = "All" if discovery else ""
    if not discovery and what not in ("", session.target_name):
        raise LocalProtocolError(
            f"SendTargets={what} in a session with {session.target_name}: other targets are for "
            "a discovery session"
        )
    if discovery and not what:
        raise LocalProtocolError("SendTargets without a value in a discovery session: say All")
    done = anyio.Event()
    task = TextTask(
        [("SendTargets", what)], lambda _: done.set(), timeout=session.settings.login_timeout
    )
    session.request_text(task)
    await done.wait()
    if task.error is not None:
        raise task.error
    return task.pairs


async def discover(
    portal: Portal | str,
    *,
    chap: Chap | None = None,
    settings: Settings | None = None,
    initiator_name: str | None = None,
    connector: Connector | None = None,
) -> list[DiscoveredTarget]:
    """Ask a portal for its targets.

    Args:
        portal: ``host``, ``host:port`` or ``[v6]:port``, or a Portal.
        chap: the credentials of discovery, which may differ from those of the targets.
        settings: as for a session; digests are not offered whatever it says, because there is no
            data to protect and arrays exist that break on them here.

    Raises:
        InvalidUrl: the portal cannot be read.
        ConnectError, LoginError, ProtocolError: as :func:`pyscsi_init.open_session`.

    Cancellation: the session is logged out, or its connection closed.
    """
    if isinstance(portal, str):
        portal = Portal.parse(portal)
    without_digests = replace(
        settings or Settings(), header_digest=("None",), data_digest=("None",)
    )
    async with open_session(
        [portal],
        None,
        chap=chap,
        settings=without_digests,
        initiator_name=initiator_name,
        connector=connector,
    ) as session:
        pairs = await send_targets(session)
        return parse_send_targets(pairs, session.portal or portal)
